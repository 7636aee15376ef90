"""Streams on the wire: order, heartbeats, late failures, tools, choices, blocked answers. Read raw, as any client would see them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from adapters.errors import BackendUnavailable
from adapters.types import BackendHealth, Event
from retrieval.values import SearchRequest, SearchResult
from router.tables import ledger
from tests.serving import Service, serving, until

POLICY = """
version: 1
settings: {commit_after_s: 0.05, heartbeat_s: 0.05}
backends:
  mini: {kind: scripted, text: "One two three four five.", directives: true, price: {input: 1.0, output: 4.0}}
default: mini
fallback: []
moderation: {output: [pii, deny-list], on_match: redact, deny_list: [project falcon], per_rule: {deny-list: block}}
"""


def body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], "stream": True, **more}


async def raw_stream(service: Service, request: dict[str, Any]) -> tuple[int, list[str]]:
    """The status and the stream's lines, comments included."""
    async with aiohttp.ClientSession() as session, session.post(f"{service.url}/v1/chat/completions", json=request, headers=service.bearer()) as answer:
        return answer.status, [line for line in (await answer.text()).split("\n") if line]


def events(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def text_of(lines: list[str]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in events(lines) for choice in event.get("choices", []))


async def test_a_stream_begins_with_the_role_and_ends_with_finish_usage_and_done(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service:
        status, lines = await raw_stream(service, body("Hi", stream_options={"include_usage": True}))
    found = events(lines)
    assert status == 200
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(event["usage"] is None for event in found[:-1])
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    assert found[-2]["headgate"]["backend"] == "mini"
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["completion_tokens"] > 0
    assert lines[-1] == "data: [DONE]"
    assert lines.count("data: [DONE]") == 1
    assert len({event["id"] for event in found}) == 1


async def test_a_late_first_event_opens_the_response_and_heartbeats_flow(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service:
        status, lines = await raw_stream(service, body("[[scripted first_delay=0.4]]"))
    assert status == 200
    assert lines[0] == ": keep-alive"
    assert lines.count(": keep-alive") >= 3
    assert text_of(lines) == "One two three four five."
    assert lines[-1] == "data: [DONE]"


async def test_a_failure_after_the_response_opened_is_an_error_event_then_the_end(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service:
        status, lines = await raw_stream(service, body("[[scripted first_delay=0.3 fault=backend_overloaded@first]]"))
    assert status == 200
    assert events(lines)[-1]["error"]["code"] == "backend_overloaded"
    assert lines[-1] == "data: [DONE]"


async def test_a_failure_in_the_middle_is_one_error_event_and_no_text_repeats(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service:
        status, lines = await raw_stream(service, body("[[scripted fault=provider_error@3]]"))
        (row,) = await service.database.read(lambda c: c.execute(select(ledger)).mappings().all())
    assert status == 200
    assert "One two three".startswith(text_of(lines))
    assert [event["error"]["code"] for event in events(lines) if "error" in event] == ["provider_error"]
    assert lines[-1] == "data: [DONE]"
    assert (row["outcome"], row["error"], row["usage_source"]) == ("error", "provider_error", "estimated")
    assert row["output_tokens"] > 0


async def test_a_blocked_answer_ends_with_content_filter_and_usage_and_nothing_of_the_match(tmp_path: Path) -> None:
    policy = POLICY.replace("One two three four five.", "All about Project Falcon and more, much more")
    async with serving(policy, tmp_path) as service:
        _, lines = await raw_stream(service, body("Hi", stream_options={"include_usage": True}))
        (row,) = await service.database.read(lambda c: c.execute(select(ledger)).mappings().all())
    assert text_of(lines) == "All about "
    finish = [choice["finish_reason"] for event in events(lines) for choice in event["choices"] if choice["finish_reason"]]
    assert finish == ["content_filter"]
    assert events(lines)[-2]["headgate"]["moderation"] == {"blocked": True, "matches": [{"rule": "deny-list", "count": 1}]}
    assert events(lines)[-1]["usage"]["completion_tokens"] > 0
    assert row["outcome"] == "blocked"


async def test_tool_calls_stream_through_the_sdk_whole_and_moderated(tmp_path: Path) -> None:
    policy = POLICY.replace('text: "One two three four five."', 'text: "", tool_calls: [{name: mail, arguments: {to: jane@example.com, body: hello}}]')
    tools: Any = [{"type": "function", "function": {"name": "mail", "parameters": {"type": "object"}}}]
    async with serving(policy, tmp_path) as service, openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
        whole = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Mail Jane"}], tools=tools)
        call: Any = (whole.choices[0].message.tool_calls or [])[0]
        assert (whole.choices[0].finish_reason, call.function.name) == ("tool_calls", "mail")
        assert json.loads(call.function.arguments) == {"to": "[EMAIL]", "body": "hello"}
        stream = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Mail Jane"}], tools=tools, stream=True)
        arguments, names, ids = "", [], []
        async for chunk in stream:
            for delta in chunk.choices[0].delta.tool_calls or []:
                assert delta.function is not None
                arguments += delta.function.arguments or ""
                names += [delta.function.name] if delta.function.name else []
                ids += [delta.id] if delta.id else []
        assert (json.loads(arguments), names, len(ids)) == ({"to": "[EMAIL]", "body": "hello"}, ["mail"], 1)


async def test_several_choices_are_told_apart(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service:
        _, lines = await raw_stream(service, body("Hi", n=2))
    texts = {0: "", 1: ""}
    for event in events(lines):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert set(texts.values()) == {"One two three four five."}
    assert sorted(choice["index"] for event in events(lines) for choice in event["choices"] if choice["finish_reason"]) == [0, 1]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_block_in_the_reasoning_is_an_answer_and_no_outage(tmp_path: Path, stream: bool) -> None:
    policy = POLICY.replace('text: "One', 'reasoning: "all about Project Falcon", text: "One').replace("fallback: []", "fallback: [extractive]")
    async with serving(policy, tmp_path) as service:
        status, lines = await raw_stream(service, body("Hi", stream=stream))
        (row,) = await service.database.read(lambda c: c.execute(select(ledger)).mappings().all())
    found = events(lines) if stream else [json.loads(lines[0])]
    assert status == 200
    assert [choice["finish_reason"] for event in found for choice in event["choices"] if choice["finish_reason"]] == ["content_filter"]
    assert (row["outcome"], row["backend"]) == ("blocked", "mini")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_name_that_no_header_can_hold_does_not_break_the_answer(tmp_path: Path, stream: bool) -> None:
    async with (
        serving(POLICY.replace("kind: scripted", 'kind: scripted, model: "日本\\n1"'), tmp_path) as service,
        aiohttp.ClientSession() as session,
        session.post(f"{service.url}/v1/chat/completions", json=body("Hi", stream=stream), headers=service.bearer()) as answer,
    ):
        assert (answer.status, answer.headers["x-headgate-model"]) == (200, "???1")


async def test_dropped_log_probabilities_are_named(tmp_path: Path) -> None:
    policy = POLICY.replace("directives: true", "directives: true, capabilities: {logprobs: true, streaming: true}")
    async with (
        serving(policy, tmp_path) as service,
        aiohttp.ClientSession() as session,
        session.post(f"{service.url}/v1/chat/completions", json=body("Hi", logprobs=True, top_logprobs=3), headers=service.bearer()) as answer,
    ):
        assert (answer.status, answer.headers["x-headgate-ignored"]) == (200, "logprobs")


class SlowSearch:
    """A compute process whose search ends when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.end = asyncio.Event()
        self.error: Exception | None = None

    async def search(self, request: SearchRequest) -> SearchResult:
        self.asked.set()
        await self.end.wait()
        if self.error is not None:
            raise self.error
        return SearchResult()

    def generate(self, *_: Any) -> AsyncGenerator[Event, None]:
        raise AssertionError("no local model is asked")

    async def health(self, *_: Any) -> BackendHealth:
        return BackendHealth(ready=True)

    async def aclose(self) -> None: ...


@asynccontextmanager
async def grounded(home: Path, search: SlowSearch, policy: str = POLICY) -> AsyncIterator[tuple[Service, dict[str, Any]]]:
    async with serving(policy, home, compute=search) as service, aiohttp.ClientSession() as session:
        async with session.post(f"{service.url}/v1/vector_stores", json={}, headers=service.bearer()) as answer:
            store = (await answer.json())["id"]
        yield service, body("Hi", tools=[{"type": "file_search", "vector_store_ids": [store]}])


@pytest.mark.parametrize("fails", [True, False])
async def test_a_slow_search_opens_the_response_and_its_failure_is_an_error_event(tmp_path: Path, fails: bool) -> None:
    search = SlowSearch()
    search.error = BackendUnavailable("the index is away") if fails else None
    async with (
        grounded(tmp_path, search) as (service, request),
        aiohttp.ClientSession() as session,
        session.post(f"{service.url}/v1/chat/completions", json=request, headers=service.bearer()) as answer,
    ):
        assert (answer.status, await answer.content.readline()) == (200, b": keep-alive\n")
        search.end.set()
        lines = [line for line in (await answer.text()).split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    if fails:
        assert [event["error"]["code"] for event in events(lines)] == ["documents_unavailable"]
    else:
        assert text_of(lines) == "One two three four five."


async def test_a_search_that_fails_before_the_response_opened_has_a_status_of_its_own(tmp_path: Path) -> None:
    search = SlowSearch()
    search.error = BackendUnavailable("the index is away")
    search.end.set()
    async with grounded(tmp_path, search, POLICY.replace("commit_after_s: 0.05", "commit_after_s: 5")) as (service, request):
        status, lines = await raw_stream(service, request)
    assert (status, json.loads(lines[0])["error"]["code"]) == (503, "documents_unavailable")


@pytest.mark.parametrize("where", ["searching", "answering"])
async def test_a_request_whose_client_left_is_logged_as_cancelled(tmp_path: Path, where: str) -> None:
    search = SlowSearch()
    async with grounded(tmp_path, search, POLICY.replace("directives: true", "directives: true, hang_after: 1")) as (service, request):
        if where == "answering":
            search.end.set()
        with capture_logs() as logged:
            async with aiohttp.ClientSession() as session:
                async with session.post(f"{service.url}/v1/chat/completions", json=request, headers=service.bearer()) as answer:
                    await search.asked.wait()
                    if where == "answering":
                        async for line in answer.content:
                            if b'"One ' in line:
                                break
                    answer.close()
                await until(lambda: any(entry["event"] == "answered" for entry in logged))
        assert [entry["outcome"] for entry in logged if entry["event"] == "answered"] == ["cancelled"]


class Broken(Exception):
    """Of no kind that anybody expects."""


async def test_a_failure_of_the_service_itself_still_closes_the_exchange_and_its_books(tmp_path: Path) -> None:
    search = SlowSearch()
    search.error = Broken()
    search.end.set()
    async with grounded(tmp_path, search, POLICY.replace("commit_after_s: 0.05", "commit_after_s: 5")) as (service, request):
        before = service.gateway.policy.current.users
        with capture_logs() as logged:
            status, _ = await raw_stream(service, request)
        assert (status, service.gateway.policy.current.users) == (500, before)
        assert [entry["outcome"] for entry in logged if entry["event"] == "answered"] == ["error"]
