"""Several backends at once for one request, and a judge that picks whose answer is delivered.

Each is reserved before it is called and booked for itself. The judge is held to the same constraints as any backend, and sees the answers as a client
would, moderated, without their authors. Whatever is wrong with a candidate or the judge, the request is answered if any candidate answered.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog
from msgspec import Struct

from adapters.collect import Collector, collect
from adapters.errors import BackendError
from adapters.types import Event
from policies.choosing import unit
from policies.decide import permitted
from policies.history import transcript
from policies.judging import TIE, asked_again, judge_request, picked
from policies.several import EnsemblePlan, helping
from router.attempts.attempt import Attempt
from router.attempts.bookings import Bookings
from router.attempts.course import Step
from router.money.settlement import CANDIDATES

if TYPE_CHECKING:
    from router.attempts.loop import Attempts
    from router.pipeline import Exchange

log = structlog.get_logger("headgate.pipeline")

JUDGED = 2
"""How often a judge is asked: once, and once more where its reply cannot be read."""


class EnsembleReport(Struct, frozen=True):
    """Who took part, for the `headgate` object. `why` says why nobody chose: then it is the first that answered. `left_out` says why, by candidate."""

    candidates: tuple[str, ...]
    chosen: str
    judge: str
    left_out: dict[str, str]
    why: str = ""

    @property
    def code(self) -> str:
        return f"ensemble:first:{self.why}" if self.why else "ensemble:judged"


class _Run:
    """One candidate at work. `failure` is why it has no answer."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.events: list[Event] = []
        self.failure: BackendError | None = None

    @property
    def name(self) -> str:
        return self.attempt.plan.backend

    async def work(self) -> None:
        try:
            async with aclosing(self.attempt.events()) as events:
                async for event in events:
                    self.events.append(event)
        except BackendError as error:
            self.failure = error

    def text(self) -> str:
        """The answer as the judge reads it: of its first choice."""
        collector = Collector()
        for event in self.events:
            collector.add(event)
        choice = collector.result().choices[0]
        return transcript((choice.message,)).removeprefix("assistant: ") + choice.refusal


class Ensemble:
    """The ensemble of one request. `report` is None until somebody was chosen."""

    def __init__(self, exchange: Exchange, attempts: Attempts, bookings: Bookings) -> None:
        self._exchange = exchange
        self._attempts = attempts
        self._bookings = bookings
        self._over = False
        self._left_out: dict[str, str] = {}
        self.report: EnsembleReport | None = None

    @property
    def plan(self) -> EnsemblePlan | None:
        decision = self._exchange.decision
        return None if decision is None else decision.ensemble

    @property
    def reasons(self) -> tuple[str, ...]:
        if self.report is not None:
            return (self.report.code,)
        return (f"ensemble:off:{self.plan.off}",) if self.plan is not None and self.plan.off else ()

    def takes(self, attempt: Attempt) -> bool:
        """Whether this attempt is the first of an ensemble. A request gets one."""
        return self.plan is not None and self.plan.live and not self._over and attempt.plan.backend in self.plan.candidates

    async def events(self, first: Attempt) -> AsyncGenerator[Event, None]:
        """The chosen answer's events. Raises the first candidate's error where none of them answered; closes all."""
        self._over = True
        runs = [_Run(first), *map(_Run, await self._others(first))]
        if len(runs) == 1:
            async with aclosing(first.events()) as events:
                self._chosen(runs[0], runs, "one_candidate")
                async for event in events:
                    yield event
            return
        tasks = [asyncio.ensure_future(run.work()) for run in runs]
        try:
            await asyncio.wait(tasks)
            for task in tasks:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        answered = [run for run in runs if run.failure is None]
        for run in runs:
            run.attempt.avoids = False  # what all of them cost was spent to have the best
            if run.failure is not None:
                self._left_out[run.name] = run.failure.code
                if run is not runs[0] or answered:  # else the loop counts it, which it is raised to
                    self._exchange.gateway.metrics.attempt_failed(run.name, run.failure.code)
            await asyncio.shield(self._exchange.gateway.background(self._bookings.settle(run.attempt, run.failure)))
        if not answered:
            assert runs[0].failure is not None
            raise runs[0].failure
        self._left_out.update({run.name: "blocked" for run in answered if run.attempt.moderation.blocked})
        fit = [run for run in answered if not run.attempt.moderation.blocked]
        if len(fit) > 1:
            chosen, why = await self._judge(fit)
        else:
            chosen, why = (fit or answered)[0], "one_answer"
        self._chosen(chosen, runs, why)
        for event in chosen.events:
            yield event

    async def _others(self, first: Attempt) -> list[Attempt]:
        """The further candidates, each with its bound reserved. One that is not permitted, ready or affordable any more is left out."""
        exchange, plan, decision = self._exchange, self.plan, self._exchange.decision
        assert plan is not None
        assert decision is not None
        found: list[Attempt] = []
        for name in plan.candidates:
            if name == first.plan.backend:
                continue
            if name not in decision.candidates:  # one of its own limits is reached
                self._left_out[name] = "rate_limit"
                continue
            self._attempts.set_aside(name)
            if not permitted(exchange.active.policy, exchange.features, exchange.state(), name):
                self._left_out[name] = "unavailable"
                continue
            await exchange.summarise(name, ())
            attempt = exchange.make_attempt(Step(name), "candidate", CANDIDATES[len(found) + 1])
            if refused := await self._attempts.reserve_beside(attempt):
                self._left_out[name] = refused
            else:
                found.append(attempt)
        return found

    async def _judge(self, runs: list[_Run]) -> tuple[_Run, str]:
        """The judge's choice among those that answered; the first of them where it has none, and why."""
        exchange, plan = self._exchange, self.plan
        assert plan is not None
        if not permitted(exchange.active.policy, helping(exchange.features), exchange.state(), plan.judge):
            return runs[0], "judge_unavailable"
        seed = exchange.seed
        shuffled = sorted(runs, key=lambda run: unit(f"{seed}\njudge\n{run.name}"))
        labels = {secrets.token_hex(4).upper(): run for run in shuffled}
        shown = {label: run.text() for label, run in labels.items()}
        deadline = exchange.call.request.deadline
        request = judge_request(exchange.call.request.messages, shown, secrets.token_hex(8), exchange.partition, deadline)
        for turn in range(JUDGED):
            attempt = exchange.helper(plan.judge, request, "judge")
            if refused := await self._attempts.reserve_beside(attempt):
                return runs[0], "judge_unavailable" if turn else refused
            failure: BaseException | None = None
            try:
                said = (await collect(attempt.events())).choices[0].text
            except BackendError as error:
                failure = error
                exchange.gateway.metrics.attempt_failed(plan.judge, error.code)
                return runs[0], f"judge_failed:{error.code}"
            except BaseException as error:
                failure = error
                raise
            finally:
                if failure is None or isinstance(failure, Exception):  # what is cancelled is booked when the request closes its books
                    await asyncio.shield(exchange.gateway.background(self._bookings.settle(attempt, failure)))
            choice = picked(said, tuple(labels))
            if choice == TIE:
                return runs[0], "tie"
            if choice is not None:
                return labels[choice], ""
            request = msgspec.structs.replace(request, messages=(*request.messages, *asked_again(said, tuple(labels))))
        return runs[0], "judge_unreadable"

    def _chosen(self, chosen: _Run, runs: list[_Run], why: str) -> None:
        assert self.plan is not None
        self._attempts.take_over(chosen.attempt, runs[0].attempt)
        for run in runs:
            outcome: Literal["chosen", "passed_over", "failed"] = "chosen" if run is chosen else "failed" if run.failure is not None else "passed_over"
            self._exchange.gateway.metrics.ensemble(run.name, outcome)
        self.report = EnsembleReport(tuple(run.name for run in runs), chosen.name, self.plan.judge, dict(self._left_out), why)
        log.info("ensemble", request_id=self._exchange.request_id, chosen=chosen.name, judge=self.plan.judge, why=why)
