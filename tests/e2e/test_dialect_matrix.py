"""Every dialect, streamed and whole, over every provider: the same text, calls, reasoning, ending, usage and cost, read by the official SDKs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.money_books import settled_books
from tests.fakes.provider import Exchange, FakeProvider, Reply
from tests.fakes.responses_wire import responding
from tests.fakes.strict import refusal, strings
from tests.fakes.wire import Answer, Call, answering, failing, openai_chunk, openai_steps
from tests.serving import Service, serving

MODELS = {"openai": "gpt-5-mini", "responses": "gpt-5", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
PRICE = {"input": 2.0, "output": 8.0, "cache_read": 0.5}
REFUSAL = "I cannot help with that."


@dataclass(frozen=True)
class Said:
    """An answer, whichever dialect told it. `ending` is the chat dialect's finish reason, or `refusal`."""

    text: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    reasoning: str = ""
    ending: str = "stop"
    tokens: tuple[int, int, int, int] = (100, 20, 40, 0)
    """Input, output, read from the cache, spent on reasoning."""


@dataclass(frozen=True)
class Feature:
    """`asks` are fields of the chat dialect (the others' follow from them); `said` is what the provider says; `sent` must stand in what it gets."""

    asks: dict[str, Any] = field(default_factory=dict)
    image: bool = False
    said: Said = Said("Hello, world.")
    sent: tuple[str, ...] = ()


CALLS = (("call_1", "weather", '{"city": "Paris"}'), ("call_2", "weather", '{"city": "Rome"}'))
FEATURES = {
    "text": Feature(),
    "tools": Feature({"tools": True}, said=Said(calls=CALLS[:1], ending="tool_calls"), sent=("weather",)),
    "parallel tools": Feature({"tools": True}, said=Said("I look.", calls=CALLS, ending="tool_calls"), sent=("weather",)),
    "image": Feature(image=True, said=Said("One pixel."), sent=(PIXEL,)),
    "JSON schema": Feature({"schema": True}, said=Said('{"city": "Paris"}'), sent=("city",)),
    "reasoning": Feature({"effort": "low"}, said=Said("42.", reasoning="I think, so it is.", tokens=(100, 20, 40, 8))),
    "refusal": Feature(said=Said(ending="refusal")),
    "max tokens": Feature(said=Said("Once upon a", ending="length")),
}
WORDS = {
    "openai": {"length": "length"},
    "responses": {"length": "max_output_tokens"},
    "anthropic": {"length": "max_tokens", "refusal": "refusal"},
    "gemini": {"length": "MAX_TOKENS", "refusal": "SAFETY"},
}
"""The providers' own words for how an answer ended."""


def upstream(kind: str, said: Said) -> Callable[[Exchange], Reply]:
    """A provider that says this, and refuses what the real one would."""
    read, made, cached, thought = said.tokens
    pieces = [Call(identity, name, [arguments[:5], arguments[5:]]) for identity, name, arguments in said.calls]
    halves = tuple(piece for piece in (said.text[: len(said.text) // 2], said.text[len(said.text) // 2 :]) if piece)
    answer = Answer(halves, pieces, tuple(filter(None, [said.reasoning])), read, cached, made, thought, WORDS[kind].get(said.ending), MODELS[kind])

    def answer_to(exchange: Exchange) -> Reply:
        why = refusal(kind, exchange.json)
        if why is not None:
            return failing("openai" if kind == "responses" else kind, 400, "invalid_request_error", why)
        if kind == "responses":
            return responding(answer, refusal=REFUSAL if said.ending == "refusal" else "")
        if kind == "openai" and said.ending == "refusal":
            steps = openai_steps(answer)
            return Reply([steps[0], openai_chunk({"refusal": REFUSAL}), *steps[1:]])
        return answering(kind, answer)

    return answer_to


@asynccontextmanager
async def in_front_of(kind: str, said: Said, home: Path) -> AsyncIterator[tuple[Service, FakeProvider]]:
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(FakeProvider(upstream(kind, said)))
        named = "openai" if kind == "responses" else kind
        table: dict[str, Any] = {"kind": named, "model": MODELS[kind], "base_url": provider.url + ("/v1" if named == "openai" else ""), "price": PRICE}
        if kind == "responses":
            table["api"] = "responses"
        policy = json.dumps({"version": 1, "backends": {"far": table}, "default": "far", "fallback": []})
        yield await stack.enter_async_context(serving(policy, home)), provider


async def by_chat(service: Service, feature: Feature, stream: bool) -> tuple[Said, Any]:
    content: Any = "Please."
    if feature.image:
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
        content = [{"type": "text", "text": "Please."}, image]
    request: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": content}], "max_completion_tokens": 4000}
    if "tools" in feature.asks:
        request["tools"] = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    if "schema" in feature.asks:
        request["response_format"] = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    if "effort" in feature.asks:
        request["reasoning_effort"] = feature.asks["effort"]
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
        if stream:
            async with sdk.chat.completions.stream(**request, stream_options={"include_usage": True}) as events:
                try:
                    completion: Any = await events.get_final_completion()
                except (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError):  # the helper's words for such endings
                    completion = events._state.current_completion_snapshot  # type: ignore[attr-defined]
        else:
            completion = await sdk.chat.completions.create(**request)
    (choice,) = completion.choices
    message, usage = choice.message, completion.usage
    ending = "refusal" if message.refusal or choice.finish_reason == "content_filter" else choice.finish_reason
    return Said(
        message.content or "",
        tuple((call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()),
        message.model_dump().get("reasoning_content") or "",
        ending,
        (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens_details.cached_tokens,
            usage.completion_tokens_details.reasoning_tokens,
        ),
    ), None if stream else completion.headgate


async def by_responses(service: Service, feature: Feature, stream: bool) -> tuple[Said, Any]:
    content: list[Any] = [{"type": "input_text", "text": "Please."}]
    if feature.image:
        content.append({"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"})
    request: dict[str, Any] = {"model": "auto", "input": [{"role": "user", "content": content}], "store": False, "max_output_tokens": 4000}
    if "tools" in feature.asks:
        request["tools"] = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}]
    if "schema" in feature.asks:
        request["text"] = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}}
    if "effort" in feature.asks:
        request["reasoning"] = {"effort": feature.asks["effort"], "summary": "auto"}
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
        if stream:
            async with sdk.responses.stream(**request) as events:
                ends = [event.response async for event in events if event.type in ("response.completed", "response.incomplete")]
            (response,) = ends
            completed: Any = response
        else:
            completed = await sdk.responses.create(**request)
    parts = [part for item in completed.output if item.type == "message" for part in item.content]
    calls = tuple((item.call_id, item.name, item.arguments) for item in completed.output if item.type == "function_call")
    summary = "".join(piece.text for item in completed.output if item.type == "reasoning" for piece in item.summary)
    why = completed.incomplete_details.reason if completed.incomplete_details else None
    ending = {"max_output_tokens": "length", "content_filter": "refusal", None: "tool_calls" if calls else "stop"}[why]
    if any(part.type == "refusal" for part in parts):
        ending = "refusal"
    usage = completed.usage
    return Said(
        "".join(part.text for part in parts if part.type == "output_text"),
        calls,
        summary,
        ending,
        (usage.input_tokens, usage.output_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens),
    ), None if stream else completed.headgate


async def by_messages(service: Service, feature: Feature, stream: bool) -> tuple[Said, Any]:
    content: list[Any] = [{"type": "text", "text": "Please."}]
    if feature.image:
        content.append({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}})
    request: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": content}], "max_tokens": 4000}
    if "tools" in feature.asks:
        request["tools"] = [{"name": "weather", "input_schema": SCHEMA}]
    if "schema" in feature.asks:
        request["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
    if "effort" in feature.asks:
        request["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    async with anthropic.AsyncAnthropic(base_url=service.url, api_key=service.key, max_retries=0) as sdk:
        if stream:
            async with sdk.messages.stream(**request) as events:
                message: Any = await events.get_final_message()
        else:
            message = await sdk.messages.create(**request)
    calls = tuple((block.id, block.name, json.dumps(block.input)) for block in message.content if block.type == "tool_use")
    text = "".join(block.text for block in message.content if block.type == "text")
    ending = {"end_turn": "stop", "tool_use": "tool_calls", "max_tokens": "length", "refusal": "refusal"}[message.stop_reason]
    usage = message.usage
    read = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    thought = 0 if usage.output_tokens_details is None else usage.output_tokens_details.thinking_tokens
    return Said(
        "" if ending == "refusal" else text,
        calls,
        "".join(block.thinking for block in message.content if block.type == "thinking"),
        ending,
        (read, usage.output_tokens, usage.cache_read_input_tokens, thought),
    ), None if stream else message.headgate


DIALECTS = {"chat": by_chat, "responses": by_responses, "messages": by_messages}


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("kind", MODELS)
async def test_every_dialect_says_the_same_streamed_and_whole(tmp_path: Path, kind: str, name: str) -> None:
    feature = FEATURES[name]
    expected = feature.said
    if kind == "anthropic":  # it does not say how many of its tokens were thoughts
        expected = replace(expected, tokens=(*expected.tokens[:3], 0))
    read, made, cached, _ = expected.tokens
    dollars = ((read - cached) * PRICE["input"] + cached * PRICE["cache_read"] + made * PRICE["output"]) / 1e6
    async with in_front_of(kind, feature.said, tmp_path) as (service, provider):
        for dialect, by in DIALECTS.items():
            for stream in (True, False):
                said, headgate = await by(service, feature, stream)
                assert said == expected, (dialect, stream)
                # The helpers that put a stream together drop what they do not know; the ledger says the cost below.
                assert stream or headgate["cost_usd"] == pytest.approx(dollars, abs=1e-12)
                sent = list(strings(provider.exchanges[-1].json)) + list(_keys(provider.exchanges[-1].json))
                assert all(any(wanted in text for text in sent) for wanted in feature.sent), (dialect, stream)
        books = await settled_books(service.database)
    assert len(books.ledger) == 6
    for row in books.ledger:
        assert (row["outcome"], row["usage_source"]) == ("ok", "provider")
        tokens = (row["input_tokens"], row["output_tokens"], row["cache_read_input_tokens"], row["reasoning_output_tokens"])
        assert tokens == expected.tokens
        assert row["cost"] == round(dollars * 1e12)


def _keys(value: Any) -> list[str]:
    match value:
        case dict():
            return [*value, *(key for inner in value.values() for key in _keys(inner))]
        case list():
            return [key for inner in value for key in _keys(inner)]
        case _:
            return []
