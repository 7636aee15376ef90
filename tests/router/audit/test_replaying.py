"""The decision log, read back as records."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, get_type_hints

import hypothesis
import pytest
from hypothesis import strategies as st

from adapters.types import Capabilities, Usage
from config.database import Database, open_database
from policies.decision import BackendState, Decision, State
from policies.features import Features
from policies.replaying import limited, passed_over
from router.audit.recording import EMBEDDED, BackendNow, Note, Recorder, StateNow
from router.audit.replaying import Chosen, count, records
from router.kept.sealing import Sealer
from tests.conftest import migrated_sqlite

SECRET = b"a secret of the tests, long enough"
STATE = State(backends={"mini": BackendState(capabilities=Capabilities(tools=True), upper_cost_usd=0.1 + 0.2)}, remaining_usd=1 / 3, seed="s")
DECISION = Decision(
    outcome="ok", candidates=("mini",), rule=None, reasons=("default",), excluded=(), features=Features(tenant="acme"), policy_version="x", seed="s"
)


def note(number: int, **fields: Any) -> Note:
    usual: dict[str, Any] = {
        "request_id": f"{number:032}",
        "tenant": "acme",
        "key_id": "key",
        "user": "",
        "created_at": 1_000.0 + number,
        "policy_version": 1,
        "dialect": "openai.chat",
        "data_class": "internal",
        "outcome": "ok",
        "error": None,
        "backend": "mini",
        "input_hash": "",
        "decision": DECISION,
        "state": STATE,
        "citations": (),
        "moderation": {},
    }
    return Note(**{**usual, **fields})


def write(database: Database, *notes: Note) -> None:
    async def work() -> None:
        recorder = Recorder(database, SECRET, Sealer(SECRET), 30, lambda _: None)
        for each in notes:
            recorder.put(each)
        await recorder.flush()

    asyncio.run(work())


def ids(database: Database, **chosen: Any) -> list[int]:
    return database.read_blocking(lambda connection: [int(record.request_id) for record in records(connection, **chosen)])


@pytest.fixture
def database(tmp_path: Path) -> Any:
    path = tmp_path / "headgate.db"
    path.write_bytes(migrated_sqlite())
    database = open_database(f"sqlite:///{path}")
    yield database
    database.close()


def test_every_field_of_the_state_is_recorded_or_stands_elsewhere() -> None:
    """Whoever adds one to what a decision is made from records it, or a replayed decision would be another one."""
    assert set(BackendNow.__struct_fields__) == set(BackendState.__struct_fields__) - {"capabilities"}
    assert set(StateNow.__struct_fields__) == set(State.__struct_fields__) - {"seed"} | {"capabilities"}
    assert get_type_hints(StateNow)["capabilities"] is str


USD = st.floats(0, 1e6, allow_nan=False)


@hypothesis.given(
    backends=st.dictionaries(
        st.text(max_size=5),
        st.builds(
            BackendState,
            capabilities=st.builds(Capabilities, tools=st.booleans(), context_window=st.none() | st.integers(1, 10**7)),
            ready=st.booleans(),
            reason=st.text(max_size=9),
            upper_cost_usd=USD,
            least_cost_usd=st.none() | USD,
            input_tokens=st.none() | st.integers(0, 10**7),
        ),
        max_size=4,
    ),
    remaining=st.none() | st.floats(-1, 1e6, allow_nan=False),
    allowed=st.none() | st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
def test_a_state_comes_back_bit_for_bit(backends: dict[str, BackendState], remaining: float | None, allowed: tuple[str, ...] | None) -> None:
    import msgspec

    state = State(backends=backends, remaining_usd=remaining, allowed_models=allowed, seed="s")
    recorder = Recorder.__new__(Recorder)
    recorder._known, recorder._new = ((), (), ""), {}
    now = msgspec.json.decode(msgspec.json.encode(recorder._state(state)), type=StateNow)
    able = msgspec.json.decode(next(iter(recorder._new.values()), "{}"), type=dict[str, Capabilities])
    assert now.state("s", able) == state


def test_records_come_oldest_first_in_pages_and_as_they_are_chosen(database: Database) -> None:
    write(database, *(note(number, tenant=("acme", "globex")[number % 2], policy_version=1 + number // 700) for number in range(1_300)))
    assert ids(database) == list(range(1_300))
    assert ids(database, limit=3) == [1_297, 1_298, 1_299], "of more than the limit, the newest"
    assert ids(database, limit=5_000) == list(range(1_300))
    assert ids(database, since=1_010.0, until=1_013.0) == [10, 11, 12]
    assert ids(database, tenant="globex", since=2_296.0) == [1_297, 1_299]
    assert ids(database, policy_version=2, limit=2) == [1_298, 1_299]
    assert ids(database, tenant="nobody") == []
    assert database.read_blocking(lambda connection: count(connection, Chosen(tenant="acme"))) == 650
    assert database.read_blocking(lambda connection: count(connection, Chosen(limit=10))) == 10


def test_records_of_one_moment_are_all_read_once(database: Database) -> None:
    write(database, *(note(number, created_at=5.0) for number in range(1_100)))
    assert ids(database) == list(range(1_100))
    assert ids(database, limit=700) == list(range(400, 1_100))


def test_what_was_never_decided_is_left_out_and_what_is_not_readable_any_more(database: Database) -> None:
    write(database, note(1), note(2, decision=None, state=None, backend=""), note(3))
    assert ids(database) == [1, 3]
    database.write_blocking(lambda connection: connection.exec_driver_sql("DELETE FROM decision_capabilities") and None)
    assert ids(database) == []


def test_a_record_says_what_came_of_the_request(database: Database) -> None:
    usage = Usage(input_tokens=10**30, output_tokens=7, cache_read_input_tokens=3, cache_creation_input_tokens=2)
    about = {"policy_hash": "h" * 64, "model": "a\0model" * 100, "attempts": 2, "usage": usage, "cost": 5, "latency_ms": 12.5, "first_ms": 2.25}
    write(database, note(1, **about, embedding=b"\x00\x3c", error="timeout", outcome="error", moderation={"email": 2}))
    [record] = database.read_blocking(lambda connection: list(records(connection)))
    assert (record.decision, record.features, record.state) == (DECISION, DECISION.features, STATE)
    assert (record.policy_hash, record.attempts, record.cost, record.latency_ms, record.first_ms) == ("h" * 64, 2, 5, 12.5, 2.25)
    assert (record.input_tokens, record.output_tokens, record.cache_read_input_tokens, record.cache_creation_input_tokens) == (10**12, 7, 3, 2)
    assert (record.embedding, record.error, record.outcome, record.moderation) == (b"\x00\x3c", "timeout", "error", {"email": 2})
    assert record.model.startswith("amodel")
    assert len(record.model) == 200
    assert record.score is None


def test_no_embedding_of_sensitive_data_is_recorded() -> None:
    assert {"public", "internal"} == EMBEDDED


@pytest.mark.parametrize("names", [(), ("b",), ("a", "c")])
def test_candidates_that_were_passed_over_for_their_limits_can_be_told_from_the_decision(names: tuple[str, ...]) -> None:
    import msgspec

    decision = msgspec.structs.replace(DECISION, candidates=("a", "b", "c"), reasons=("default", "excluded:d:budget"))
    left = passed_over(decision, names)
    assert limited(left) == names
    assert left.candidates == tuple(name for name in ("a", "b", "c") if name not in names)
    assert (passed_over(decision, limited(left))) == left
