"""A failed attempt is made again where that may help: bounded, no earlier than asked, each one reserved and booked, and never after a delta."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.errors import ProviderFault
from router import policy_store
from tests.e2e.money_books import Books, check_sums, settled_books
from tests.e2e.money_crowd import whole, worker_pids
from tests.e2e.test_faults import Seen, ask
from tests.fakes.provider import Close, Cut, Exchange, FakeProvider, Gap, Hang, Mark, Reply, Wait
from tests.fakes.wire import STEPS, Answer, answering, failing, openai_steps
from tests.serving import Service, headgate, serving, until

TEXTS = ("One ", "two ", "three ")
WELL = answering("openai", Answer(texts=TEXTS))
BEGUN = openai_steps(Answer(texts=TEXTS))[: 1 + len(TEXTS)]
BASE = {"openai": "/v1", "anthropic": "", "gemini": ""}


def policy(url: str, keys: str = "", *, kind: str = "openai", fallback: str = "", more: str = "") -> str:
    return f"""
version: 1
backends:
  first: {{kind: {kind}, model: served, base_url: "{url}{BASE[kind]}", price: {{input: 3.0, output: 15.0}}, max_output_tokens: 50, {keys}}}
  spare: {{kind: scripted, text: "The second one answers.", price: {{input: 1.0, output: 4.0}}, max_output_tokens: 50}}
default: first
fallback: [{fallback}]
{more}
"""


def rows(books: Books) -> list[tuple[str, str, str | None]]:
    ordered = sorted(books.ledger, key=lambda row: row["attempt"])
    return [(row["backend"], row["outcome"], row["error"]) for row in ordered]


async def answered(tmp_path: Path, text: str, *, stream: bool = False) -> tuple[Seen, Books, float]:
    async with serving(text, tmp_path) as service, asyncio.timeout(60):
        began = time.perf_counter()
        seen = await ask(service.url, service.key, stream=stream)
        took = time.perf_counter() - began
        books = await settled_books(service.database)
    assert {budget["reserved"] for budget in books.budgets} == {0}
    return seen, books, took


RETRIED = {408: "backend_timeout", 429: "backend_rate_limited", 500: "provider_error", 503: "backend_overloaded", 529: "backend_overloaded"}
FINAL = (400, 401, 403, 404, 422)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("status", RETRIED)
async def test_a_status_that_may_pass_is_tried_again_and_each_attempt_is_booked(tmp_path: Path, status: int, stream: bool) -> None:
    async with FakeProvider([failing("openai", status, "x"), WELL]) as provider:
        seen, books, _ = await answered(tmp_path, policy(provider.url, "retry: {first_s: 0.01}"), stream=stream)
    assert (seen.status, seen.text, seen.codes) == (200, "".join(TEXTS), [])
    assert rows(books) == [("first", "error" if status != 408 else "timeout", RETRIED[status]), ("first", "ok", None)]
    assert [row["cost"] > 0 for row in sorted(books.ledger, key=lambda row: row["attempt"])] == [False, True]
    assert len(provider.exchanges) == 2


@pytest.mark.parametrize("status", FINAL)
async def test_a_status_that_will_not_pass_is_not_tried_again(tmp_path: Path, status: int) -> None:
    async with FakeProvider([failing("openai", status, "x"), WELL]) as provider:
        seen, books, _ = await answered(tmp_path, policy(provider.url, "retry: {attempts: 5, first_s: 0.01}"))
    assert seen.status != 200
    assert (len(provider.exchanges), len(books.ledger)) == (1, 1)


FAULTS: dict[str, Callable[[], Reply]] = {
    "cut at once": lambda: Reply([Cut()]),
    "cut before the first delta": lambda: Reply([BEGUN[0], Cut()]),
    "an orderly end before the first delta": lambda: Reply([BEGUN[0], Close()], framing="close"),
    "no event in time": lambda: Reply([Hang()]),
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", FAULTS)
async def test_a_connection_that_fails_before_the_first_delta_is_tried_again(tmp_path: Path, name: str, stream: bool) -> None:
    async with FakeProvider([FAULTS[name](), WELL]) as provider:
        seen, books, _ = await answered(tmp_path, policy(provider.url, "retry: {first_s: 0.01}, first_event_s: 0.2"), stream=stream)
    assert (seen.status, seen.text) == (200, "".join(TEXTS))
    assert [row[1] for row in rows(books)] == ["timeout" if name == "no event in time" else "error", "ok"]


async def test_after_the_first_delta_a_stream_is_never_repeated_and_a_whole_answer_is(tmp_path: Path) -> None:
    for stream in (True, False):
        async with FakeProvider([Reply([*BEGUN, Cut()]), WELL]) as provider:
            seen, books, _ = await answered(tmp_path / str(stream), policy(provider.url, "retry: {first_s: 0.01}"), stream=stream)
        assert seen.text == "".join(TEXTS)
        assert seen.codes == (["stream_broken"] if stream else [])
        assert [row[1] for row in rows(books)] == (["error"] if stream else ["error", "ok"])
        assert len(provider.exchanges) == len(books.ledger)


async def test_retry_after_is_waited_for_and_not_a_moment_less(tmp_path: Path) -> None:
    arrived: list[float] = []

    def script(_: Exchange) -> Reply:
        arrived.append(time.perf_counter())
        return failing("openai", 429, "rate_limit_exceeded", retry_after_ms="300") if len(arrived) == 1 else WELL

    async def served(exchange: Exchange) -> Reply:
        return script(exchange)

    async with FakeProvider(served) as provider:
        seen, _, _ = await answered(tmp_path, policy(provider.url, "retry: {first_s: 0.01}"))
    assert seen.status == 200
    assert arrived[1] - arrived[0] >= 0.3


async def test_a_wait_longer_than_the_bounds_goes_to_the_next_backend_or_to_the_client(tmp_path: Path) -> None:
    for fallback in ("spare", ""):
        async with FakeProvider(failing("openai", 429, "rate_limit_exceeded", retry_after="70")) as provider:
            seen, books, _ = await answered(tmp_path / f"to-{fallback}", policy(provider.url, "retry: {longest_s: 2}", fallback=fallback))
        assert len(provider.exchanges) == 1
        if fallback:
            assert (seen.text, [row[0] for row in rows(books)]) == ("The second one answers.", ["first", "spare"])
        else:
            assert (seen.status, seen.codes, seen.headers["retry-after"]) == (429, ["backend_rate_limited"], "70")


async def test_attempts_are_bounded_and_the_next_candidate_follows(tmp_path: Path) -> None:
    async with FakeProvider(failing("openai", 500, "x")) as provider:
        seen, books, _ = await answered(tmp_path, policy(provider.url, "retry: {attempts: 3, first_s: 0.01}", fallback="spare"))
    assert seen.text == "The second one answers."
    assert [row[:2] for row in rows(books)] == [("first", "error")] * 3 + [("spare", "ok")]
    assert [row["attempt"] for row in sorted(books.ledger, key=lambda row: row["attempt"])] == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", list(STEPS))
async def test_a_retry_repeats_the_request_with_the_same_idempotency_key(tmp_path: Path, kind: str) -> None:
    async with (
        FakeProvider([failing(kind, 500, "x"), answering(kind), answering(kind)]) as provider,
        serving(policy(provider.url, "retry: {first_s: 0.01}", kind=kind), tmp_path) as service,
    ):
        for _ in range(2):
            assert (await ask(service.url, service.key, stream=False)).status == 200
    first, second, other = provider.exchanges
    assert first.body == second.body
    keys = [exchange.headers.get("idempotency-key") for exchange in (first, second, other)]
    if kind == "gemini":
        assert keys == [None, None, None]
    else:
        assert keys[0] is not None
        assert keys[0] == keys[1] != keys[2]
    references = [exchange.headers.get("x-client-request-id", "") for exchange in (first, second, other)]
    if kind == "openai":  # by which it finds a call in its own records, as the ledger calls it
        assert [reference.partition("/")[2] for reference in references] == ["answer/1", "answer/2", "answer/1"]
        assert references[0].partition("/")[0] == references[1].partition("/")[0] != references[2].partition("/")[0]
    else:
        assert references == ["", "", ""]


async def test_a_client_that_leaves_while_a_retry_is_waited_for_stops_it(tmp_path: Path) -> None:
    async with FakeProvider(failing("openai", 429, "x", retry_after="3")) as provider:
        async with serving(policy(provider.url), tmp_path) as service:
            asking = asyncio.create_task(ask(service.url, service.key, stream=True))
            await provider.exchange()
            await until(lambda: service.gateway.policy.current.users == 1)
            asking.cancel()
            books = await settled_books(service.database)
        assert len(provider.exchanges) == 1
    assert rows(books) in ([("first", "error", "backend_rate_limited")], [("first", "cancelled", None)])
    assert {row["cost"] for row in books.ledger} == {0}


# --- times ---------------------------------------------------------------------------------------------------------------------------------


async def test_the_first_event_has_a_limit_of_its_own(tmp_path: Path) -> None:
    keys = "retry: {attempts: 1}, first_event_s: 1, timeout_s: 60"
    async with FakeProvider(Reply([Hang()])) as provider:
        seen, _, _ = await answered(tmp_path / "silent", policy(provider.url, keys))
    assert (seen.status, seen.codes) == (504, ["backend_timeout"])
    steps = openai_steps(Answer(texts=TEXTS))
    async with FakeProvider(Reply([steps[0], Gap(1.5), *steps[1:]])) as provider:
        seen, _, took = await answered(tmp_path / "slow", policy(provider.url, keys))
    assert (seen.status, seen.text) == (200, "".join(TEXTS)), "a pause after the first event is bounded by timeout_s"
    assert took > 1.5


async def test_total_s_ends_a_stream_that_flows(tmp_path: Path) -> None:
    steps = openai_steps(Answer(texts=TEXTS))
    slow = [step for text in [steps[1]] * 200 for step in (text, Gap(0.05))]
    async with FakeProvider(Reply([steps[0], *slow, *steps[2:]])) as provider:
        seen, books, took = await answered(tmp_path, policy(provider.url, "total_s: 2, timeout_s: 60"), stream=True)
    assert (seen.codes, seen.terminals) == (["backend_timeout"], ["error", "done"])
    assert 2 <= took < 10, "the answer goes on for ten seconds"
    assert rows(books) == [("first", "timeout", "backend_timeout")]


async def test_a_connection_that_does_not_come_about_is_given_up_after_connect_s(tmp_path: Path) -> None:
    """A listener whose queue is full: the kernel answers no further connection."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        seen, books, took = await answered(tmp_path, policy(f"http://127.0.0.1:{port}", "connect_s: 0.2, timeout_s: 60, retry: {attempts: 1}"))
    assert (seen.status, seen.codes) == (503, ["backend_unavailable"])
    assert took >= 0.2
    assert [row["cost"] for row in books.ledger] == [0]


# --- the circuit breaker ---------------------------------------------------------------------------------------------------------------------


async def get(service: Service, path: str, key: str) -> Any:
    async with aiohttp.ClientSession(headers=service.bearer(key)) as session, session.get(service.url + path) as response:
        assert response.status == 200
        return await response.json() if "json" in response.headers["content-type"] else await response.text()


async def circuit(service: Service) -> tuple[str, bool, str]:
    backends = await get(service, "/admin/backends", service.admin_key)
    (first,) = [backend for backend in backends["data"] if backend["name"] == "first"]
    return first["circuit"], first["health"]["ready"], first["health"]["reason"]


async def test_the_gauge_shows_the_circuits_of_the_policy_in_force_alone(tmp_path: Path) -> None:
    text = POLICY_OF_TWO
    async with serving(text, tmp_path) as service:
        holder = service.gateway.policy
        before = holder.acquire()
        failed = ProviderFault("x")

        async def put(text: str) -> None:
            await service.database.write(lambda connection: policy_store.import_file(connection, text))
            await holder.refresh()

        async def gauges() -> dict[str, str]:
            metrics = await get(service, "/metrics", service.admin_key)
            return dict(re.findall(r'headgate_circuit_state{backend="(.*?)"} (.*)', metrics))

        before.breakers["gone"].failed(before.breakers["gone"].admit(), failed)
        assert (await gauges())["gone"] == "2.0"
        await put(text.replace("open_s: 60", "open_s: 50").replace("gone:", "new:"))
        assert await gauges() == {"first": "0.0", "gone": "0.0", "new": "0.0", "extractive": "0.0"}
        # A request that began under the earlier policy fails only now.
        before.breakers["first"].failed(before.breakers["first"].admit(), failed)
        assert (await gauges())["first"] == "0.0"
        holder.release(before)


POLICY_OF_TWO = """
version: 1
backends:
  first: {kind: scripted, breaker: {failures: 1, open_s: 60}}
  gone: {kind: scripted, breaker: {failures: 1, open_s: 60}}
default: first
fallback: []
"""


async def test_a_backend_that_is_ill_is_left_alone_and_one_request_finds_it_well_again(tmp_path: Path) -> None:
    well = asyncio.Event()

    async def script(_: Exchange) -> Reply:
        return WELL if well.is_set() else failing("openai", 500, "x")

    keys = "retry: {attempts: 1}, breaker: {failures: 3, open_s: 0.5}"
    async with FakeProvider(script) as provider, serving(policy(provider.url, keys, fallback="spare"), tmp_path) as service:
        for _ in range(3):
            assert (await ask(service.url, service.key, stream=False)).text == "The second one answers."
        state, ready, reason = await circuit(service)
        assert (state, ready) == ("open", False)
        assert "circuit breaker is open" in reason
        assert 'headgate_circuit_state{backend="first"} 2.0' in await get(service, "/metrics", service.admin_key)
        (model,) = [model for model in (await get(service, "/v1/models", service.key))["data"] if model["id"] == "first"]
        assert "circuit breaker is open" in model["headgate"]["reason"]
        sent = len(provider.exchanges)
        assert (await ask(service.url, service.key, stream=False)).text == "The second one answers."
        assert len(provider.exchanges) == sent == 3, "it is routed around"
        books = await settled_books(service.database)
        assert [row["backend"] for row in books.ledger].count("first") == 3, "what was not called has no row"
        well.set()
        await until(lambda: service.gateway.policy.current.circuit("first") == "half_open")
        seen = await asyncio.gather(*(ask(service.url, service.key, stream=False) for _ in range(5)))
        assert {each.status for each in seen} == {200}
        assert (await ask(service.url, service.key, stream=True)).text == "".join(TEXTS)
        assert (await circuit(service))[0] == "closed"


async def test_a_pinned_backend_with_an_open_circuit_is_refused_at_once_with_the_time_to_come_back(tmp_path: Path) -> None:
    keys = "retry: {attempts: 1}, breaker: {failures: 1, open_s: 30}"
    async with FakeProvider(failing("openai", 500, "x")) as provider, serving(policy(provider.url, keys), tmp_path) as service:
        await ask(service.url, service.key, stream=False)
        seen = await ask(service.url, service.key, stream=False)
        assert (seen.status, seen.codes) == (503, ["no_permitted_backend"])
        assert 0 < int(seen.headers["retry-after"]) <= 30
        assert len(provider.exchanges) == 1


async def test_a_policy_edit_elsewhere_keeps_a_circuit_open(tmp_path: Path) -> None:
    keys = "retry: {attempts: 1}, breaker: {failures: 1, open_s: 30}"
    async with FakeProvider(failing("openai", 500, "x")) as provider:
        text = policy(provider.url, keys, fallback="spare")
        async with serving(text, tmp_path) as service:
            await ask(service.url, service.key, stream=False)
            before = service.gateway.policy.current
            await service.database.write(lambda connection: policy_store.add_version(connection, "# edited\n" + text, source="file", author="a"))
            await service.gateway.policy.refresh()
            assert service.gateway.policy.current is not before
            assert (await circuit(service))[0] == "open"


async def test_doctor_and_the_metrics_show_an_open_circuit_of_a_running_server(tmp_path: Path) -> None:
    home = tmp_path / "home"
    keys = "retry: {attempts: 1}, breaker: {failures: 1, open_s: 600}"
    async with FakeProvider(failing("openai", 500, "x")) as provider, whole(home, policy(provider.url, keys, fallback="spare"), {}) as serve:
        assert (await ask(serve.url, serve.keys["chat"], stream=False)).status == 200
        done = await asyncio.to_thread(headgate, home, "doctor", "--config", str(home / "policy.yaml"), "--json")
        found = {finding["subject"]: finding for finding in json.loads(done.stdout)}
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {serve.keys['admin']}"}) as session:
            metrics = await (await session.get(f"{serve.url}/metrics")).text()
    assert found["backend first"]["level"] == "note"
    assert "its circuit breaker is open in a worker" in found["backend first"]["message"]
    assert found["backend spare"]["message"].endswith("ready")
    assert 'headgate_circuit_state{backend="first"} 2.0' in metrics


# --- concurrency -----------------------------------------------------------------------------------------------------------------------------


class Crowded:
    """Counts how many requests it answers at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.release = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> Reply:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.wait({asyncio.ensure_future(self.release.wait())}, timeout=0.05)
        self.now -= 1
        return WELL


async def test_two_workers_never_run_more_than_the_limit_and_everybody_is_served(tmp_path: Path) -> None:
    crowded = Crowded()
    async with FakeProvider(crowded) as provider:
        text = policy(provider.url, "max_concurrency: 3, queue_s: 30")
        async with serving(text, tmp_path, worker="one") as one, serving(text, tmp_path, worker="two") as two:
            seen = await asyncio.gather(*(ask(service.url, service.key, stream=stream) for service in (one, two) for stream in (True, False) * 6))
            books = await settled_books(one.database)
    assert {each.text for each in seen} == {"".join(TEXTS)}
    assert crowded.most == 3
    assert len(books.ledger) == len(seen)


async def test_a_request_that_would_wait_too_long_gets_a_rate_limit_or_the_next_backend(tmp_path: Path) -> None:
    for fallback in ("", "spare"):
        begun = asyncio.Event()
        on = asyncio.Event()
        steps = openai_steps(Answer(texts=TEXTS))
        async with FakeProvider(Reply([steps[0], Mark(begun), Wait(on), *steps[1:]])) as provider:
            text = policy(provider.url, "max_concurrency: 1, queue_s: 0.1", fallback=fallback)
            async with serving(text, tmp_path / f"to-{fallback}") as service:
                first = asyncio.create_task(ask(service.url, service.key, stream=True))
                await begun.wait()
                second = await ask(service.url, service.key, stream=True)
                on.set()
                assert (await first).text == "".join(TEXTS)
                books = await settled_books(service.database)
        assert len(provider.exchanges) == 1
        if fallback:
            assert second.text == "The second one answers."
        else:
            assert (second.status, second.codes) == (429, ["backend_rate_limited"])
            assert int(second.headers["retry-after"]) >= 1
        assert sum(row["cost"] for row in books.ledger if row["error"]) == 0
        check_sums(books, "acme", {})


async def test_real_workers_share_the_limit_and_killed_ones_give_their_slots_back(tmp_path: Path) -> None:
    crowded = Crowded()
    hanging = asyncio.Event()

    async def script(exchange: Exchange) -> Reply:
        if hanging.is_set():
            await asyncio.get_running_loop().create_future()
        return await crowded(exchange)

    home = tmp_path / "home"
    async with FakeProvider(script) as provider, whole(home, policy(provider.url, "max_concurrency: 2, queue_s: 30"), {}) as serve:
        key = serve.keys["chat"]
        seen = await asyncio.gather(*(ask(serve.url, key, stream=bool(number % 2)) for number in range(12)))
        assert {each.text for each in seen} == {"".join(TEXTS)}
        assert crowded.most == 2
        hanging.set()
        lost = [asyncio.create_task(ask(serve.url, key, stream=True)) for _ in range(2)]
        await provider.exchange(13)
        before = worker_pids(serve)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert all(isinstance(each, Exception) for each in await asyncio.gather(*lost, return_exceptions=True))
        hanging.clear()
        await until(lambda: len(set(worker_pids(serve)) - set(before)) == 2, 30)
        async with asyncio.timeout(30):
            seen = await asyncio.gather(*(ask(serve.url, key, stream=False) for _ in range(4)))
        assert {each.text for each in seen} == {"".join(TEXTS)}
    assert crowded.most == 2
