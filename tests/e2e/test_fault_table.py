"""Every fault of the published table, in every dialect, streamed and whole, with another backend to go to and without.

The table in docs/faults.md is made by this test: `WRITE_DOCS=1 python -m pytest tests/e2e/test_fault_table.py` writes it anew.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import ROOT
from tests.dialects import BROKEN, FINISHED, PATHS, Seen, ask, body
from tests.e2e.fault_table import FAULTS, TEXTS, UNANSWERED, Fault, gone, upstream
from tests.e2e.money_books import settled_books
from tests.fakes.provider import FakeProvider, Hang, Reply
from tests.fakes.wire import Answer, openai_steps
from tests.serving import Service, serving

CLOSED_WITHIN_S = 30.0
"""Of the clock of a busy machine; an idle one takes a hundredth of it. Nothing that waits here is over before 10 s."""
SPARE = "The second one answers."
PAGE = ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- the table: made by tests/e2e/test_fault_table.py -->\n", "<!-- the end of the table -->\n"

POLICY = """
version: 1
backends:
  first:
    kind: openai
    model: gpt
    base_url: "{url}/v1"
    price: {{input: 3.0, output: 15.0}}
    max_output_tokens: 50
    connect_s: {connect_s}
    first_event_s: {first_event_s}
    timeout_s: {timeout_s}
    retry: {{attempts: 2, first_s: 0.01}}
    breaker: {{failures: 1000}}
  spare: {{kind: scripted, text: "{spare}", price: {{input: 1.0, output: 4.0}}}}
rules:
  - {{name: with-a-spare, when: {{model: spared}}, use: [first, spare]}}
  - {{name: alone, when: {{model: lonely}}, use: [first]}}
default: spare
fallback: []
"""

ROWS: dict[str, str] = {}
"""The table's rows, as the tests before found them."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_is_answered_by_the_next_backend_or_by_a_typed_error(tmp_path: Path, fault: Fault) -> None:
    cells = [(dialect, stream, spared) for dialect in PATHS for stream in (True, False) for spared in (True, False)]
    # A backend that asks for a pause gets it: what is tried there next must find a service that has not heard of it.
    together = [cells] if fault.retry_after is None else [[cell] for cell in cells]
    async with upstream(fault) as (url, provider), asyncio.timeout(120):
        for number, some in enumerate(together):
            async with serving(POLICY.format(url=url, spare=SPARE, **_patience(fault)), tmp_path / str(number)) as service:
                for cell in some:
                    await _try(service, provider, fault, *cell)
    ROWS[fault.name] = _row(fault)


def _patience(fault: Fault | None = None) -> dict[str, float]:
    """Short only for what the fault lets wait, so that nothing else is late on a slow machine."""
    waits = {UNANSWERED: "connect_s", "stall before the first event": "first_event_s", "stall in the middle": "timeout_s"}
    return {name: 0.2 if fault is not None and waits.get(fault.name) == name else 20.0 for name in ("connect_s", "first_event_s", "timeout_s")}


async def _try(service: Service, provider: FakeProvider | None, fault: Fault, dialect: str, stream: bool, spared: bool) -> None:
    seen = await ask(service.url, service.key, dialect, stream=stream, model="spared" if spared else "lonely")
    _check_seen(fault, dialect, stream, spared, seen)
    if provider is not None:
        assert await gone(provider, CLOSED_WITHIN_S), (dialect, stream, spared)
        provider.exchanges.clear()
    await _check_books(service, fault, stream, spared, seen)


def _check_seen(fault: Fault, dialect: str, stream: bool, spared: bool, seen: Seen) -> None:
    where = (dialect, stream, spared, seen)
    if stream and fault.late:  # what was delivered cannot be taken back, and is never said twice
        assert (seen.status, seen.text, seen.codes, seen.terminals) == (200, "".join(TEXTS), [fault.code], BROKEN[dialect]), where
    elif spared:
        assert (seen.status, seen.text, seen.codes) == (200, SPARE, []), where
        assert seen.terminals == (FINISHED[dialect] if stream else []), where
    else:
        assert (seen.status, seen.text, seen.codes, seen.terminals) == (fault.status, "", [fault.code], []), where
        assert seen.headers.get("retry-after") == fault.retry_after, where


async def _check_books(service: Service, fault: Fault, stream: bool, spared: bool, seen: Seen) -> None:
    books = await settled_books(service.database)
    rows = [row for row in books.ledger if row["request_id"] == seen.headers["x-request-id"]]
    committed = stream and fault.late
    tries = 2 if fault.retried and not committed else 1
    outcome = "timeout" if fault.code == "backend_timeout" else "error"
    expected = [("first", outcome, fault.code)] * tries + ([("spare", "ok", None)] if spared and not committed else [])
    assert [(row["backend"], row["outcome"], row["error"]) for row in rows] == expected, (stream, spared, seen)
    for row in rows[:tries]:
        assert (row["cost"] == 0) == fault.free
        assert row["cost"] <= row["reserved"]


def _row(fault: Fault) -> str:
    shown = f"{fault.status} `{fault.code}`" + (", with `Retry-After`" if fault.retry_after else "")
    late = f"error event `{fault.code}`" if fault.late else "as whole"
    outcome = "timeout" if fault.code == "backend_timeout" else "error"
    billed = "nothing" if fault.free else "estimate"
    return f"| {fault.name} | {'yes' if fault.retried else 'no'} | yes | {shown} | {late} | `{outcome}` `{fault.code}`, {billed} |"


LEAVING = {"client gone before the first event": [Hang()], "client gone in the middle": [*openai_steps(Answer(texts=TEXTS))[:4], Hang()]}


@pytest.mark.parametrize("name", LEAVING)
async def test_a_client_that_leaves_stops_the_upstream_and_is_booked_as_cancelled(tmp_path: Path, name: str) -> None:
    async with (
        FakeProvider(lambda _: Reply(LEAVING[name])) as provider,
        serving(POLICY.format(url=provider.url, spare=SPARE, **_patience()), tmp_path) as service,
    ):
        for number, (dialect, stream) in enumerate((dialect, stream) for dialect in PATHS for stream in (True, False)):
            policy_timeouts = asyncio.timeout(30)
            async with policy_timeouts:
                await _leave(service, provider, dialect, stream, number, late=name.endswith("middle"))
            books = await settled_books(service.database)
            assert len(books.ledger) == number + 1
            row = books.ledger[-1]
            assert (row["backend"], row["outcome"], row["usage_source"]) == ("first", "cancelled", "estimated")
            assert row["cost"] <= row["reserved"]
    ROWS[name] = f"| {name} | no | no | (nobody is there) | (nobody is there) | `cancelled`, estimate |"


async def _leave(service: Service, provider: FakeProvider, dialect: str, stream: bool, number: int, *, late: bool) -> None:
    """Ask, wait until the upstream works (and, of a stream, until text has come), and go."""
    payload = body(dialect, "Count.", stream=stream, model="spared")
    async with aiohttp.ClientSession(headers=service.bearer()) as session:
        asking = asyncio.ensure_future(session.post(service.url + PATHS[dialect], json=payload))
        exchange = await provider.exchange(number)
        if late and stream:
            response = await asking
            received = b""
            while TEXTS[-1].strip().encode() not in received:
                received += await response.content.readany()
            response.close()
        else:
            asking.cancel()
        left = asyncio.get_running_loop().time()
    async with asyncio.timeout_at(left + CLOSED_WITHIN_S):
        await exchange.gone.wait()


def test_the_published_table_says_what_was_seen() -> None:
    names = [*(fault.name for fault in FAULTS), *LEAVING]
    if set(ROWS) != set(names):
        pytest.skip("the table is compared when every fault was tried in the same run")
    head = "| fault of the upstream | tried again | next backend | alone: status and code | stream that had begun | ledger row |\n|---|---|---|---|---|---|\n"
    table = head + "".join(ROWS[name] + "\n" for name in names)
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(before + BEGIN + table + END + after)
    assert PAGE.read_text() == before + BEGIN + table + END + after
