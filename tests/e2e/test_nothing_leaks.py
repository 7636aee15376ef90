"""A secret planted in every field of a provider's answer, cut over its deltas, is in no byte of any response: whole, streamed, stored, listed, replayed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.dialects import PATHS, body
from tests.fakes.provider import Exchange, FakeProvider, Reply
from tests.fakes.responses_wire import responses_steps
from tests.fakes.wire import Answer, Call, anthropic_event, anthropic_steps, error_body, gemini_chunk, gemini_steps, openai_chunk, openai_steps
from tests.serving import Service, serving

SECRET = "4111 1111 1111 1111"
HALVES = ("so it is 4111 11", "11 1111 1111 ")
MODELS = {"openai": "gpt-5-mini", "responses": "gpt-5", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}
ARGUMENTS = ('{"card": "it is 4111 11', '11 1111 1111"}')
TOOL = {"type": "object", "properties": {"card": {"type": "string"}}}

Steps = list[bytes]
MADE: dict[str, Callable[[Answer], Steps]] = {"openai": openai_steps, "responses": responses_steps, "anthropic": anthropic_steps, "gemini": gemini_steps}


def before_the_end(kind: str, steps: Steps, *more: bytes) -> Steps:
    """Put frames in front of those that end an answer."""
    at = {"openai": -3, "gemini": -1, "anthropic": -2, "responses": -1}[kind]
    return [*steps[:at], *more, *steps[at:]]


def thinking_blocks(*texts: str) -> Steps:
    steps = []
    for index, text in enumerate(texts):
        steps.append(anthropic_event("content_block_start", index=index, content_block={"type": "thinking", "thinking": "", "signature": ""}))
        for kind, value in (("thinking", text), ("signature", "c2ln")):
            steps.append(anthropic_event("content_block_delta", index=index, delta={"type": f"{kind}_delta", kind: value}))
        steps.append(anthropic_event("content_block_stop", index=index))
    return steps


def reasoning_items(*texts: str) -> Steps:
    items = [{"id": f"rs_{text[:2]}", "type": "reasoning", "encrypted_content": "gAA", "summary": [{"type": "summary_text", "text": text}]} for text in texts]
    return responses_steps(Answer(), items)


def leaking(kind: str, field: str) -> Steps | None:
    """The answer of a provider with the secret in that field; None where it has none."""
    match field:
        case "text":
            return MADE[kind](Answer(HALVES))
        case "reasoning":
            return MADE[kind](Answer(("Yes.",), reasoning=HALVES))
        case "arguments":
            return MADE[kind](Answer((), [Call("call_1", "pay", ARGUMENTS)]))
        case "refusal":
            if kind == "responses":
                return responses_steps(Answer(), refusal="".join(HALVES))
            return before_the_end(kind, openai_steps(Answer(())), *(openai_chunk({"refusal": half}) for half in HALVES)) if kind == "openai" else None
        case "two items":
            if kind == "responses":
                return reasoning_items(*HALVES)
            return [anthropic_steps(Answer())[0], *thinking_blocks(*HALVES), *anthropic_steps(Answer(()))[2:]] if kind == "anthropic" else None
        case "annotations":
            note = {"type": "url_citation", "url_citation": {"url": f"https://x/{SECRET}", "title": SECRET, "start_index": 0, "end_index": 1}}
            return before_the_end("openai", openai_steps(Answer()), openai_chunk({"annotations": [note]})) if kind == "openai" else None
        case "code":
            if kind == "gemini":
                code = gemini_chunk([{"executableCode": {"language": "PYTHON", "code": f"print('{SECRET}')"}}])
                return before_the_end(kind, gemini_steps(Answer()), code)
            item = {"id": "ci_1", "type": "code_interpreter_call", "status": "completed", "container_id": "c", "code": SECRET, "outputs": None}
            return responses_steps(Answer(), [item]) if kind == "responses" else None
        case "error in the middle":
            if kind == "anthropic":
                failed = anthropic_event("error", error={"type": "overloaded_error", "message": f"no {SECRET}"})
                return [*anthropic_steps(Answer())[:4], failed]
            return [*openai_steps(Answer())[:3], b"data: " + error_body("openai", 500, "x", f"no {SECRET}") + b"\n\n"] if kind == "openai" else None
        case _:
            raise AssertionError(field)


FIELDS = ("text", "reasoning", "arguments", "refusal", "two items", "annotations", "code", "error in the middle")


@asynccontextmanager
async def in_front_of(kind: str, steps: Steps, home: Path) -> AsyncIterator[Service]:
    def reply(exchange: Exchange) -> Reply:
        return Reply(steps)

    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(FakeProvider(reply))
        named = "openai" if kind == "responses" else kind
        table: dict[str, Any] = {
            "kind": named,
            "model": MODELS[kind],
            "base_url": provider.url + ("/v1" if named == "openai" else ""),
            "price": {"input": 1, "output": 1},
        }
        if kind == "responses":
            table["api"] = "responses"
        moderation = {"output": ["pii", "secrets"], "on_match": "redact"}
        policy = json.dumps({"version": 1, "backends": {"far": table}, "default": "far", "fallback": [], "moderation": moderation})
        yield await stack.enter_async_context(serving(policy, home))


def request(dialect: str, field: str, *, stream: bool) -> dict[str, Any]:
    asked = body(dialect, "What is it?", stream=stream)
    if field == "arguments":
        tools: dict[str, Any] = {
            "chat": {"type": "function", "function": {"name": "pay", "parameters": TOOL}},
            "responses": {"type": "function", "name": "pay", "parameters": TOOL, "strict": False},
            "messages": {"name": "pay", "input_schema": TOOL},
        }
        asked["tools"] = [tools[dialect]]
    if dialect == "responses":
        asked["store"] = True
    return asked


def documents(raw: str) -> Iterator[Any]:
    """The JSON documents of a response, streamed or whole."""
    if raw.startswith("{"):
        yield json.loads(raw)
    for line in raw.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def joined(raw: str) -> list[str]:
    """What a client gets that puts the strings of one name together, in the order in which they came."""
    texts: dict[str, list[str]] = defaultdict(list)

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}")
        elif isinstance(value, list):
            for inner in value:
                walk(inner, name)
        elif isinstance(value, str):
            texts[name].append(value)

    for document in documents(raw):
        walk(document, str(document.get("type", "")))
    return ["".join(pieces) for pieces in texts.values()]


async def read(session: aiohttp.ClientSession, service: Service, dialect: str, asked: dict[str, Any], key: str) -> list[str]:
    """Every response that holds the answer."""
    seen = []
    for _ in range(2):  # the second one is replayed
        async with session.post(service.url + PATHS[dialect], json=asked, headers={"idempotency-key": key}) as response:
            seen.append(await response.text())
            replayed = response.headers.get("idempotency-replayed")
    assert replayed == "true"
    if dialect == "responses":
        ids = [found["id"] for document in documents(seen[0]) if (found := document.get("response", document)) and found.get("object") == "response"]
        for path in (f"/{ids[0]}", f"/{ids[0]}/input_items", "") if ids else ():
            async with session.get(f"{service.url}/v1/responses{path}") as response:
                assert response.status == 200, await response.text()
                seen.append(await response.text())
    return seen


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", MODELS)
async def test_a_planted_secret_is_in_no_byte_of_any_response(tmp_path: Path, kind: str, field: str) -> None:
    steps = leaking(kind, field)
    if steps is None:
        return  # this provider's answers have no such field
    async with in_front_of(kind, steps, tmp_path) as service, aiohttp.ClientSession(headers=service.bearer()) as session:
        for dialect in PATHS:
            for stream in (True, False):
                if field == "error in the middle" and not stream:
                    continue  # a failure of a whole answer is not kept under its key
                for raw in await read(session, service, dialect, request(dialect, field, stream=stream), f"{dialect}-{stream}"):
                    assert SECRET not in raw, (dialect, stream)
                    assert all(SECRET not in text for text in joined(raw)), (dialect, stream)
                    assert raw
