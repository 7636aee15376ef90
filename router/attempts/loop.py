"""The attempts of one request, one after the other, or two beside each other: which is made next, what it has set aside, whose answer it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from adapters.cost import picodollars, usd_float
from adapters.errors import BackendError
from adapters.types import Event
from policies.decide import permitted
from router.attempts.attempt import Attempt
from router.attempts.bookings import Bookings
from router.attempts.course import Course, Step
from router.attempts.hedging import Runner, raced
from router.http.errors import ApiError
from router.money.books import BudgetExceeded

if TYPE_CHECKING:
    from router.pipeline import Exchange

log = structlog.get_logger("headgate.pipeline")

BUDGET_ROUNDS = 5
"""How often a request decides anew when others take the budget between its decision and its reservation."""

FIRST_BUDGET_WAIT_S, LONGEST_BUDGET_WAIT_S = 0.05, 0.5
"""How often a request that waits for money (`budget_wait_s`) looks for it."""


class Attempts:
    """What an exchange has decided, carried out. `current` is the attempt that runs, or ran last; `blocked` or `ok` is its `outcome` once it ended well."""

    def __init__(self, exchange: Exchange, bookings: Bookings) -> None:
        self._exchange = exchange
        self._gateway = exchange.gateway
        self._active = exchange.active
        self._bookings = bookings
        self.current: Attempt | None = None
        self.outcome = ""
        self.failed: list[tuple[str, BackendError]] = []
        """Which backends failed, and why, in order; those of hedges that lost do not count."""
        self.repairs = 0
        self.upstream_s = 0.0
        """What was waited for before the current attempt began: backends that failed, and pauses."""
        self._step = Step("")
        self._failures: list[str] = []
        """The codes of the errors so far."""
        self._hedge: Attempt | None = None
        self._losing: list[asyncio.Task[None]] = []

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events of the first attempt that answers. Raises the last one's error, or `ApiError` for a budget that allows nothing."""
        course = Course({name: configured.spec.retry for name, configured in self._active.policy.backends.items()}, self._exchange.call.request.deadline)
        last: BackendError | None = None
        while (attempt := await self._next(course, last)) is not None:
            committed = False
            held: list[Event] = []
            try:
                async with aclosing(self._hedged(attempt)) as events:
                    async for event in events:
                        if not self._exchange.call.stream:  # nobody has seen any of a whole answer until all of it is there
                            held.append(event)
                            continue
                        committed = True
                        yield event
            except BackendError as error:
                attempt = self.current or attempt  # its hedge may have taken its place
                self._gateway.metrics.attempt_failed(attempt.backend.name, error.code)
                self._bookings.failed(attempt, error)
                self.failed.append((attempt.plan.backend, error))
                self.upstream_s += time.perf_counter() - attempt.began
                if committed or error.code == "invalid_request":  # malformed for one is malformed for all
                    raise
                last = error
                self._failures.append(error.code)
                continue
            self.outcome = "blocked" if (self.current or attempt).moderation.blocked else "ok"
            for event in held:
                yield event
            return
        assert last is not None, "with no candidate left and nothing tried, _next raises"
        raise last

    async def _next(self, course: Course, last: BackendError | None) -> Attempt | None:
        """Wait for and reserve what the course says comes next; None where nothing is left. Raises `ApiError` 402 where nothing could be tried.

        A budget that refuses changes the decision: what it still affords is decided anew, with the policy's `on_budget_end`. So does the request's own
        `max_cost_usd`, of which what was spent leaves less: a candidate that may cost more makes way for the next.
        """
        exchange, rounds, wait = self._exchange, 0, FIRST_BUDGET_WAIT_S
        until = time.monotonic() + exchange.tenant.budget_wait_s
        while rounds < BUDGET_ROUNDS:
            rounds += 1
            assert exchange.decision is not None
            step = course.following(exchange.decision.order(self._failures), last, self._active.ready)
            if step is None:
                return None
            if step.wait_s:
                await asyncio.sleep(step.wait_s)
                self.upstream_s += step.wait_s
            await exchange.summarise(step.backend, step.added)
            attempt = exchange.make_attempt(step, f"{course.bodies + (step.kind != 'retry')}")
            await self.stopped()
            most = self._most_left()
            try:
                if most is not None and usd_float(attempt.plan.amount) > most:
                    raise BudgetExceeded(exchange.principal.tenant, attempt.plan.amount)
                await self._bookings.begin(attempt)
            except BudgetExceeded as error:
                self._gateway.alerts.refused(error.short)
                course.cannot_afford(step)
                left, at_best = await self._bookings.remaining()
                try:
                    exchange.decide(left, most)
                except ApiError:
                    if last is not None:
                        return None
                    if time.monotonic() + wait > until:
                        raise
                    exchange.decide(at_best, most)  # what is spent does not come back: then there is nothing to wait for
                    await asyncio.sleep(wait)
                    rounds, wait = 0, min(2 * wait, LONGEST_BUDGET_WAIT_S)
                continue
            course.took(step)
            self.repairs += step.kind == "repair"
            if step.kind == "retry" and last is not None:
                self._gateway.metrics.retried(step.backend, last.code)
            self.current, self._step = attempt, step
            return attempt
        if last is not None:
            return None
        raise ApiError(402, "budget_exceeded", "The budget is being used up by other requests; try again, or ask your administrator for a larger one.")

    def _most_left(self) -> float | None:
        """What the next attempt may cost at most, in USD, of the request's `max_cost_usd`; None without one."""
        most, spent = self._exchange.features.max_cost_usd, self._bookings.spent()
        return most if most is None or not spent else usd_float(max(0, picodollars(most) - spent))

    # --- a second attempt beside a slow first one --------------------------------------------------------------------------------------

    def _hedged(self, attempt: Attempt) -> AsyncGenerator[Event, None]:
        """The attempt's events, or those of its hedge, where its backend has one. A request gets one hedge."""
        hedge = self._active.policy.backends[attempt.plan.backend].spec.hedge
        held_back = attempt.structured is not None and attempt.structured.hold  # its first delta comes last: that says nothing about its speed
        if hedge is None or self._hedge is not None or held_back:
            return attempt.events()
        name = hedge.backend or attempt.plan.backend
        return raced(attempt, hedge.after_s, lambda: self._second(attempt, name), self._won, self._lost)

    async def _second(self, primary: Attempt, name: str) -> Attempt | None:
        """The hedge, its bound reserved beside the primary's. None where it is not permitted, not ready, or not affordable."""
        exchange = self._exchange
        if not self._may_hedge(name) or (name == primary.plan.backend and not primary.record.called):  # which waits in the queue that its hedge would join
            return None
        try:
            await exchange.summarise(name, self._step.added)
            attempt = exchange.make_attempt(Step(name, added=self._step.added), "hedge", "hedge")
            most = exchange.features.max_cost_usd
            if most is not None and usd_float(self._bookings.cost + primary.plan.amount + attempt.plan.amount) > most:
                return None
            self._hedge = attempt
            await self._bookings.begin(attempt)
        except (BudgetExceeded, SQLAlchemyError, OSError) as error:
            log.info("not_hedged", request_id=exchange.request_id, backend=name, reason=type(error).__name__)
            self._hedge = None
            return None
        except asyncio.CancelledError:  # the primary was quicker, or the client left
            if self._hedge is not None:
                self._losing.append(self._gateway.background(self._bookings.give_back(self._hedge)))
            raise
        return attempt

    def _may_hedge(self, name: str) -> bool:
        """A named backend must be one that the constraints permit to this request, and a pin stays with what it pins."""
        exchange = self._exchange
        assert exchange.decision is not None
        if not self._active.ready(name):
            return False
        if name in exchange.decision.candidates:
            return True
        return exchange.rule != "pin" and permitted(self._active.policy, exchange.features, exchange.state(), name)

    def _won(self, attempt: Attempt) -> None:
        if attempt is self._hedge and self.current is not None:
            self._gateway.metrics.hedged(attempt.plan.backend, "won")
            self.upstream_s += max(0.0, attempt.began - self.current.began)
        self.current = attempt

    def _lost(self, runner: Runner) -> None:
        """Stop it at once, and book what it used; the answer does not wait for that."""
        self._losing.append(self._gateway.background(self._stop(runner)))

    async def _stop(self, runner: Runner) -> None:
        await runner.stop()
        if runner.attempt is self._hedge:
            self._gateway.metrics.hedged(runner.attempt.plan.backend, "lost" if runner.failure is None else "failed")
        if runner.failure is not None:
            self._gateway.metrics.attempt_failed(runner.attempt.plan.backend, runner.failure.code)
        await self._bookings.settle(runner.attempt, runner.failure or asyncio.CancelledError())

    async def stopped(self) -> None:
        """Wait for attempts that lost a race: their purpose is free again, and what they cost is known."""
        if self._losing:
            await asyncio.wait(self._losing)
