"""Whatever an upstream does wrong: the client gets a whole answer from the next backend or a typed error, never silence, never text twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.money_books import settled_books
from tests.fakes.provider import Close, Cut, FakeProvider, Hang, Reply
from tests.fakes.wire import Answer, answering, error_body, failing, openai_chunk, openai_steps
from tests.ports import free_port
from tests.serving import serving

POLICY = """
version: 1
backends:
  first:
    kind: openai
    model: gpt
    base_url: "{url}/v1"
    price: {{input: 3.0, output: 15.0}}
    first_event_s: {first_event_s}
    timeout_s: {timeout_s}
    retry: {{attempts: 1}}
    max_output_tokens: 50
  spare: {{kind: scripted, text: "The second one answers.", price: {{input: 1.0, output: 4.0}}}}
default: first
fallback: [{fallback}]
"""
PATIENT = {"first_event_s": 20.0, "timeout_s": 20.0}
IMPATIENT = {"hang before the first event": {"first_event_s": 0.2}, "hang in the middle": {"timeout_s": 0.2}}
"""What waits in vain is given up soon, and nothing else, however slow the machine."""

SPARE = "The second one answers."
TEXTS = ("One ", "two ", "three ")
BEGUN = openai_steps(Answer(texts=TEXTS))[: 1 + len(TEXTS)]
HTML = b"<html><body>It works!</body></html>"


@dataclass(frozen=True)
class Fault:
    """A fault, and how it looks from outside. `late`: text was delivered before it. `free`: nothing can have been billed."""

    reply: Callable[[], Reply] | None
    status: int
    code: str
    late: bool = False
    free: bool = False
    retry_after: str | None = None


FAULTS = {
    "connection refused": Fault(None, 503, "backend_unavailable", free=True),
    "401": Fault(lambda: failing("openai", 401, "invalid_api_key"), 502, "backend_authentication_failed", free=True),
    "429 with Retry-After": Fault(
        lambda: failing("openai", 429, "rate_limit_exceeded", retry_after="7"), 429, "backend_rate_limited", free=True, retry_after="7"
    ),
    "500": Fault(lambda: failing("openai", 500, "server_error"), 502, "provider_error", free=True),
    "503": Fault(lambda: failing("openai", 503, "overloaded"), 503, "backend_overloaded", free=True),
    "200 with HTML": Fault(lambda: Reply([HTML], headers={"content-type": "text/html"}), 502, "provider_error"),
    "cut before the headers": Fault(lambda: Reply([Cut()], status=0), 502, "stream_broken"),
    "cut after the headers": Fault(lambda: Reply([Cut()]), 502, "stream_broken"),
    "hang before the first event": Fault(lambda: Reply([Hang()]), 504, "backend_timeout"),
    "garbage at once": Fault(lambda: Reply([b"data: {not json\n\n"]), 502, "provider_error"),
    "an empty stream": Fault(lambda: Reply([]), 502, "stream_broken"),
    "cut in the middle": Fault(lambda: Reply([*BEGUN, Cut()]), 502, "stream_broken", late=True),
    "hang in the middle": Fault(lambda: Reply([*BEGUN, Hang()]), 504, "backend_timeout", late=True),
    "garbage in the middle": Fault(lambda: Reply([*BEGUN, b"data: {not json\n\n"]), 502, "provider_error", late=True),
    "no end marker": Fault(lambda: Reply([*BEGUN, Close()], framing="close"), 502, "stream_broken", late=True),
    "an orderly end without a finish": Fault(lambda: Reply(BEGUN), 502, "stream_broken", late=True),
    "an error event in the middle": Fault(
        lambda: Reply([*BEGUN, b"data: " + error_body("openai", 500, "server_error") + b"\n\n"]), 502, "provider_error", late=True
    ),
}


@dataclass
class Seen:
    """What a client saw: of a stream its text, its error events and its terminal frames in their order."""

    status: int
    headers: dict[str, str]
    text: str
    codes: list[str]
    terminals: list[str]


async def ask(url: str, key: str, *, stream: bool) -> Seen:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Count."}], "stream": stream}
    bearer = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=bearer) as session, session.post(f"{url}/v1/chat/completions", json=body) as response:
        content = await response.text()
        headers = {name.lower(): value for name, value in response.headers.items()}
    if headers["content-type"].startswith("application/json"):
        answer = json.loads(content)
        if "error" in answer:
            return Seen(response.status, headers, "", [answer["error"]["code"]], [])
        return Seen(response.status, headers, answer["choices"][0]["message"]["content"], [], [])
    return _read_stream(response.status, headers, content)


def _read_stream(status: int, headers: dict[str, str], content: str) -> Seen:
    seen = Seen(status, headers, "", [], [])
    for frame in content.split("\n\n"):
        if not frame.startswith("data: "):
            assert frame in ("", ": keep-alive") or frame.startswith(":"), frame
            continue
        if frame == "data: [DONE]":
            seen.terminals.append("done")
            continue
        chunk: dict[str, Any] = json.loads(frame[6:])
        if "error" in chunk:
            seen.codes.append(chunk["error"]["code"])
            seen.terminals.append("error")
            continue
        for choice in chunk["choices"]:
            seen.text += choice["delta"].get("content") or ""
            if choice["finish_reason"]:
                seen.terminals.append("finish")
    return seen


@contextlib.asynccontextmanager
async def upstream(fault: Fault) -> AsyncIterator[str]:
    """The address of a provider with that fault."""
    if fault.reply is None:
        yield f"http://127.0.0.1:{free_port()}"
        return
    reply = fault.reply()
    if reply.status == 0:
        async with _cutting() as url:
            yield url
        return
    async with FakeProvider(reply) as provider:
        yield provider.url


@contextlib.asynccontextmanager
async def _cutting() -> AsyncIterator[str]:
    """A server that reads a request and closes without a word."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("fallback", [True, False], ids=["fallback", "alone"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_answered_by_the_next_backend_or_by_a_typed_error(tmp_path: Path, name: str, stream: bool, fallback: bool) -> None:
    fault = FAULTS[name]
    async with (
        upstream(fault) as url,
        serving(POLICY.format(url=url, fallback="spare" if fallback else "", **PATIENT | IMPATIENT.get(name, {})), tmp_path) as service,
        asyncio.timeout(30),
    ):
        seen = await ask(service.url, service.key, stream=stream)
        books = await settled_books(service.database)
    committed = stream and fault.late
    if committed:
        assert (seen.status, seen.text, seen.codes, seen.terminals) == (200, "".join(TEXTS), [fault.code], ["error", "done"])
    elif fallback:
        assert (seen.status, seen.text, seen.codes) == (200, SPARE, [])
        assert seen.terminals == (["finish", "done"] if stream else [])
    else:
        assert (seen.status, seen.text, seen.codes, seen.terminals) == (fault.status, "", [fault.code], [])
        assert seen.headers.get("retry-after") == fault.retry_after
    first, *rest = sorted(books.ledger, key=lambda row: row["attempt"])
    assert (first["backend"], first["outcome"], first["error"]) == ("first", "timeout" if fault.code == "backend_timeout" else "error", fault.code)
    assert first["usage_source"] == "estimated"
    assert (first["cost"] == 0) == fault.free
    assert first["cost"] <= first["reserved"]
    assert first["output_tokens"] * 4 >= (len("".join(TEXTS)) if fault.late else 0)
    assert [(row["backend"], row["outcome"], row["usage_source"]) for row in rest] == ([("spare", "ok", "counted")] if fallback and not committed else [])


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_fault_of_every_candidate_is_the_last_ones_error(tmp_path: Path, stream: bool) -> None:
    policy = """
version: 1
backends:
  a: {kind: scripted, retry: {attempts: 1}, fault: {error: backend_overloaded}}
  b: {kind: scripted, retry: {attempts: 1}, fault: {error: stream_broken, at: first}}
default: a
fallback: [b]
"""
    async with serving(policy, tmp_path) as service:
        seen = await ask(service.url, service.key, stream=stream)
        books = await settled_books(service.database)
    assert (seen.status, seen.codes) == (502, ["stream_broken"])
    assert [(row["backend"], row["error"]) for row in books.ledger] == [("a", "backend_overloaded"), ("b", "stream_broken")]


async def test_an_upstream_that_is_well_is_not_blamed(tmp_path: Path) -> None:
    async with FakeProvider(answering("openai")) as provider, serving(POLICY.format(url=provider.url, fallback="spare", **PATIENT), tmp_path) as service:
        seen = await ask(service.url, service.key, stream=True)
        books = await settled_books(service.database)
    assert (seen.text, seen.terminals) == ("Hello, world.", ["finish", "done"])
    (row,) = books.ledger
    assert (row["backend"], row["outcome"], row["usage_source"], row["input_tokens"], row["output_tokens"]) == ("first", "ok", "provider", 12, 7)


async def test_a_finish_without_the_usage_is_an_answer_with_an_estimate(tmp_path: Path) -> None:
    steps = [*BEGUN, openai_chunk(finish="stop"), b"data: [DONE]\n\n"]
    async with FakeProvider(Reply(steps)) as provider, serving(POLICY.format(url=provider.url, fallback="spare", **PATIENT), tmp_path) as service:
        seen = await ask(service.url, service.key, stream=True)
        books = await settled_books(service.database)
    assert (seen.text, seen.terminals) == ("".join(TEXTS), ["finish", "done"])
    (row,) = books.ledger
    assert (row["outcome"], row["usage_source"]) == ("ok", "estimated")
    assert row["output_tokens"] * 4 >= len(seen.text)
