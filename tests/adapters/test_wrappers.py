"""Timeouts and the guard, over backends that misbehave in every way a backend can."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest

from adapters.backend import BackendSpec
from adapters.errors import BackendError, BackendTimeout, DeadlinePassed, ProviderFault, RateLimited, StreamBroken
from adapters.types import (
    AttemptRecord,
    BackendHealth,
    Capabilities,
    Event,
    Finished,
    GenerateRequest,
    Message,
    ResponseStarted,
    TextDelta,
    TextPart,
    TokenCount,
    Usage,
    UsageReported,
)
from adapters.wrappers import guarded, with_timeouts

REQUEST = GenerateRequest(messages=(Message("user", (TextPart("hello"),)),))
Script = Callable[[AttemptRecord], AsyncGenerator[Event, None]]


class Played:
    """A backend that plays a generator function, and knows when it was closed."""

    name, provider, model = "played", "local", "played-1"
    capabilities = Capabilities(streaming=True)

    def __init__(self, script: Script) -> None:
        self.script = script
        self.closed = asyncio.Event()

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        try:
            async with aclosing(self.script(attempt)) as events:
                async for event in events:
                    yield event
        finally:
            self.closed.set()

    def count(self, request: GenerateRequest, /) -> TokenCount:
        return TokenCount(11, 99)

    async def health(self) -> BackendHealth:
        return BackendHealth(ready=True, queue_depth=3)

    async def aclose(self) -> None:
        self.closed.set()


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def playing(*steps: Event | Exception | Callable[[], Awaitable[None]]) -> Script:
    async def script(attempt: AttemptRecord) -> AsyncGenerator[Event, None]:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            if callable(step):
                await step()
            else:
                yield step

    return script


def spec(timeout_s: float = 30.0, total_s: float | None = None) -> BackendSpec:
    return BackendSpec(kind="played", timeout_s=timeout_s, total_s=total_s)


async def drain(backend: object, request: GenerateRequest = REQUEST, attempt: AttemptRecord | None = None) -> list[Event]:
    async with aclosing(backend.generate(request, attempt or AttemptRecord("played"))) as events:  # type: ignore[attr-defined]
        return [event async for event in events]


START, HELLO, USAGE, END = ResponseStarted("id-1", "played-2"), TextDelta("Hello"), UsageReported(Usage(5, 2)), Finished("stop")


async def test_wrappers_pass_every_event_on_unchanged() -> None:
    backend = Played(playing(START, HELLO, USAGE, END))
    assert await drain(guarded(with_timeouts(backend, spec()))) == [START, HELLO, USAGE, END]


async def test_wrappers_have_the_names_counts_health_and_close_of_what_they_wrap() -> None:
    backend = Played(playing())
    wrapped = guarded(with_timeouts(backend, spec()))
    assert (wrapped.name, wrapped.provider, wrapped.model, wrapped.capabilities) == ("played", "local", "played-1", backend.capabilities)
    assert wrapped.count(REQUEST) == TokenCount(11, 99)
    assert (await wrapped.health()).queue_depth == 3
    await wrapped.aclose()
    assert backend.closed.is_set()


@pytest.mark.parametrize("before", [[], [START], [START, HELLO]], ids=["first event", "second", "third"])
async def test_a_wait_longer_than_the_timeout_raises_and_closes_the_backend(before: list[Event]) -> None:
    backend = Played(playing(*before, forever))
    attempt = AttemptRecord("played")
    with pytest.raises(BackendTimeout, match=r"no event came from backend 'played' for 0\.02 s"):
        await drain(guarded(with_timeouts(backend, spec(0.02))), attempt=attempt)
    assert attempt.events == len(before)
    assert backend.closed.is_set()
    assert (task := asyncio.current_task()) is not None
    assert task.cancelling() == 0


async def test_the_first_event_has_a_limit_of_its_own() -> None:
    patient = BackendSpec(kind="played", first_event_s=0.02, timeout_s=30.0)
    with pytest.raises(BackendTimeout, match=r"for 0\.02 s"):
        await drain(with_timeouts(Played(playing(forever, START)), patient))

    async def pause() -> None:
        await asyncio.sleep(0.06)

    assert await drain(with_timeouts(Played(playing(START, pause, HELLO, END)), patient)) == [START, HELLO, END]
    hasty = BackendSpec(kind="played", first_event_s=30.0, timeout_s=0.02)
    with pytest.raises(BackendTimeout, match=r"for 0\.02 s"):
        await drain(with_timeouts(Played(playing(pause, START, forever)), hasty))


async def test_the_requests_own_deadline_is_told_from_the_backends_slowness() -> None:
    soon = GenerateRequest(messages=REQUEST.messages, deadline=time.time() + 0.03)
    with pytest.raises(DeadlinePassed):
        await drain(with_timeouts(Played(playing(START, forever)), spec(total_s=5.0)), soon)
    with pytest.raises(BackendTimeout) as caught:
        await drain(with_timeouts(Played(playing(START, forever)), spec(total_s=0.03)), REQUEST)
    assert not isinstance(caught.value, DeadlinePassed)


async def test_a_stream_that_flows_is_never_cut_however_long_it_takes() -> None:
    async def short() -> None:
        await asyncio.sleep(0.05)

    steps = [step for _ in range(12) for step in (HELLO, short)]
    events = await drain(with_timeouts(Played(playing(START, *steps, END)), spec(timeout_s=0.5)))
    assert events.count(HELLO) == 12


async def test_a_slow_reader_is_no_timeout() -> None:
    backend = Played(playing(START, HELLO, END))
    seen = []
    async with aclosing(with_timeouts(backend, spec(0.02)).generate(REQUEST, AttemptRecord("played"))) as events:
        async for event in events:
            await asyncio.sleep(0.05)
            seen.append(event)
    assert seen == [START, HELLO, END]


async def test_the_total_time_ends_a_stream_even_while_it_flows() -> None:
    async def tick() -> None:
        await asyncio.sleep(0.005)

    backend = Played(playing(START, *[step for _ in range(1000) for step in (HELLO, tick)], END))
    with pytest.raises(BackendTimeout, match="did not finish in the time"):
        await drain(with_timeouts(backend, spec(total_s=0.05)))
    assert backend.closed.is_set()


async def test_the_total_time_ends_a_stream_that_never_lets_the_loop_run() -> None:
    backend = Played(playing(START, *[HELLO] * 2_000_000, END))
    with pytest.raises(BackendTimeout):
        await drain(with_timeouts(backend, spec(total_s=0.02)))


async def test_the_requests_deadline_is_kept_and_a_past_one_calls_nothing() -> None:
    backend = Played(playing(START, forever))
    request = GenerateRequest(messages=REQUEST.messages, deadline=time.time() + 0.2)
    with pytest.raises(BackendTimeout, match="did not finish in the time"):
        await drain(with_timeouts(backend, spec()), request)
    assert backend.closed.is_set()

    untouched = Played(playing(START, END))
    with pytest.raises(BackendTimeout):
        await drain(with_timeouts(untouched, spec()), GenerateRequest(messages=REQUEST.messages, deadline=time.time() - 1))
    assert not untouched.closed.is_set(), "the backend was started"


async def test_an_event_and_the_timeout_in_the_same_tick_leave_no_cancel_behind() -> None:
    """The timer fires while the event is on its way: the outcome may be either, but the task must not stay cancelled."""
    for _ in range(200):
        gate = asyncio.get_running_loop().create_future()

        async def on_time(gate: asyncio.Future[None] = gate) -> None:
            await gate

        asyncio.get_running_loop().call_later(0.002, gate.set_result, None)
        backend = Played(playing(START, on_time, HELLO, END))
        try:
            assert await drain(with_timeouts(backend, spec(0.002))) == [START, HELLO, END]
        except BackendTimeout:
            gate.cancel()
        assert backend.closed.is_set()
        assert (task := asyncio.current_task()) is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)


async def test_a_cancel_from_outside_stays_a_cancel_even_when_the_timeout_fires_with_it() -> None:
    loop = asyncio.get_running_loop()
    for _ in range(50):
        backend = Played(playing(START, forever))
        task = asyncio.ensure_future(drain(with_timeouts(backend, spec(0.004))))
        accepted: asyncio.Future[bool] = loop.create_future()
        await asyncio.sleep(0)
        loop.call_later(0.004, lambda task=task, accepted=accepted: accepted.set_result(task.cancel()))
        await asyncio.wait([task, accepted])
        # A cancel that found the task still running must win over the timeout; one that came later finds a finished task.
        assert task.cancelled() if accepted.result() else isinstance(task.exception(), BackendTimeout)
        assert backend.closed.is_set()


async def test_closing_the_wrapped_stream_closes_the_backend_before_it_returns() -> None:
    backend = Played(playing(START, forever))
    stream = guarded(with_timeouts(backend, spec())).generate(REQUEST, AttemptRecord("played"))
    assert await anext(stream) == START
    await stream.aclose()
    assert backend.closed.is_set()


async def test_any_other_exception_leaves_the_guard_as_a_provider_fault_with_its_cause() -> None:
    attempt = AttemptRecord("played")
    with pytest.raises(ProviderFault) as caught:
        await drain(guarded(Played(playing(START, HELLO, KeyError("choices")))), attempt=attempt)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.backend == "played"
    assert "choices" not in str(caught.value), "an inner message may hold a prompt"
    assert (attempt.outcome, attempt.error, attempt.events, attempt.delivered_characters) == ("error", "provider_error", 2, 5)


async def test_a_backend_error_passes_the_guard_as_it_is() -> None:
    error = RateLimited("slow down", retry_after=7.0)
    attempt = AttemptRecord("played", called=True)
    with pytest.raises(RateLimited) as caught:
        await drain(guarded(Played(playing(error))), attempt=attempt)
    assert caught.value is error
    assert error.backend == "played"
    assert (attempt.outcome, attempt.error, attempt.usage) == ("error", "backend_rate_limited", None)


@pytest.mark.parametrize("events", [[], [START], [START, HELLO, USAGE]], ids=["nothing", "a start", "text and usage"])
async def test_a_stream_without_a_finish_is_broken(events: list[Event]) -> None:
    with pytest.raises(StreamBroken):
        await drain(guarded(Played(playing(*events))))


async def test_every_choice_must_finish() -> None:
    request = GenerateRequest(messages=REQUEST.messages, n=2)
    with pytest.raises(StreamBroken):
        await drain(guarded(Played(playing(START, HELLO, END))), request)
    assert (await drain(guarded(Played(playing(START, END, Finished("stop", choice=1), USAGE))), request))[-1] == USAGE, "a late report is kept"


async def test_the_record_holds_times_counts_ids_and_usage_of_a_good_attempt() -> None:
    attempt = AttemptRecord("played")
    before = time.time()
    await drain(guarded(Played(playing(START, HELLO, USAGE, END))), attempt=attempt)
    assert attempt.first_event_at is not None
    assert attempt.ended_at is not None
    assert before <= attempt.started_at <= attempt.first_event_at <= attempt.ended_at <= time.time()
    assert (attempt.outcome, attempt.error, attempt.called, attempt.events, attempt.delivered_characters) == ("ok", None, True, 4, 5)
    assert (attempt.provider_request_id, attempt.model, attempt.usage) == ("id-1", "played-2", Usage(5, 2))


async def test_a_backend_that_reports_no_usage_gets_an_estimate() -> None:
    attempt = AttemptRecord("played")
    events = await drain(guarded(Played(playing(START, HELLO, END))), attempt=attempt)
    expected = Usage(input_tokens=11, output_tokens=2, source="estimated")
    assert events == [START, HELLO, UsageReported(expected), END]
    assert attempt.usage == expected


async def test_the_estimate_of_a_backend_without_reports_grows_with_its_choices() -> None:
    request = GenerateRequest(messages=REQUEST.messages, n=2)
    events = await drain(guarded(Played(playing(START, HELLO, END, TextDelta("Hello", choice=1), Finished("stop", choice=1)))), request)
    assert [event.usage.output_tokens for event in events if isinstance(event, UsageReported)] == [2, 3]


async def test_a_stream_left_in_the_middle_is_charged_at_least_what_was_delivered() -> None:
    early = UsageReported(Usage(input_tokens=40, output_tokens=1))
    attempt = AttemptRecord("played")
    async with aclosing(guarded(Played(playing(START, early, HELLO, HELLO, forever))).generate(REQUEST, attempt)) as events:
        async for _ in events:
            if attempt.events == 4:
                break
    assert attempt.outcome == "cancelled"
    assert attempt.usage == Usage(input_tokens=40, output_tokens=3, source="estimated")


async def test_a_final_report_stands_when_the_stream_is_left_after_it() -> None:
    attempt = AttemptRecord("played")
    async with aclosing(guarded(Played(playing(START, HELLO, USAGE, forever))).generate(REQUEST, attempt)) as events:
        async for event in events:
            if event == USAGE:
                break
    assert (attempt.outcome, attempt.usage) == ("cancelled", Usage(5, 2))


async def test_a_reader_who_leaves_after_the_finish_has_a_whole_answer() -> None:
    attempt = AttemptRecord("played")
    async with aclosing(guarded(Played(playing(START, HELLO, USAGE, END, forever))).generate(REQUEST, attempt)) as events:
        async for event in events:
            if event == END:
                break
    assert attempt.outcome == "ok"


async def test_a_cancel_while_the_provider_may_be_working_is_charged_for_its_input() -> None:
    attempt = AttemptRecord("played", called=True)
    task = asyncio.ensure_future(drain(guarded(Played(playing(forever))), attempt=attempt))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert (attempt.outcome, attempt.usage) == ("cancelled", Usage(input_tokens=11, source="estimated"))


async def test_a_timeout_seen_by_the_guard_is_recorded_as_one() -> None:
    attempt = AttemptRecord("played")
    with pytest.raises(BackendError):
        await drain(guarded(with_timeouts(Played(playing(START, HELLO, forever)), spec(0.02))), attempt=attempt)
    assert (attempt.outcome, attempt.error) == ("error", "backend_timeout")
    assert attempt.usage == Usage(input_tokens=11, output_tokens=2, source="estimated")
