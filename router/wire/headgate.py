"""The `headgate` object: what an answer says about itself, in every dialect."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from adapters.types import Citation, JsonObject


class Headgate(Struct, frozen=True, omit_defaults=False):
    """What Headgate did with the request; stands in every answer."""

    backend: str
    model: str
    rule: str
    reasons: tuple[str, ...]
    policy_version: int
    cost_usd: float
    decision_id: str
    citations: tuple[Citation, ...] = ()
    moderation: JsonObject = {}
    decision: JsonObject | None = None
    history: JsonObject | None = None
    cascade: JsonObject | None = None
    ensemble: JsonObject | None = None


def with_headgate(body: bytes, headgate: Headgate) -> bytes:
    """An error's body, a JSON object in whatever dialect, with what was done and spent for it."""
    return body[:-1] + b',"headgate":' + msgspec.json.encode(headgate) + b"}"
