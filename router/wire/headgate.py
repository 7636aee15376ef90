"""The `headgate` object: what an answer says about itself, in every dialect."""

from __future__ import annotations

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
