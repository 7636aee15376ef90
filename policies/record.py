"""A logged request as replay, diff and backtest read it: what was decided, from what, and what came of it."""

from __future__ import annotations

from msgspec import Struct

from policies.decision import Decision, State
from policies.features import Features


class Record(Struct, frozen=True, kw_only=True):
    """One decided request with its outcome. Deciding again under `policy_version` from `features` and `state` gives `decision`, bit for bit.

    `embedding` is the question's, as float16 bytes; None where none was made, and always for confidential and restricted requests. `backend` and
    `model` are those that answered last, empty where nothing was called; tokens are that answer's, `cost` (picodollars) is that of all `attempts`.
    Times are milliseconds from the request's arrival: `first_ms` to the backend's first event, `latency_ms` to the end; None where there was none.
    `error` is the code with which the request failed. `score` is the mean of its feedback, from 0 (bad) to 1 (good).
    """

    request_id: str
    tenant: str
    created_at: float
    policy_version: int
    policy_hash: str
    dialect: str = "openai.chat"
    decision: Decision
    features: Features
    state: State
    embedding: bytes | None = None
    backend: str = ""
    model: str = ""
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cost: int = 0
    latency_ms: float | None = None
    first_ms: float | None = None
    outcome: str = "ok"
    error: str | None = None
    moderation: dict[str, int] = {}
    score: float | None = None
