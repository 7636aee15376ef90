"""An inbound `Idempotency-Key`: one answer and one bill, however often, wherever and however the request is sent again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil
import pytest
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError

from config.database import open_database
from router.http import once
from router.kept.tables import idempotency
from router.tables import ledger, reservations, workers
from tests.e2e.money_books import check_sums, settled_books
from tests.e2e.money_crowd import whole, worker_pids
from tests.fakes.provider import Cut, Exchange, FakeProvider, Hang, Mark, Reply, Wait
from tests.fakes.wire import Answer, answering, failing, openai_steps
from tests.serving import Service, serving, until

BODY = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**BODY, "stream": True}


def policy(upstream: FakeProvider, settings: str = "") -> str:
    return f"""
version: 1
settings: {{{settings}}}
backends:
  remote: {{kind: openai, model: served-model, base_url: "{upstream.url}/v1", price: {{input: 1.0, output: 4.0}}, max_output_tokens: 100}}
default: remote
fallback: []
"""


@asynccontextmanager
async def two_workers(upstream: FakeProvider, tmp_path: Path, database_url: str, settings: str = "") -> AsyncIterator[tuple[Service, Service]]:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving(policy(upstream, settings), tmp_path / "a", database_url=database_url, worker="worker-a"))
        second = await stack.enter_async_context(serving(policy(upstream, settings), tmp_path / "b", database_url=database_url, worker="worker-b"))
        yield first, second


async def send(
    service: Service, body: dict[str, Any] | bytes, key: str, *, api_key: str | None = None, path: str = "/v1/chat/completions"
) -> tuple[int, dict[str, str], bytes]:
    headers = {**service.bearer(api_key), "idempotency-key": key, "content-type": "application/json"}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with aiohttp.ClientSession() as session, session.post(f"{service.url}{path}", data=data, headers=headers) as response:
        return response.status, {name.lower(): value for name, value in response.headers.items()}, await response.read()


async def ledger_rows(service: Service) -> Sequence[Any]:
    return await service.database.read(lambda connection: connection.execute(select(ledger)).all())


async def records(service: Service) -> Sequence[Any]:
    return await service.database.read(lambda connection: connection.execute(select(idempotency)).all())


def held(steps: Sequence[bytes], go: asyncio.Event, begun: asyncio.Event) -> Reply:
    """An answer whose second half waits for `go`."""
    half = len(steps) // 2
    return Reply([*steps[:half], Mark(begun), Wait(go), *steps[half:]], headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_many_retries_over_two_workers_are_one_call_and_one_bill(body: dict[str, Any], tmp_path: Path, database_url: str) -> None:
    go, begun = asyncio.Event(), asyncio.Event()
    async with FakeProvider(held(openai_steps(Answer()), go, begun)) as upstream, two_workers(upstream, tmp_path, database_url) as (first, second):
        sent = [asyncio.create_task(send((first, second)[n % 2], body, "k-1", api_key=first.key)) for n in range(12)]
        await begun.wait()
        await asyncio.sleep(0)
        go.set()
        answers = await asyncio.gather(*sent)
        later = await send(second, body, "k-1", api_key=first.key)
        assert {status for status, _, _ in answers} == {200}
        assert len({content for _, _, content in [*answers, later]}) == 1
        assert sorted(headers.get("idempotency-replayed", "no") for _, headers, _ in answers) == ["no", *["true"] * 11]
        assert later[1]["idempotency-replayed"] == "true"
        assert later[1]["x-headgate-backend"] == "remote"
        assert later[1]["content-type"] == answers[0][1]["content-type"]
        assert len(upstream.exchanges) == 1
        assert len(await ledger_rows(first)) == 1


async def test_the_key_is_the_tenants_the_routes_and_the_bodys_own(tmp_path: Path) -> None:
    async with FakeProvider(answering("openai")) as upstream, serving(policy(upstream), tmp_path) as service:
        assert (await send(service, BODY, "k-1"))[0] == 200
        status, _, content = await send(service, {**BODY, "temperature": 0.5}, "k-1")
        assert (status, json.loads(content)["error"]["code"]) == (422, "idempotency_mismatch")
        assert (await send(service, BODY, "k-1", api_key=service.other_key))[1].get("idempotency-replayed") is None
        assert (await send(service, BODY, "k-2"))[1].get("idempotency-replayed") is None
        assert len(upstream.exchanges) == 3


DIALECTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": BODY,
    "/v1/responses": {"model": "auto", "input": "Hi"},
    "/v1/messages": {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", DIALECTS)
async def test_every_dialect_replays_and_refuses_in_its_own_words(path: str, stream: bool, tmp_path: Path) -> None:
    body: dict[str, Any] = {**DIALECTS[path], "stream": stream}
    async with FakeProvider(answering("openai")) as upstream, serving(policy(upstream), tmp_path) as service:
        first, again = [await send(service, body, "k-1", path=path) for _ in range(2)]
        assert (first[0], first[2]) == (200, again[2])
        assert again[1]["idempotency-replayed"] == "true"
        status, _, content = await send(service, {**body, "temperature": 0.5}, "k-1", path=path)
        error = json.loads(content)["error"]
        assert status == 422
        if path == "/v1/messages":
            assert error["type"] == "invalid_request_error"
        else:
            assert error["code"] == "idempotency_mismatch"
        other = next(each for each in DIALECTS if each != path)
        assert (await send(service, DIALECTS[other], "k-1", path=other))[0] == 200
        assert len(upstream.exchanges) == 2


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_that_cannot_be_one_is_refused(key: str, tmp_path: Path) -> None:
    async with FakeProvider(answering("openai")) as upstream, serving(policy(upstream), tmp_path) as service:
        status, _, content = await send(service, BODY, key)
        assert (status, json.loads(content)["error"]["param"]) == (400, "Idempotency-Key")
        assert upstream.exchanges == []


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_a_client_that_leaves_finds_its_answer_when_it_comes_back(body: dict[str, Any], tmp_path: Path) -> None:
    go, begun = asyncio.Event(), asyncio.Event()
    async with FakeProvider(held(openai_steps(Answer()), go, begun)) as upstream, serving(policy(upstream), tmp_path) as service:
        leaving = asyncio.create_task(send(service, body, "k-1"))
        await begun.wait()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        again = asyncio.create_task(send(service, body, "k-1"))
        await until(lambda: service.gateway._tasks)
        assert not upstream.exchanges[0].gone.is_set()
        go.set()
        status, headers, content = await again
        assert (status, headers["idempotency-replayed"]) == (200, "true")
        assert b"world" in content
        assert len(upstream.exchanges) == 1
        assert [row.outcome for row in await ledger_rows(service)] == ["ok"]


async def test_a_waiting_stream_is_kept_alive(tmp_path: Path, database_url: str) -> None:
    go, begun = asyncio.Event(), asyncio.Event()
    quick = "commit_after_s: 0.05, heartbeat_s: 0.05"
    async with FakeProvider(held(openai_steps(Answer()), go, begun)) as upstream, two_workers(upstream, tmp_path, database_url, quick) as (first, second):
        running = asyncio.create_task(send(first, STREAM, "k-1"))
        await begun.wait()
        headers = {**first.bearer(), "idempotency-key": "k-1"}
        async with aiohttp.ClientSession() as session, session.post(f"{second.url}/v1/chat/completions", json=STREAM, headers=headers) as response:
            pass_on = await response.content.readuntil(b"\n\n")
            assert pass_on == b": keep-alive\n\n"
            running.cancel()
            go.set()
            text = await response.text()
        assert text.rstrip().endswith("data: [DONE]")
        assert "world" in text
        assert len(upstream.exchanges) == 1


async def test_a_failure_that_cost_nothing_is_forgotten_and_the_retry_runs(tmp_path: Path) -> None:
    replies = [failing("openai", 400, "bad"), answering("openai")]
    async with FakeProvider(replies) as upstream, serving(policy(upstream), tmp_path) as service:
        assert (await send(service, BODY, "k-1"))[0] == 400
        assert await records(service) == []
        status, headers, _ = await send(service, BODY, "k-1")
        assert (status, headers.get("idempotency-replayed")) == (200, None)


async def test_a_stream_that_broke_after_tokens_were_spent_breaks_again_and_is_not_billed_again(tmp_path: Path) -> None:
    broken = Reply([*openai_steps(Answer())[:3], Cut()])
    async with FakeProvider(broken) as upstream, serving(policy(upstream), tmp_path) as service:
        first = await send(service, STREAM, "k-1")
        again = await send(service, STREAM, "k-1")
        assert first[2] == again[2]
        assert b"stream_broken" in first[2]
        assert again[1]["idempotency-replayed"] == "true"
        assert len(upstream.exchanges) == 1


async def test_the_record_of_a_dead_worker_is_taken_over(tmp_path: Path, database_url: str) -> None:
    go, begun = asyncio.Event(), asyncio.Event()

    def script(exchange: Exchange) -> Reply:
        return held(openai_steps(Answer()), go, begun) if not begun.is_set() else answering("openai")

    async with FakeProvider(script) as upstream, two_workers(upstream, tmp_path, database_url) as (first, second):
        running = asyncio.create_task(send(first, BODY, "k-1"))
        await begun.wait()
        waiting = asyncio.create_task(send(second, BODY, "k-1", api_key=first.key))
        first.gateway._loops[1].cancel()  # its heartbeat
        await first.database.write(lambda connection: connection.execute(delete(workers).where(workers.c.id == "worker-a")))
        status, headers, taken = await waiting
        assert (status, headers.get("idempotency-replayed")) == (200, None)
        go.set()
        await running  # it was not dead after all: what it says comes too late for the record
        assert (await send(first, BODY, "k-1"))[2] == taken
        assert len(upstream.exchanges) == 2


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_what_a_stop_of_the_service_ended_runs_anew(body: dict[str, Any], tmp_path: Path, database_url: str) -> None:
    begun = asyncio.Event()
    replies = [held(openai_steps(Answer()), asyncio.Event(), begun), answering("openai")]
    async with FakeProvider(replies) as upstream, two_workers(upstream, tmp_path, database_url) as (first, second):
        running = asyncio.create_task(send(first, body, "k-1"))
        await begun.wait()
        first.gateway.interrupt()
        assert b"shutting_down" in (await running)[2]
        await until(lambda: not first.gateway._tasks)
        status, headers, content = await send(second, body, "k-1", api_key=first.key)
        assert (status, headers.get("idempotency-replayed")) == (200, None)
        assert b"world" in content
        assert sorted(row.outcome for row in await ledger_rows(first)) == ["cancelled", "ok"]
        late = await send(first, body, "k-2")
        assert (late[0], json.loads(late[2])["error"]["code"]) == (503, "shutting_down")
        assert len(upstream.exchanges) == 2


@pytest.mark.parametrize("path", DIALECTS)
async def test_a_claim_that_the_database_does_not_take_is_refused_in_the_dialects_words(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProvider(answering("openai")) as upstream, serving(policy(upstream), tmp_path) as service:
        monkeypatch.setattr(service.gateway.idempotency, "claim", away)
        status, _, content = await send(service, DIALECTS[path], "k-1", path=path)
        assert status == 500
        assert json.loads(content)["error"]["type"] == ("api_error" if path == "/v1/messages" else "server_error")
        assert upstream.exchanges == []


async def away(*_: object) -> Any:
    raise OperationalError("SELECT", None, OSError("away"))


async def test_a_waiting_stream_never_ends_silently(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun = asyncio.Event(), asyncio.Event()
    quick = "commit_after_s: 0.05, heartbeat_s: 0.05"
    async with FakeProvider(held(openai_steps(Answer()), go, begun)) as upstream, two_workers(upstream, tmp_path, database_url, quick) as (first, second):
        running = asyncio.create_task(send(first, STREAM, "k-1"))
        await begun.wait()
        headers = {**first.bearer(), "idempotency-key": "k-1"}
        async with aiohttp.ClientSession() as session, session.post(f"{second.url}/v1/chat/completions", json=STREAM, headers=headers) as response:
            await response.content.readuntil(b"\n\n")
            monkeypatch.setattr(second.gateway.idempotency, "claim", away)
            text = await response.text()
        assert '"code":"internal_error"' in text
        assert text.rstrip().endswith("data: [DONE]")
        go.set()
        assert (await running)[0] == 200


async def test_records_are_encrypted_and_expire(tmp_path: Path) -> None:
    async with FakeProvider(answering("openai")) as upstream, serving(policy(upstream, "idempotency_s: 0.2"), tmp_path) as service:
        await send(service, BODY, "the-key")
        (record,) = await records(service)
        assert b"world" not in record.answer
        assert "the-key" not in str(record)
        await service.gateway.idempotency.sweep()
        assert len(await records(service)) == 1
        service.gateway.idempotency._clock = lambda: record.expires_at + 1
        assert (await send(service, BODY, "the-key"))[1].get("idempotency-replayed") is None
        service.gateway.idempotency._clock = lambda: record.expires_at + 2
        await service.gateway.idempotency.sweep()
        assert await records(service) == []


async def test_an_answer_too_large_to_keep_is_refused_to_the_retry_and_not_billed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "LARGEST_ANSWER", 100)
    async with FakeProvider(answering("openai")) as upstream, serving(policy(upstream), tmp_path) as service:
        assert (await send(service, STREAM, "k-1"))[0] == 200
        status, _, content = await send(service, STREAM, "k-1")
        assert (status, json.loads(content)["error"]["code"]) == (422, "idempotent_answer_too_large")
        assert len(upstream.exchanges) == 1


async def test_the_sdks_own_retry_after_a_cut_connection_is_billed_once(tmp_path: Path) -> None:
    """A proxy cuts the first connection after the request went through; the SDK sends it again by itself."""
    async with FakeProvider(answering("openai")) as upstream, serving(policy(upstream), tmp_path) as service:
        cut = asyncio.Event()

        async def relay(exchange: Exchange) -> Reply:
            status, headers, content = await send(service, exchange.body, exchange.headers["idempotency-key"])
            if not cut.is_set():
                cut.set()
                return Reply([Cut()])
            return Reply([content], status=status, headers={name: headers[name] for name in ("content-type", "idempotency-replayed")})

        async with (
            FakeProvider(relay) as proxy,
            openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key=service.key, max_retries=2, default_headers={"Idempotency-Key": "k-1"}) as sdk,
        ):
            raw = await sdk.chat.completions.with_raw_response.create(**BODY)  # type: ignore[call-overload]
            assert raw.headers["idempotency-replayed"] == "true"
            assert raw.parse().choices[0].message.content == "Hello, world."
            assert len(proxy.exchanges) == 2
        assert len(upstream.exchanges) == 1
        assert len(await ledger_rows(service)) == 1
        assert await service.database.read(lambda connection: connection.execute(select(reservations)).all()) == []


async def test_embeddings_are_billed_once_too(tmp_path: Path) -> None:
    made = {"data": [{"index": 0, "embedding": [1.0, 2.0]}], "model": "small-model", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    replies = [failing("openai", 500, "x"), Reply([json.dumps(made).encode()], headers={"content-type": "application/json"})]
    async with FakeProvider(replies) as upstream:
        embedder = f'small: {{kind: openai, model: small-model, base_url: "{upstream.url}/v1", price: {{input: 1.0, output: 0}}}}'
        text = f"version: 1\nbackends: {{chat: {{kind: scripted}}}}\nembedders:\n  {embedder}\ndefault: chat\n"
        async with serving(text, tmp_path) as service:
            body = {"model": "small", "input": "Hi"}
            answers = [await send(service, body, "k-1", path="/v1/embeddings") for _ in range(3)]
            assert [status for status, _, _ in answers] == [502, 200, 200]
            assert answers[1][2] == answers[2][2]
            assert answers[2][1]["idempotency-replayed"] == "true"
            assert len(upstream.exchanges) == 2


async def test_the_sdks_retry_outlives_a_killed_worker(tmp_path: Path) -> None:
    """`kill -9` of the worker that runs the request: its attempt is booked as crashed, and the SDK's own retry gets the one answer."""

    async def script(exchange: Exchange) -> Reply:
        return Reply([Hang()]) if exchange is upstream.exchanges[0] else answering("openai")

    async with FakeProvider(script) as upstream, whole(tmp_path, policy(upstream), {}) as serve:
        address = ("127.0.0.1", upstream.port)
        async with openai.AsyncOpenAI(base_url=f"{serve.url}/v1", api_key=serve.keys["chat"], max_retries=3, default_headers={"Idempotency-Key": "k-1"}) as sdk:
            asking = asyncio.create_task(sdk.chat.completions.with_raw_response.create(**BODY))  # type: ignore[call-overload]
            await upstream.exchange(0)
            (victim,) = [pid for pid in worker_pids(serve) if address in [each.raddr for each in psutil.Process(pid).net_connections()]]
            os.kill(victim, signal.SIGKILL)
            async with asyncio.timeout(20):
                raw = await asking
                again = await sdk.chat.completions.with_raw_response.create(**BODY)  # type: ignore[call-overload]
        assert (raw.content, again.headers["idempotency-replayed"]) == (again.content, "true")
        database = open_database(f"sqlite:///{tmp_path / 'headgate.db'}")
        found = await settled_books(database)
        await database.aclose()
    assert sorted((row["outcome"], row["entry"]) for row in found.ledger) == [("crashed", "recovery"), ("ok", "settlement")]
    assert len(upstream.exchanges) == 2
    check_sums(found, "default", {})
