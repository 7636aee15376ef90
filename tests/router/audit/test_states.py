from __future__ import annotations

import msgspec
from msgspec import NODEFAULT

from adapters.types import Capabilities
from policies.decision import BackendState, State
from router.audit.recording import StateNow, state_now

ABLE = Capabilities(streaming=True, tools=True)
BACKEND = BackendState(
    capabilities=ABLE,
    ready=False,
    reason="down",
    upper_cost_usd=0.25,
    least_cost_usd=0.125,
    input_tokens=7,
    cost_usd=0.1,
    latency_ms=120.0,
    queue_depth=3,
    wait_s=1.5,
)
STATE = State(
    backends={"mini": BACKEND},
    remaining_usd=1.5,
    allowed_models=("mini",),
    seed="7",
    now=1_700_000_000.125,
    budget_left=0.35,
    thresholds={"acme": 0.61},
    canaries={"try-it": "rolled_back"},
)


def test_a_state_is_read_back_as_it_was_recorded_every_field_of_it() -> None:
    for value in (STATE, BACKEND):
        for field in msgspec.structs.fields(type(value)):
            assert field.default is NODEFAULT or getattr(value, field.name) != field.default, f"{field.name}: give it a value of its own here"
    written = msgspec.json.encode(state_now(STATE, "the capabilities"))
    read = msgspec.json.decode(written, type=StateNow)
    assert read.state("7", {"mini": ABLE}) == STATE


def test_a_state_that_was_recorded_before_its_newer_fields_existed_is_still_read() -> None:
    old = msgspec.json.decode(b'{"backends": {"mini": {"upper_cost_usd": 0.5}}, "capabilities": "x"}', type=StateNow)
    assert old.state("", {"mini": ABLE}) == State(backends={"mini": BackendState(capabilities=ABLE, upper_cost_usd=0.5)})
