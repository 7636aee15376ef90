"""The circuit breaker, on a clock of its own."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapters.errors import BackendError, BackendTimeout, BreakerOpen, ContentRefused, DeadlinePassed, InvalidRequest, ProviderFault, QueueFull, RateLimited
from adapters.resilience import BreakerSpec
from adapters.types import AttemptRecord
from adapters.wrappers import Breaker, with_breaker
from tests.adapters.test_wrappers import END, HELLO, REQUEST, START, Played, drain, forever, playing

SPEC = BreakerSpec(failures=3, window_s=10.0, open_s=5.0)


@dataclass
class Bench:
    """A breaker on a clock that the test moves, and everything it told."""

    now: float = 100.0
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.breaker = Breaker(SPEC, clock=lambda: self.now, changed=self.told.append)

    def fail(self, error: Exception | None = None, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.failed(self.breaker.admit(), error or ProviderFault("x"))

    def answer(self) -> None:
        self.breaker.succeeded(self.breaker.admit())


def test_failures_in_a_row_open_it_and_it_says_why() -> None:
    bench = Bench()
    bench.fail(times=2)
    assert bench.breaker.state == "closed"
    bench.fail(BackendTimeout("x"))
    assert (bench.breaker.state, bench.told) == ("open", ["open"])
    assert bench.breaker.problem() == "its circuit breaker is open for 5 s more, after backend_timeout"
    with pytest.raises(BreakerOpen) as caught:
        bench.breaker.admit()
    assert caught.value.retry_after == 5.0


def test_an_answer_in_between_begins_the_count_anew() -> None:
    bench = Bench()
    for _ in range(5):
        bench.fail(times=2)
        bench.answer()
    assert bench.breaker.state == "closed"


def test_failures_further_apart_than_the_window_do_not_open_it() -> None:
    bench = Bench()
    for _ in range(6):
        bench.fail()
        bench.now += 5.1
    assert bench.breaker.state == "closed"


def test_after_a_while_one_request_tries_and_its_first_event_closes_it() -> None:
    bench = Bench()
    bench.fail(times=3)
    bench.now += 5.0
    assert (bench.breaker.state, bench.breaker.problem()) == ("half_open", None)
    ticket = bench.breaker.admit()
    with pytest.raises(BreakerOpen):
        bench.breaker.admit()
    assert bench.breaker.heard(ticket) != ticket
    assert (bench.breaker.state, bench.told) == ("closed", ["open", "half_open", "closed"])


def test_a_failed_try_opens_it_again_and_one_that_was_left_lets_another_try() -> None:
    bench = Bench()
    bench.fail(times=3)
    bench.now += 5.0
    bench.breaker.left(bench.breaker.admit())
    bench.fail()
    assert bench.breaker.opens_in_s == 5.0


def test_a_rate_limit_that_repeats_opens_it_for_as_long_as_the_provider_asks() -> None:
    bench = Bench()
    bench.fail(RateLimited("x", retry_after=40.0))
    assert bench.breaker.state == "closed"
    bench.fail(RateLimited("x", retry_after=42.0))
    assert bench.breaker.opens_in_s == 42.0


def test_results_of_requests_that_began_before_it_opened_change_nothing() -> None:
    bench = Bench()
    early = bench.breaker.admit()
    bench.fail(times=3)
    bench.breaker.succeeded(early)
    bench.breaker.failed(early, ProviderFault("x"))
    assert (bench.breaker.state, bench.breaker.opens_in_s) == ("open", 5.0)


@pytest.mark.parametrize("error", [InvalidRequest("x"), ContentRefused("x"), DeadlinePassed("x"), QueueFull("x")])
async def test_what_says_nothing_about_the_backends_health_never_opens_it(error: BackendError) -> None:
    breaker = Breaker(BreakerSpec(failures=1))
    backend = with_breaker(Played(playing(error)), breaker)
    for _ in range(3):
        with pytest.raises(type(error)):
            await drain(backend)
    assert breaker.state == "closed"


async def test_a_client_that_leaves_is_no_failure_and_an_exception_is_one() -> None:
    breaker = Breaker(BreakerSpec(failures=1))
    async with aclosing(with_breaker(Played(playing(START, HELLO, forever)), breaker).generate(REQUEST, AttemptRecord("played"))) as events:
        await anext(events)
        await anext(events)
    assert breaker.state == "closed"
    with pytest.raises(KeyError):
        await drain(with_breaker(Played(playing(START, KeyError("x"))), breaker))
    assert breaker.state == "open"


async def test_an_open_circuit_calls_nothing_and_is_not_ready() -> None:
    breaker = Breaker(BreakerSpec(failures=1))
    backend = Played(playing(ProviderFault("x")))
    broken = with_breaker(backend, breaker)
    with pytest.raises(ProviderFault):
        await drain(broken)
    backend.closed.clear()
    with pytest.raises(BreakerOpen):
        await drain(broken)
    assert not backend.closed.is_set()
    health = await broken.health()
    assert not health.ready
    assert "circuit breaker is open" in health.reason


async def test_a_backend_that_is_well_again_is_used_again() -> None:
    now = [0.0]
    breaker = Breaker(BreakerSpec(failures=1, open_s=5.0), clock=lambda: now[0])
    with pytest.raises(ProviderFault):
        await drain(with_breaker(Played(playing(ProviderFault("x"))), breaker))
    now[0] = 6.0
    well = with_breaker(Played(playing(START, HELLO, END)), breaker)
    assert await drain(well) == [START, HELLO, END]
    assert breaker.state == "closed"
    # The request that closed it counts like any other from then on.
    with pytest.raises(ProviderFault):
        await drain(with_breaker(Played(playing(START, ProviderFault("x"))), breaker))
    assert breaker.state == "open"


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: while open nothing passes, while half open at most one does, and it never stays shut for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker(SPEC, clock=lambda: self.now)
        self.out: list[int] = []

    @rule()
    def admit(self) -> None:
        state = self.breaker.state
        refused = self.breaker.problem() is not None
        try:
            self.out.append(self.breaker.admit())
        except BreakerOpen:
            assert refused
            assert state != "closed"
        else:
            assert not refused
            assert state != "open"

    @precondition(lambda self: self.out)
    @rule(data=st.data(), wait=st.none() | st.floats(0, 100))
    def fail(self, data: st.DataObject, wait: float | None) -> None:
        self.breaker.failed(self._one(data), RateLimited("x", retry_after=wait) if wait else ProviderFault("x"))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.breaker.succeeded(self._one(data))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.out) - 1))
        self.out[index] = self.breaker.heard(self.out[index])

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.breaker.left(self._one(data))

    @rule(seconds=st.floats(0.1, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def it_opens_again_after_a_while(self) -> None:
        assert self.breaker.opens_in_s <= 100
        if self.breaker.state == "half_open" and not self.out:
            assert self.breaker.problem() is None

    def _one(self, data: st.DataObject) -> int:
        return self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_the_breaker_keeps_its_promises_whatever_happens = BreakerMachine.TestCase
