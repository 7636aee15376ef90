"""The scripted backend: it says what its script says, fails when told to, and bills what it did."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backend import Backend, BackendContext, create_backend, kind_named
from adapters.errors import BackendError, ContextTooLong, InvalidRequest, ProviderFault, RateLimited, UnsupportedFeature
from adapters.script import DEFAULT_TEXT, turn
from adapters.scripted import Bill, ScriptedSpec
from adapters.types import (
    AttemptRecord,
    Event,
    Finished,
    GenerateRequest,
    ImagePart,
    Message,
    ReasoningDelta,
    RefusalDelta,
    ResponseFormat,
    ResponseStarted,
    TextDelta,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolChoice,
    Usage,
    UsageReported,
)
from adapters.wrappers import guarded

WEATHER = Tool("weather", "Tells the weather", {"type": "object"})


def backend(**keys: Any) -> Backend:
    return create_backend("demo", msgspec.convert({"kind": "scripted", **keys}, ScriptedSpec), BackendContext(environ={}))


def ask(text: str = "Hello?", **keys: Any) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", (TextPart(text),)),), **keys)


async def events_of(served: Backend, request: GenerateRequest, attempt: AttemptRecord | None = None) -> list[Event]:
    async with aclosing(served.generate(request, attempt or AttemptRecord("demo"))) as events:
        return [event async for event in events]


def text_of(events: list[Event], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and event.choice == choice)


def usage_of(events: list[Event]) -> Usage:
    return next(event.usage for event in reversed(events) if isinstance(event, UsageReported))


def bills(path: Path) -> list[Bill]:
    return [msgspec.json.decode(line, type=Bill) for line in path.read_bytes().splitlines()]


async def test_it_starts_speaks_in_pieces_reports_usage_and_finishes() -> None:
    events = await events_of(backend(text="Good morning", chunk=5), ask())
    assert isinstance(events[0], ResponseStarted)
    assert events[0].model == "scripted"
    assert events[1:4] == [TextDelta("Good "), TextDelta("morni"), TextDelta("ng")]
    assert usage_of(events) == Usage(input_tokens=1 + 4 + 3, output_tokens=3, source="counted")
    assert events[-1] == Finished("stop", provider_reason="stop")


async def test_it_echoes_the_last_user_message() -> None:
    request = GenerateRequest(messages=(Message("user", (TextPart("one"),)), Message("assistant", (TextPart("two"),)), Message("user", (TextPart("three"),))))
    assert text_of(await events_of(backend(echo=True), request)) == "three"


async def test_without_a_text_it_says_something_pleasant() -> None:
    assert text_of(await events_of(backend(), ask())) == DEFAULT_TEXT


async def test_it_thinks_before_it_speaks_and_counts_the_thoughts_as_output() -> None:
    events = await events_of(backend(text="Yes.", reasoning="Let me think"), ask())
    assert [type(event) for event in events[1:5]] == [ReasoningDelta, ReasoningDelta, ReasoningDelta, TextDelta]
    assert (usage_of(events).reasoning_output_tokens, usage_of(events).output_tokens) == (3, 4)


async def test_it_refuses_when_scripted_to() -> None:
    events = await events_of(backend(refusal="I cannot help with that.", finish="content_filter"), ask())
    assert "".join(event.text for event in events if isinstance(event, RefusalDelta)) == "I cannot help with that."
    assert text_of(events) == ""
    assert events[-1] == Finished("content_filter", provider_reason="content_filter")


async def test_it_calls_tools_that_are_offered_in_pieces_that_join_to_json() -> None:
    served = backend(tool_calls=[{"name": "weather", "arguments": {"city": "Łódź"}}, {"name": "clock", "arguments": "{}"}])
    events = await events_of(served, ask(tools=(WEATHER,)))
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    heads = [call for call in calls if call.id]
    assert [(head.index, head.name) for head in heads] == [(0, "weather"), (1, "clock")]
    assert msgspec.json.decode("".join(call.arguments for call in calls if call.index == 0)) == {"city": "Łódź"}
    assert text_of(events) == ""
    assert events[-1] == Finished("tool_calls", provider_reason="tool_calls")


@pytest.mark.parametrize("how", ["not offered", "forbidden", "answered"])
async def test_it_calls_no_tool_that_is_not_offered_or_forbidden_or_answered(how: str) -> None:
    request = ask(tools=() if how == "not offered" else (WEATHER,), tool_choice=ToolChoice("none" if how == "forbidden" else "auto"))
    if how == "answered":
        request = msgspec.structs.replace(request, messages=(*request.messages, Message("tool", (TextPart("Rain"),), tool_call_id="call_1")))
    events = await events_of(backend(tool_calls=[{"name": "weather"}]), request)
    assert not [event for event in events if isinstance(event, ToolCallDelta)]
    assert text_of(events) == DEFAULT_TEXT


async def test_declared_usage_comes_from_the_provider_and_no_usage_is_an_estimate() -> None:
    declared = usage_of(await events_of(backend(usage={"input": 100, "output": 50, "cache_read": 80}), ask()))
    assert declared == Usage(100, 50, cache_read_input_tokens=80, source="provider")
    assert usage_of(await events_of(backend(no_usage=True, text="12345678"), ask())) == Usage(8, 2, source="estimated")


async def test_it_answers_as_many_choices_as_asked() -> None:
    events = await events_of(backend(text="Hi there"), ask(n=3))
    assert [text_of(events, choice) for choice in range(3)] == ["Hi there"] * 3
    assert [event.choice for event in events if isinstance(event, Finished)] == [0, 1, 2]
    assert usage_of(events).output_tokens == 6


async def test_a_stop_sequence_ends_the_text_before_it() -> None:
    events = await events_of(backend(text="one END two STOP three"), ask(stop=("STOP", "END")))
    assert text_of(events) == "one "
    assert events[-1] == Finished("stop", provider_reason="stop", stop_sequence="END")


@pytest.mark.parametrize(("own", "requested", "tokens"), [(None, 3, 3), (5, None, 5), (5, 2, 2), (2, 5, 5)])
async def test_the_limit_of_tokens_is_kept(own: int | None, requested: int | None, tokens: int) -> None:
    events = await events_of(backend(text="x" * 100, chunk=7, max_output_tokens=own), ask(max_output_tokens=requested))
    assert text_of(events) == "x" * (4 * tokens)
    assert usage_of(events).output_tokens == tokens
    assert events[-1] == Finished("length", provider_reason="length")


@given(
    text=st.text(max_size=60),
    reasoning=st.text(max_size=30),
    chunk=st.integers(1, 9),
    limit=st.integers(0, 20),
    n=st.integers(1, 3),
    tool=st.booleans(),
)
def test_no_script_says_more_than_the_limit_of_tokens(text: str, reasoning: str, chunk: int, limit: int, n: int, tool: bool) -> None:
    calls = [{"name": "weather", "arguments": {"city": text}}] if tool else []
    served = backend(text=text, reasoning=reasoning, chunk=chunk, tool_calls=calls)

    async def run() -> list[Event]:
        return await events_of(served, ask(max_output_tokens=limit, n=n, tools=(WEATHER,)))

    events = asyncio.run(run())
    assert usage_of(events).output_tokens <= n * limit
    said = "".join(event.text for event in events if isinstance(event, ReasoningDelta | TextDelta) and event.choice == 0)
    assert (reasoning + text).startswith(said)


async def test_features_that_the_capabilities_deny_are_refused_by_name() -> None:
    plain = backend(capabilities={"tools": False, "vision": False, "json_schema": False, "multiple_choices": False, "context_window": 50})
    for request, param in [
        (ask(tools=(WEATHER,)), "tools"),
        (GenerateRequest(messages=(Message("user", (ImagePart("https://example.com/a.png"),)),)), "messages"),
        (ask(response_format=ResponseFormat("json_object")), "response_format"),
        (ask(logprobs=3), "logprobs"),
        (ask(n=2), "n"),
    ]:
        attempt = AttemptRecord("demo")
        with pytest.raises(UnsupportedFeature) as caught:
            await events_of(plain, request, attempt)
        assert caught.value.param == param
        assert not attempt.called
    with pytest.raises(ContextTooLong):
        await events_of(plain, ask("x" * 400))


async def test_knobs_without_effect_are_named() -> None:
    attempt = AttemptRecord("demo")
    await events_of(backend(), ask(temperature=0.0, seed=7), attempt)
    assert attempt.ignored == ("temperature",)


@pytest.mark.parametrize(("at", "seen", "billed"), [("start", 0, (0, 0)), ("first", 1, (8, 0)), (0, 1, (8, 0)), (3, 4, (8, 3))])
async def test_a_fault_comes_at_its_moment_and_is_billed_up_to_it(tmp_path: Path, at: Any, seen: int, billed: tuple[int, int]) -> None:
    ledger = tmp_path / "bill.jsonl"
    served = backend(text="x" * 12, fault={"at": at, "error": "backend_rate_limited", "retry_after": 2.5}, bill_to=str(ledger))
    attempt = AttemptRecord("demo")
    with pytest.raises(RateLimited) as caught:
        await events_of(guarded(served), ask(), attempt)
    assert caught.value.retry_after == 2.5
    assert caught.value.provider_request_id == attempt.provider_request_id
    assert attempt.events == seen
    assert bills(ledger) == [Bill(attempt.provider_request_id or "", *billed, final=False)]
    assert attempt.usage == (None if at == "start" else Usage(*billed, source="estimated"))


@pytest.mark.parametrize("key", ["fault", "hang"])
async def test_a_fault_or_a_hang_after_more_deltas_than_there_are_comes_at_the_end(key: str) -> None:
    served = backend(text="abcd", **({"fault": {"at": 9}} if key == "fault" else {"hang_after": 9}))
    attempt = AttemptRecord("demo")
    with pytest.raises(ProviderFault if key == "fault" else TimeoutError):
        async with asyncio.timeout(0.3):
            await events_of(guarded(served), ask(), attempt)
    assert attempt.delivered_characters == 4
    assert attempt.outcome == ("error" if key == "fault" else "cancelled")


async def test_a_fault_with_a_number_of_times_heals() -> None:
    served = backend(text="fine", fault={"at": "start", "error": "provider_error", "times": 2})
    for _ in range(2):
        with pytest.raises(ProviderFault):
            await events_of(served, ask())
    for _ in range(2):
        assert text_of(await events_of(served, ask())) == "fine"


async def test_a_hanging_stream_stays_open_until_it_is_closed_and_bills_what_it_said(tmp_path: Path) -> None:
    ledger = tmp_path / "bill.jsonl"
    served = backend(text="x" * 40, hang_after=2, bill_to=str(ledger))
    attempt = AttemptRecord("demo")
    reached = asyncio.Event()

    async def read() -> None:
        async with aclosing(guarded(served).generate(ask(), attempt)) as stream:
            async for _ in stream:
                if attempt.events == 3:
                    reached.set()

    task = asyncio.ensure_future(read())
    async with asyncio.timeout(30):
        await reached.wait()
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert bills(ledger) == [Bill(attempt.provider_request_id or "", 8, 2, final=False)]
    assert attempt.usage == Usage(8, 2, source="estimated")
    assert attempt.outcome == "cancelled"


async def test_the_record_equals_the_bill_wherever_the_reader_leaves(tmp_path: Path) -> None:
    ledger = tmp_path / "bill.jsonl"
    served = guarded(backend(text="Some words to say.", usage={"input": 70, "output": 9}, bill_to=str(ledger)))
    length = len(await events_of(served, ask()))
    for leave_after in range(1, length + 1):
        attempt = AttemptRecord("demo")
        async with aclosing(served.generate(ask(), attempt)) as stream:
            async for _ in stream:
                if attempt.events == leave_after:
                    break
        bill = bills(ledger)[-1]
        assert attempt.usage is not None
        assert bill.id == attempt.provider_request_id
        assert (bill.input_tokens, bill.output_tokens) == (attempt.usage.input_tokens, attempt.usage.output_tokens)
        assert bill.final == (attempt.usage.source == "provider")
    assert len(bills(ledger)) == length + 1


async def test_a_delay_passes_before_the_first_event_and_a_cancel_ends_it_at_once() -> None:
    task = asyncio.ensure_future(events_of(backend(first_delay_s=3600), ask()))
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait([task])
    assert task.cancelled()


async def test_directives_change_the_script_for_one_request_only() -> None:
    served = backend(directives=True, echo=True)
    events = await events_of(served, ask("[[scripted deltas=50 chunk=2 input=9 output=90 cache_read=4]] go on"))
    assert len([event for event in events if isinstance(event, TextDelta)]) == 50
    assert usage_of(events) == Usage(9, 90, cache_read_input_tokens=4, source="provider")
    assert text_of(await events_of(served, ask("[[scripted chunk=3]] repeat me"))) == "repeat me"
    assert text_of(await events_of(served, ask("[[scripted text='in two words']] x"))) == "in two words"
    with pytest.raises(ProviderFault):
        await events_of(served, ask("[[scripted fault=provider_error@3 no_usage]]"))
    called = await events_of(served, ask("[[scripted tool=weather arguments='{\"city\": 1}']]", tools=(WEATHER,)))
    assert called[-1] == Finished("tool_calls", provider_reason="tool_calls")


@pytest.mark.parametrize(
    "directive", ["colour=red", "delay=soon", "fault=nonsense", "fault=provider_error@later", "finish=never", "chunk=0", "deltas=-1", "text='open", "delay=-1"]
)
async def test_a_directive_that_cannot_be_read_is_refused_and_nothing_is_billed(tmp_path: Path, directive: str) -> None:
    ledger = tmp_path / "bill.jsonl"
    with pytest.raises(InvalidRequest, match="scripted directive"):
        await events_of(backend(directives=True, bill_to=str(ledger)), ask(f"[[scripted {directive}]]"))
    assert not ledger.exists()


async def test_without_the_switch_a_directive_is_only_text() -> None:
    assert text_of(await events_of(backend(text="calm"), ask("[[scripted fault=provider_error]]"))) == "calm"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"txt": "x"}, "unknown field `txt`"),
        ({"fault": {"error": "provider_eror"}}, "did you mean 'provider_error'"),
        ({"fault": {"at": "later"}}, "Invalid enum value"),
        ({"fault": {"at": -1}}, "Expected `int` >= 0"),
        ({"capabilities": {"tool": True}}, "did you mean 'tools'"),
        ({"chunk": 0}, "at least 1"),
        ({"finish": "never"}, "Invalid enum value"),
    ],
)
def test_a_wrong_table_is_refused_with_the_reason(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        backend(**keys)


def test_it_is_registered_as_local_and_its_errors_carry_every_code() -> None:
    kind = kind_named("scripted")
    assert (kind.provider, kind.remote) == ("local", False)


async def test_every_error_code_can_be_played() -> None:
    from adapters.errors import ERRORS

    for code, expected in ERRORS.items():
        with pytest.raises(BackendError) as caught:
            await events_of(backend(fault={"error": code}), ask())
        assert type(caught.value) is expected


def test_a_turn_is_pure() -> None:
    spec = ScriptedSpec(kind="scripted", text="same")
    assert turn(spec, ask()) == turn(spec, ask())
