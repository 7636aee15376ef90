"""One attempt at a provider: how it ends, what it leaves in the record, and what it does to the connection."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from adapters.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    ContentRefused,
    Overloaded,
    ProviderFault,
    RateLimited,
    StreamBroken,
)
from adapters.types import AttemptRecord, Finished, RefusalDelta, ResponseStarted, TextDelta, Usage, UsageReported
from tests.adapters.remote.kit import ASKED, KINDS, outcome, remote, said, serving
from tests.fakes.provider import Close, Cut, Gap, Hang, Mark, Reply, Wait
from tests.fakes.wire import STEPS, Answer, Call, answering, anthropic_event, error_body, failing, gemini_chunk, openai_chunk, sse

STREAM = {"content-type": "text/event-stream"}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_whole_answer_leaves_the_providers_own_numbers(kind: str) -> None:
    answer = Answer(input_tokens=30, cached=10, output_tokens=9, reasoning_tokens=2 if kind != "anthropic" else 0)
    async with serving(kind, answering(kind, answer, request_id="req-77")) as (backend, provider):
        events, error, attempt = await outcome(backend)
    assert error is None
    assert events[0] == ResponseStarted("req-77", "served-model")
    assert attempt.provider_request_id == "req-77"
    assert attempt.model == "served-model"
    assert attempt.usage == Usage(30, 9, 10, 0, answer.reasoning_tokens)
    assert said(events, UsageReported)[-1].usage == attempt.usage
    assert "".join(event.text for event in said(events, TextDelta)) == "Hello, world."
    assert isinstance(events[-1], Finished)
    assert provider.connections == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_finished_connection_is_used_again(kind: str) -> None:
    reply = answering(kind)
    # The end of the body comes a little after the end marker.
    reply.steps = [*reply.steps, Gap(0.01)]
    async with serving(kind, reply) as (backend, provider):
        for _ in range(3):
            await outcome(backend)
    assert (len(provider.exchanges), provider.connections) == (3, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [Cut(), Close()])
@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_stream_without_its_end_marker_is_broken(kind: str, end: Cut | Close, framing: str) -> None:
    steps = STEPS[kind](Answer(texts=["one ", "two ", "three"]))
    # Without the last texts and whatever ends the answer; Anthropic's begins with two events more.
    begun = steps[: 5 if kind == "anthropic" else 3 if kind == "openai" else 2]
    async with serving(kind, Reply([*begun, end], framing=framing)) as (backend, _):
        events, error, attempt = await outcome(backend)
    assert isinstance(error, StreamBroken)
    assert error.backend == "subject"
    assert said(events, TextDelta)
    assert not said(events, Finished)
    assert attempt.usage is not None
    assert attempt.usage.source == "estimated"
    assert attempt.usage.output_tokens >= len(said(events, TextDelta))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_event_cut_in_half_is_a_broken_stream(kind: str) -> None:
    steps = STEPS[kind](Answer())
    async with serving(kind, Reply([steps[0], steps[1][:-9]])) as (backend, _):
        _, error, _ = await outcome(backend)
    assert isinstance(error, StreamBroken)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_ends_before_its_first_event_is_a_broken_stream(kind: str) -> None:
    async with serving(kind, Reply([])) as (backend, _):
        events, error, attempt = await outcome(backend)
    assert events == []
    assert isinstance(error, StreamBroken)
    assert attempt.usage == Usage(backend.count(ASKED).n, 0, source="estimated")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content_type", ["text/plain", "text/html; charset=utf-8"])
async def test_a_200_that_is_neither_an_event_stream_nor_json_is_a_fault(kind: str, content_type: str) -> None:
    async with serving(kind, Reply([b'{"choices": []}'], headers={"content-type": content_type})) as (backend, _):
        events, error, _ = await outcome(backend)
    assert events == []
    assert isinstance(error, ProviderFault)
    assert content_type in error.message


@pytest.mark.parametrize("kind", KINDS)
async def test_an_event_that_is_no_json_is_a_fault(kind: str) -> None:
    async with serving(kind, Reply([STEPS[kind](Answer())[0], b"data: <html>\n\n"])) as (backend, _):
        _, error, _ = await outcome(backend)
    assert type(error) is ProviderFault


@pytest.mark.parametrize("kind", KINDS)
async def test_an_event_of_an_unknown_shape_changes_nothing(kind: str) -> None:
    reply = answering(kind)
    unknown = {"type": "of_tomorrow", "some": {"thing": [1]}}
    reply.steps = [reply.steps[0], sse(unknown), b": a comment\n\n", b"event: of_tomorrow\nid: 7\nretry: 5\n\n", *reply.steps[1:]]
    async with serving(kind, reply) as (backend, _):
        events, error, _ = await outcome(backend)
    assert error is None
    assert "".join(event.text for event in said(events, TextDelta)) == "Hello, world."


STATUSES = [
    ("openai", 401, "invalid_api_key", AuthenticationFailed),
    ("openai", 429, "rate_limit_exceeded", RateLimited),
    ("openai", 429, "insufficient_quota", AuthenticationFailed),
    ("openai", 503, "service_unavailable", Overloaded),
    ("openai", 500, "server_error", ProviderFault),
    ("openai", 404, "model_not_found", BackendUnavailable),
    ("anthropic", 401, "authentication_error", AuthenticationFailed),
    ("anthropic", 429, "rate_limit_error", RateLimited),
    ("anthropic", 529, "overloaded_error", Overloaded),
    ("gemini", 429, "RESOURCE_EXHAUSTED", RateLimited),
    ("gemini", 403, "PERMISSION_DENIED", AuthenticationFailed),
    ("gemini", 503, "UNAVAILABLE", Overloaded),
]


@pytest.mark.parametrize(("kind", "status", "code", "expected"), STATUSES)
async def test_an_error_status_becomes_its_error_after_one_try_and_costs_nothing(kind: str, status: int, code: str, expected: type[BackendError]) -> None:
    async with serving(kind, failing(kind, status, code, retry_after="2.5")) as (backend, provider):
        events, error, attempt = await outcome(backend)
    assert events == []
    assert type(error) is expected
    assert (error.provider_status, error.provider_code, error.provider_request_id, error.retry_after) == (status, code, "req-1", 2.5)
    assert len(provider.exchanges) == 1, "the SDK's own retries are off"
    assert attempt.called
    assert attempt.provider_request_id == "req-1"
    assert attempt.usage == Usage(source="estimated")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_redirect_is_not_followed(kind: str) -> None:
    async with serving(kind, Reply(status=307, headers={"location": "http://127.0.0.1:9/elsewhere", "content-type": "text/plain"})) as (backend, provider):
        _, error, _ = await outcome(backend)
    assert type(error) is ProviderFault
    assert len(provider.exchanges) == 1


MIDSTREAM = [
    ("openai", sse({"error": {"message": "overloaded", "type": "server_error", "code": 503}}), Overloaded),
    ("openai", sse({"error": {"message": "bad", "type": "server_error"}}, "error"), ProviderFault),
    ("openai", sse({"error": "out of memory"}), ProviderFault),
    ("anthropic", anthropic_event("error", error={"type": "overloaded_error", "message": "Overloaded"}), Overloaded),
    ("anthropic", anthropic_event("error", error={"type": "api_error", "message": "oops"}), ProviderFault),
    ("gemini", sse({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}), Overloaded),
]


@pytest.mark.parametrize(("kind", "event", "expected"), MIDSTREAM)
async def test_an_error_event_within_a_stream_becomes_its_error(kind: str, event: bytes, expected: type[BackendError]) -> None:
    steps = STEPS[kind](Answer())[:4]
    async with serving(kind, Reply([*steps, event], headers={**STREAM, "x-request-id": "req-9", "request-id": "req-9"})) as (backend, _):
        events, error, attempt = await outcome(backend)
    assert type(error) is expected
    assert error.provider_request_id == "req-9"
    assert said(events, TextDelta)
    assert attempt.usage is not None
    assert attempt.usage.output_tokens > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("silent", ["before the headers", "before the first event", "after the first event"])
async def test_closing_closes_the_socket(kind: str, silent: str) -> None:
    never, sent = asyncio.Event(), asyncio.Event()
    steps = STEPS[kind](Answer())[:1]

    async def script(_: object) -> Reply:
        if silent == "before the headers":
            await never.wait()
        return Reply([*(steps if silent == "after the first event" else []), Mark(sent), Hang()])

    async with serving(kind, script) as (backend, provider):
        task = asyncio.create_task(outcome(backend))
        exchange = await provider.exchange()
        if silent != "before the headers":
            async with asyncio.timeout(30):
                await sent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if silent == "before the headers":
            never.set()  # the fake watches its client only while it answers
        async with asyncio.timeout(30):
            await exchange.gone.wait()
    assert exchange.gone_at is not None


@pytest.mark.parametrize("kind", KINDS)
async def test_a_slow_reader_is_not_read_ahead_without_bound(kind: str) -> None:
    reply = answering(kind, Answer(texts=["x" * 50_000] * 1000))
    async with serving(kind, reply) as (backend, provider), aclosing(backend.generate(ASKED, AttemptRecord(backend="b"))) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
        exchange = provider.exchanges[0]
        before = -1
        async with asyncio.timeout(30):
            # The provider is stopped by the full socket when it gets no further while the loop turns.
            while before != exchange.sent:
                before = exchange.sent
                for _ in range(200):
                    await asyncio.sleep(0)
        assert exchange.sent < 500


@pytest.mark.parametrize("kind", KINDS)
async def test_after_a_close_the_usage_covers_what_was_delivered_and_what_the_provider_said(kind: str) -> None:
    go = asyncio.Event()
    steps = STEPS[kind](Answer(texts=["four" * 10, "more"], input_tokens=41))
    async with serving(kind, Reply([*steps[:-2], Wait(go)])) as (backend, _):
        attempt = AttemptRecord(backend="b")
        async with aclosing(backend.generate(ASKED, attempt)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
    usage = attempt.usage
    assert usage is not None
    assert usage.source == "estimated"
    assert usage.output_tokens == 10
    # Anthropic tells the input at the start; for the others it is counted here.
    assert usage.input_tokens == (41 if kind == "anthropic" else backend.count(ASKED).n)


async def test_an_estimate_is_never_below_a_partial_report() -> None:
    partial = gemini_chunk([{"text": "hi"}], usage={"promptTokenCount": 9, "candidatesTokenCount": 3, "thoughtsTokenCount": 50})
    async with serving("gemini", Reply([partial, Cut()])) as (backend, _):
        _, error, attempt = await outcome(backend)
    assert isinstance(error, StreamBroken)
    assert attempt.usage == Usage(9, 53, reasoning_output_tokens=50, source="estimated")


async def test_a_consumer_that_leaves_after_the_final_report_keeps_the_providers_numbers() -> None:
    async with serving("openai", answering("openai")) as (backend, _):
        attempt = AttemptRecord(backend="b")
        async with aclosing(backend.generate(ASKED, attempt)) as events:
            async for event in events:
                if isinstance(event, UsageReported):
                    break
    assert attempt.usage == Usage(12, 7)


async def test_a_server_that_reports_no_usage_gets_an_estimate_before_the_finish() -> None:
    steps = [step for step in STEPS["openai"](Answer()) if b'"prompt_tokens"' not in step]
    async with serving("openai", Reply(steps)) as (backend, _):
        events, error, attempt = await outcome(backend)
    assert error is None
    assert isinstance(events[-2], UsageReported)
    assert isinstance(events[-1], Finished)
    assert attempt.usage == Usage(backend.count(ASKED).n, 4, source="estimated")


async def test_a_done_without_a_finish_reason_is_a_broken_stream() -> None:
    async with serving("openai", Reply([openai_chunk({"content": "half an ans"}), b"data: [DONE]\n\n"])) as (backend, _):
        _, error, _ = await outcome(backend)
    assert isinstance(error, StreamBroken)


async def test_a_finish_reason_without_a_done_is_an_answer() -> None:
    async with serving("openai", Reply([openai_chunk({"content": "all"}), openai_chunk(finish="stop")])) as (backend, _):
        events, error, _ = await outcome(backend)
    assert error is None
    assert events[-1] == Finished("stop", provider_reason="stop")


async def test_an_open_connection_after_the_end_marker_holds_nobody_up() -> None:
    reply = answering("openai")
    reply.steps = [*reply.steps, Hang()]
    async with serving("openai", reply) as (backend, provider):
        async with asyncio.timeout(30):
            events, error, _ = await outcome(backend)
        await provider.exchanges[0].gone.wait()
    assert error is None
    assert isinstance(events[-1], Finished)


async def test_a_refused_prompt_is_refused_content() -> None:
    blocked = sse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 4}, "modelVersion": "m"})
    async with serving("gemini", Reply([blocked])) as (backend, _):
        _, error, _ = await outcome(backend)
    assert isinstance(error, ContentRefused)
    assert error.provider_code == "PROHIBITED_CONTENT"
    async with serving("openai", failing("openai", 400, "content_policy_violation")) as (backend, _):
        _, error, _ = await outcome(backend)
    assert isinstance(error, ContentRefused)


async def test_a_refusal_in_the_answer_is_told_as_one() -> None:
    steps = [openai_chunk({"refusal": "I will not."}), openai_chunk(finish="stop"), b"data: [DONE]\n\n"]
    async with serving("openai", Reply(steps)) as (backend, _):
        events, _, _ = await outcome(backend)
    assert said(events, RefusalDelta) == [RefusalDelta("I will not.")]
    answer = Answer(texts=["I "], finish="refusal", extra={"stop_details": {"type": "refusal", "explanation": "It is not allowed."}})
    async with serving("anthropic", answering("anthropic", answer)) as (backend, _):
        events, _, _ = await outcome(backend)
    assert said(events, RefusalDelta) == [RefusalDelta("It is not allowed.")]
    assert events[-1] == Finished("content_filter", provider_reason="refusal")


async def test_a_model_that_gave_up_is_a_fault_and_no_answer() -> None:
    async with serving("gemini", Reply([gemini_chunk([], finish="MALFORMED_FUNCTION_CALL")])) as (backend, _):
        _, error, _ = await outcome(backend)
    assert type(error) is ProviderFault
    assert error.provider_code == "MALFORMED_FUNCTION_CALL"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refused_connection_is_an_unavailable_backend_and_costs_nothing(kind: str, unused_tcp_port: int) -> None:
    backend = remote(kind, f"http://127.0.0.1:{unused_tcp_port}")
    events, error, attempt = await outcome(backend)
    await backend.aclose()
    assert events == []
    assert isinstance(error, BackendUnavailable)
    assert error.__cause__ is not None
    assert attempt.usage == Usage(source="estimated")


@pytest.mark.parametrize(("kind", "variable"), [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY"), ("gemini", "GEMINI_API_KEY")])
async def test_without_its_key_a_backend_is_unavailable_and_says_which_variable_is_missing(kind: str, variable: str) -> None:
    for table, missing in (({"base_url": None}, variable), ({"api_key_env": "TEAM_API_KEY"}, "TEAM_API_KEY")):
        backend = remote(kind, "http://127.0.0.1:9", **table)
        health = await backend.health()
        assert (health.ready, health.reason) == (False, f"{missing} is not set")
        _, error, attempt = await outcome(backend)
        assert isinstance(error, BackendUnavailable)
        assert missing in error.message
        assert not attempt.called
        assert attempt.usage is None


@pytest.mark.parametrize("kind", KINDS)
async def test_the_key_of_the_table_goes_out_and_is_never_told(kind: str) -> None:
    async with serving(kind, failing(kind, 401, "denied", "Incorrect API key provided: secret-key-1")) as (_, provider):
        backend = remote(kind, provider.url, {"TEAM_API_KEY": "secret-key-1"}, api_key_env="TEAM_API_KEY")
        assert (await backend.health()).ready
        _, error, _ = await outcome(backend)
        await backend.aclose()
    headers = provider.exchanges[0].headers
    assert "secret-key-1" in (headers["x-goog-api-key"] if kind == "gemini" else headers["authorization"])
    assert isinstance(error, AuthenticationFailed)
    assert "secret-key" not in error.message


async def test_tool_calls_arrive_in_pieces_with_id_and_name_once() -> None:
    calls = [Call("c1", "f", ['{"a"', ": 1}"]), Call("c2", "g", ["{}"])]
    for kind in ("openai", "anthropic"):
        async with serving(kind, answering(kind, Answer(texts=[], calls=calls))) as (backend, _):
            events, _, _ = await outcome(backend)
        pieces = [event for event in events if type(event).__name__ == "ToolCallDelta"]
        assert [(piece.index, piece.id, piece.name) for piece in pieces if piece.id] == [(0, "c1", "f"), (1, "c2", "g")]
        assert "".join(piece.arguments for piece in pieces if piece.index == 0) == '{"a": 1}'
        assert events[-1].reason == "tool_calls"


async def test_a_stream_that_is_slow_but_alive_is_read_to_its_end() -> None:
    reply = answering("anthropic")
    reply.steps = [step for piece in reply.steps for step in (piece, Gap(0.005))]
    async with serving("anthropic", reply, connect_s=0.02) as (backend, _):
        _, error, _ = await outcome(backend)
    assert error is None


def test_an_error_body_is_what_the_sdk_makes_of_it() -> None:
    from google.genai.errors import APIError

    from adapters.faults import body_failure

    body = error_body("gemini", 429, "RESOURCE_EXHAUSTED", "slow down")
    mine = body_failure(body, status=429)
    theirs = APIError(429, {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}})
    assert (mine.status, mine.message, mine.codes[0]) == (theirs.code, theirs.message, theirs.status)


@pytest.mark.parametrize("kind", ["openai", "gemini"])
async def test_a_report_of_nothing_at_all_is_no_count_and_is_not_free(kind: str) -> None:
    async with serving(kind, answering(kind, Answer(input_tokens=0, output_tokens=0))) as (backend, _):
        _, error, attempt = await outcome(backend)
    assert error is None
    assert attempt.usage is not None
    assert attempt.usage.source == "estimated"
    assert attempt.usage.input_tokens > 0
    assert attempt.usage.output_tokens > 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_whose_body_breaks_off_or_never_ends_is_what_its_status_says(kind: str) -> None:
    headers = {"content-type": "application/json", "retry-after": "3"}
    for steps in ([b'{"error": {', Cut()], [b"x" * 65_536] * 640):
        async with serving(kind, Reply(steps, status=429, headers=headers)) as (backend, provider):
            _, error, attempt = await outcome(backend)
            assert isinstance(error, RateLimited)
            assert error.retry_after == 3
            assert attempt.usage == Usage(source="estimated")
            if len(steps) > 2:
                assert provider.exchanges[0].sent < 640
