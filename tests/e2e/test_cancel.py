"""A client that leaves stops the upstream at once, seen at the upstream's own socket, and what was used is in the ledger.

Aim: within 100 ms. The tests fail only long after it, because they share their machine with others; `-s` prints the milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import openai
import pytest

from config.database import open_database
from tests.e2e.money_books import Books, read_books, settled_books
from tests.e2e.money_crowd import whole
from tests.fakes.provider import Exchange, FakeProvider, Hang, Mark, Reply, Step, Wait
from tests.fakes.wire import STEPS, Answer, openai_chunk, openai_steps
from tests.serving import Service, serving

WITHIN_S = 30.0
TEXTS = ("A first piece, ", "a second piece ", "and a third.")
BASE = {"openai": "/v1", "anthropic": "", "gemini": ""}


def policy(kind: str, url: str, *, settings: str = "", tenant: str = "acme") -> str:
    return f"""
version: 1
settings: {{{settings}}}
backends:
  remote: {{kind: {kind}, model: served-model, base_url: "{url}{BASE[kind]}", price: {{input: 3.0, output: 15.0}}, max_output_tokens: 500}}
default: remote
fallback: []
tenants:
  {tenant}: {{budget_usd: {{day: 1.0}}}}
"""


@dataclass
class Scene:
    """What the upstream does, and `reached`: the moment at which the client leaves. `delivered` is what it can have read by then."""

    script: Reply | Callable[[Exchange], Awaitable[Reply]]
    reached: asyncio.Event
    stream: bool
    delivered: str = ""


def scenes(kind: str) -> dict[str, Callable[[], Scene]]:
    def hanging(begun: bool, stream: bool) -> Scene:
        reached = asyncio.Event()
        steps: list[Step] = list(_beginning(kind)) if begun else []
        return Scene(Reply([*steps, Mark(reached), Hang()]), reached, stream, "".join(TEXTS) if begun and stream else "")

    def silent(stream: bool) -> Scene:
        reached = asyncio.Event()

        async def script(_: Exchange) -> Reply:
            reached.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError("a future that nobody sets")

        return Scene(script, reached, stream)

    return {
        "in the middle of a stream": lambda: hanging(begun=True, stream=True),
        "during a whole answer": lambda: hanging(begun=True, stream=False),
        "before the first event": lambda: hanging(begun=False, stream=True),
        "before the upstream's headers, stream": lambda: silent(stream=True),
        "before the upstream's headers, whole": lambda: silent(stream=False),
    }


def _beginning(kind: str) -> list[bytes]:
    """The steps of an answer up to its last piece of text."""
    steps = STEPS[kind](Answer(texts=TEXTS))
    last = max(number for number, step in enumerate(steps) if TEXTS[-1].encode() in step)
    return steps[: last + 1]


Leave = Callable[[], Awaitable[None]]


QUESTION = [{"role": "user", "content": "Go on."}]
ROUTES: dict[str, dict[str, object]] = {
    "/v1/chat/completions": {"messages": QUESTION},
    "/v1/responses": {"input": "Go on."},
    "/v1/messages": {"messages": QUESTION, "max_tokens": 100},
}
"""The chat routes, with what a body needs there."""


@asynccontextmanager
async def raw_client(service: Service, scene: Scene, route: str = "/v1/chat/completions") -> AsyncIterator[Leave]:
    """A bare socket, gone with an orderly close."""
    place = urlsplit(service.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    body = json.dumps({"model": "auto", "stream": scene.stream, **ROUTES[route]}).encode()
    head = f"POST {route} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    if scene.delivered:
        await reader.readuntil(TEXTS[-1].encode())

    async def leave() -> None:
        writer.close()

    yield leave
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def sdk_client(service: Service, scene: Scene) -> AsyncIterator[Leave]:
    """The official SDK: a stream is closed, any other call's task is cancelled."""
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
        if scene.delivered:
            stream = await sdk.chat.completions.create(model="auto", stream=True, messages=[{"role": "user", "content": "Go on."}])
            text = ""
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                if text == scene.delivered:
                    break
            yield stream.close
            return
        calling = asyncio.create_task(
            sdk.chat.completions.create(model="auto", stream=scene.stream, messages=[{"role": "user", "content": "Go on."}])  # type: ignore[call-overload]
        )

        async def leave() -> None:
            calling.cancel()

        yield leave
        with pytest.raises(asyncio.CancelledError):
            await calling


def check_cancelled(books: Books, delivered: str) -> None:
    """One row: cancelled, an estimate that covers what was delivered within what was reserved; nothing stays reserved."""
    (row,) = books.ledger
    assert (row["outcome"], row["usage_source"], row["attempt"]) == ("cancelled", "estimated", 1)
    assert row["input_tokens"] > 0
    assert row["output_tokens"] * 4 >= row["delivered_characters"] >= len(delivered)
    assert 0 < row["cost"] <= row["reserved"]
    assert {(budget["spent"], budget["reserved"]) for budget in books.budgets} == {(row["cost"], 0)}


@pytest.mark.parametrize("client", [raw_client, sdk_client], ids=["raw", "sdk"])
@pytest.mark.parametrize("moment", list(scenes("openai")))
@pytest.mark.parametrize("kind", list(STEPS))
async def test_a_client_that_leaves_stops_the_upstream(
    tmp_path: Path, kind: str, moment: str, client: Callable[[Service, Scene], contextlib.AbstractAsyncContextManager[Leave]]
) -> None:
    scene = scenes(kind)[moment]()
    async with FakeProvider(scene.script) as provider, serving(policy(kind, provider.url), tmp_path) as service:
        async with client(service, scene) as leave:
            exchange = await provider.exchange()
            await scene.reached.wait()
            began = time.perf_counter()
            await leave()
            async with asyncio.timeout(WITHIN_S):
                await exchange.gone.wait()
            assert exchange.gone_at is not None
            took = (exchange.gone_at - began) * 1000
        books = await settled_books(service.database)
    check_cancelled(books, scene.delivered)
    assert len(provider.exchanges) == 1
    print(f"\n{kind}, {moment}, {client.__name__}: upstream closed after {took:.1f} ms")  # noqa: T201


@pytest.mark.parametrize("moment", list(scenes("openai")))
@pytest.mark.parametrize("route", list(ROUTES))
async def test_a_client_of_any_dialect_that_leaves_stops_the_upstream(tmp_path: Path, route: str, moment: str) -> None:
    scene = scenes("openai")[moment]()
    async with FakeProvider(scene.script) as provider, serving(policy("openai", provider.url), tmp_path) as service:
        async with raw_client(service, scene, route) as leave:
            exchange = await provider.exchange()
            await scene.reached.wait()
            began = time.perf_counter()
            await leave()
            async with asyncio.timeout(WITHIN_S):
                await exchange.gone.wait()
            assert exchange.gone_at is not None
            took = (exchange.gone_at - began) * 1000
        books = await settled_books(service.database)
    check_cancelled(books, scene.delivered)
    assert len(provider.exchanges) == 1, "a client that left is no failure: nothing is tried again"
    print(f"\n{route}, {moment}: upstream closed after {took:.1f} ms")  # noqa: T201


async def test_a_client_that_leaves_before_the_budget_was_asked_leaves_nothing_behind(tmp_path: Path) -> None:
    async with FakeProvider(Reply([Hang()])) as provider, serving(policy("openai", provider.url), tmp_path) as service:
        place = urlsplit(service.url)
        body = b'{"model":"auto","messages":[{"role":"user","content":"Hi"}]}'
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        for _ in range(30):
            _, writer = await asyncio.open_connection(place.hostname, place.port)
            writer.write(head + body)
            writer.transport.abort()
        await asyncio.to_thread(_ask_models, service)
        books = await settled_books(service.database)
        assert all(row["outcome"] == "cancelled" for row in books.ledger)
        assert {budget["reserved"] for budget in books.budgets} <= {0}


def _ask_models(service: Service) -> None:
    """A request after the others: when it is answered, they have been seen."""
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key) as sdk:
        sdk.models.list()


async def test_a_client_that_reads_nothing_pauses_the_upstream(tmp_path: Path) -> None:
    piece = openai_chunk({"content": "x" * 16_000})
    count = 50_000_000 // len(piece)
    steps = openai_steps(Answer(texts=("",)))
    async with FakeProvider(Reply([steps[0], *([piece] * count), *steps[2:]])) as provider, serving(policy("openai", provider.url), tmp_path) as service:
        place = urlsplit(service.url)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (place.hostname, place.port))
            body = b'{"model":"auto","stream":true,"messages":[{"role":"user","content":"Pour."}]}'
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\ncontent-length: {len(body)}\r\n\r\n"
            await loop.sock_sendall(client, head.encode() + body)
            exchange = await provider.exchange()
            paused = await _standstill(exchange)
            assert paused * len(piece) < 20_000_000, "of 50 MB, all that is not read is held somewhere"
            got = 0
            async with asyncio.timeout(20):
                while exchange.sent < paused + 50:
                    got += len(await loop.sock_recv(client, 1 << 20))
            assert got > 0
        async with asyncio.timeout(WITHIN_S):
            await exchange.gone.wait()
        books = await settled_books(service.database)
    (row,) = books.ledger
    assert (row["outcome"], row["usage_source"], row["output_tokens"]) == ("cancelled", "estimated", 500), "more came than was allowed: the bound is booked"
    print(f"\na reader that stands still: the upstream had written {paused * len(piece) / 1e6:.1f} MB of 50 MB")  # noqa: T201


async def _standstill(exchange: Exchange) -> int:
    """The steps the upstream has sent once it sends no more."""
    seen, since = -1, time.monotonic()
    async with asyncio.timeout(20):
        while time.monotonic() - since < 0.7:
            await asyncio.sleep(0.02)
            if exchange.sent != seen:
                seen, since = exchange.sent, time.monotonic()
    return seen


@dataclass
class LastWords:
    """What a client got from a service that was stopping."""

    status: int
    text: str
    took: float
    books: Books
    exit_status: int


async def stopped_while_asking(tmp_path: Path, *, stream: bool, steps: list[Step], begun: asyncio.Event, on_stop: Callable[[], None]) -> LastWords:
    async with FakeProvider(Reply([*steps])) as provider:
        text = policy("openai", provider.url, settings="shutdown_s: 1", tenant="default")
        async with whole(tmp_path / "home", text, {}) as serve:
            body = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": "Go on."}]}
            headers = {"authorization": f"Bearer {serve.keys['chat']}"}
            async with aiohttp.ClientSession() as session:
                asking = asyncio.create_task(session.post(f"{serve.url}/v1/chat/completions", json=body, headers=headers).__aenter__())
                async with asyncio.timeout(20):
                    await begun.wait()
                    response = await asking if stream else None
                    began = time.monotonic()
                    serve.process.send_signal(signal.SIGTERM)
                    on_stop()
                    response = response or await asking
                    answer = await response.text()
                    took = time.monotonic() - began
                    response.close()
            exit_status = await asyncio.to_thread(serve.process.wait, 20)
        database = open_database(f"sqlite:///{tmp_path / 'home' / 'headgate.db'}")
        books = await read_books(database)
        await database.aclose()
    return LastWords(response.status, answer, took, books, exit_status)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_request_that_outlasts_the_stop_ends_with_an_error_and_is_settled(tmp_path: Path, stream: bool) -> None:
    begun = asyncio.Event()
    steps: list[Step] = [*_beginning("openai"), Mark(begun), Hang()]
    seen = await stopped_while_asking(tmp_path, stream=stream, steps=steps, begun=begun, on_stop=lambda: None)
    assert '"code":"shutting_down"' in seen.text
    assert seen.status == (200 if stream else 503)
    assert seen.text.count('"error"') == 1
    assert seen.text.endswith("data: [DONE]\n\n") == stream
    assert seen.exit_status == 0
    assert seen.books.reservations == []
    check_cancelled(seen.books, "".join(TEXTS) if stream else "")
    print(f"\nstop during {'a stream' if stream else 'a whole answer'}: error after {seen.took:.2f} s (shutdown_s 1)")  # noqa: T201


async def test_a_stream_that_ends_in_time_is_finished_before_the_service_stops(tmp_path: Path) -> None:
    begun, stopping = asyncio.Event(), asyncio.Event()
    beginning = _beginning("openai")
    steps: list[Step] = [*beginning, Mark(begun), Wait(stopping), *openai_steps(Answer(texts=TEXTS))[len(beginning) :]]
    seen = await stopped_while_asking(tmp_path, stream=True, steps=steps, begun=begun, on_stop=stopping.set)
    assert '"finish_reason":"stop"' in seen.text
    assert seen.text.endswith("data: [DONE]\n\n")
    assert '"error"' not in seen.text
    assert seen.exit_status == 0
    (row,) = seen.books.ledger
    assert (row["outcome"], row["usage_source"]) == ("ok", "provider")
