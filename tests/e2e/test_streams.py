"""Streams on the wire: order, heartbeats, late failures, tools, choices, blocked answers. Read raw, as any client would see them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import openai
from sqlalchemy import select

from router.tables import ledger
from tests.serving import Service, serving

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
