"""A cheap model's answer, held until it is verified, and the stronger backend that answers in its place where it will not do.

At most one escalation a request, within its deadline, its `max_cost_usd` and every budget, to a backend that the constraints permit. Where nothing comes of
it, the cheap answer is delivered. What a client sees is one attempt's answer, whole: never the beginning of one and the end of another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog
from msgspec import Struct

from adapters.backend import Backend
from adapters.collect import collect
from adapters.errors import BackendError, InvalidOutput
from adapters.types import Event, GenerateRequest
from policies.decide import permitted
from policies.several import CascadePlan
from policies.verification.answer import Answer, Finding, Verdict
from policies.verification.asked import asked_of
from policies.verification.spec import Cascade, FirstTokens
from policies.verification.verify import agreed, verify
from router.attempts.attempt import Attempt
from router.attempts.bookings import Bookings
from router.attempts.course import Step
from router.attempts.watch import Watch
from router.money.settlement import Purpose

if TYPE_CHECKING:
    from router.attempts.loop import Attempts
    from router.pipeline import Exchange

log = structlog.get_logger("headgate.pipeline")

WATCHED: frozenset[Purpose] = frozenset({"answer", "hedge", "sample"})
SAMPLE_TEMPERATURE = 0.7
"""Of the second sample, where the request asks for less: at 0 a model agrees with itself whatever it says."""


class CascadeReport(Struct, frozen=True):
    """What became of an answer that was looked at, for the `headgate` object. `why` says why a failed or unknown answer was kept."""

    backend: str
    verdict: Literal["verified", "escalated", "kept"]
    failed: tuple[str, ...]
    signals: dict[str, float]
    escalated_to: str | None = None
    why: str = ""

    @property
    def code(self) -> str:
        detail = self.failed[0] if self.verdict == "escalated" else self.why
        return f"cascade:{self.verdict}" + (f":{detail}" if detail else "")


class Cascading:
    """The cascade of one request. `report` is None until an answer was judged."""

    def __init__(self, exchange: Exchange, attempts: Attempts, bookings: Bookings) -> None:
        self._exchange = exchange
        self._attempts = attempts
        self._bookings = bookings
        self._over = False
        self._refused = ""
        """The backend that refused this request, perhaps for its log probabilities."""
        self.report: CascadeReport | None = None

    @property
    def _plan(self) -> CascadePlan | None:
        decision = self._exchange.decision
        return None if decision is None else decision.cascade

    @property
    def _spec(self) -> Cascade:
        spec = self._exchange.active.policy.file.cascade
        assert spec is not None, "a decision has a cascade only where the policy has one"
        return spec

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is to be said of it, as reason codes."""
        if self.report is not None:
            return (self.report.code,)
        plan = self._plan
        return (f"cascade:off:{plan.off}",) if plan is not None and plan.off else ()

    @property
    def live(self) -> bool:
        """Whether an answer of one of the candidates may be looked at."""
        return self._plan is not None and self._plan.live and not self._over

    def watch(self, name: str, backend: Backend, purpose: Purpose, request: GenerateRequest) -> tuple[Watch | None, GenerateRequest]:
        """What to put an attempt's answer aside with, where it is to be verified; and the request, with log probabilities where the backend gives them."""
        plan = self._plan
        if plan is None or not self.live or purpose not in WATCHED or name not in plan.on:
            return None, request
        asks = "logprob" in self._spec.verify and request.logprobs is None and backend.capabilities.logprobs
        asks = asks and name != self._refused and name not in self._exchange.active.without_logprobs
        watch = Watch(asked_of(self._exchange.call.request, self._exchange.form, len(self._exchange.passages)), hide_logprobs=asks)
        return watch, msgspec.structs.replace(request, logprobs=0) if asks else request

    def asked_too_much(self, attempt: Attempt, error: BackendError) -> bool:
        """Whether the attempt may have failed for its log probabilities, which the client never asked for: then it is to be made again, without."""
        if error.code != "invalid_request" or attempt.watch is None or not attempt.watch.hide_logprobs:
            return False
        self._refused = attempt.plan.backend
        return True

    # --- the answer ------------------------------------------------------------------------------------------------------------------

    async def events(self, attempt: Attempt, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
        """The events of the attempt, or of the one in its place. Raises what the delivered attempt raises; closes both."""
        held: list[Event] = []
        spec, ended, failure = self._spec, True, None
        async with aclosing(events):
            try:
                async for event in events:
                    if self._watched is None or not spec.max_escalations:
                        for early in (*held, event):
                            yield early
                        held.clear()
                        continue
                    held.append(event)
                    if self._enough(spec):
                        ended = False
                        break
            except InvalidOutput as error:
                if self._watched is None or not spec.max_escalations or "format" not in spec.verify:
                    raise
                failure = error
            cheap = self._attempts.current or attempt
            if cheap.watch is None:
                return
            verdict = Verdict((Finding("format", False, None, "format:json"),)) if failure is not None else await self._verdict(cheap, whole=ended)
            if verdict.failed and spec.max_escalations:
                async with aclosing(self._instead(cheap, verdict, events, ended, failure)) as instead:
                    async for event in instead:
                        yield event
                if self.report is not None and self.report.verdict == "escalated":
                    return
                if failure is not None:
                    raise failure
            else:
                kept = "" if verdict.verified else "blocked" if cheap.moderation.blocked else "max_escalations" if verdict.failed else "unchecked"
                self._reported(cheap, verdict, why=kept)
            for event in held:
                yield event
            async for event in events:
                yield event

    @property
    def _watched(self) -> Watch | None:
        """The watch of the attempt that answers: a hedge may have taken the first one's place."""
        return None if self._attempts.current is None else self._attempts.current.watch

    def _enough(self, spec: Cascade) -> bool:
        """Whether what has come so far can be judged already."""
        request = self._exchange.call.request
        if not isinstance(spec.stream, FirstTokens) or not self._exchange.call.stream or request.n > 1 or self._watched is None:
            return False
        return self._watched.reached(spec.stream.first_tokens) and not self._watched.ended

    async def _verdict(self, cheap: Attempt, *, whole: bool) -> Verdict:
        assert cheap.watch is not None
        if cheap.moderation.blocked:  # it ends here by the policy's own word: nothing is wrong with it that another model would mend
            return Verdict(())
        spec, asked = self._spec, cheap.watch.asked
        answers = cheap.watch.answers()
        verdicts = [verify(spec, asked, answer) for answer in answers]
        verdict = next((each for each in verdicts if each.failed), verdicts[0])
        if "agreement" not in spec.verify or verdict.failed or not whole or answers[0].calls:
            return verdict
        return verdict.with_finding(await self._agreement(cheap, answers[0]))

    async def _agreement(self, cheap: Attempt, answer: Answer) -> Finding:
        """A second answer of the same model, held against the first. Where none can be had, nothing is known."""
        unknown = Finding("agreement", None)
        second = self._exchange.make_attempt(Step(cheap.plan.backend, added=self._attempts.added), "sample", "sample")
        assert second.watch is not None
        if await self._attempts.reserve_beside(second):
            return unknown
        failure: BaseException | None = None
        try:
            await collect(second.events())
        except InvalidOutput as error:
            failure = error
            return Finding("agreement", False, 0.0, "agreement")
        except BackendError as error:
            failure = error
            return unknown
        except BaseException as error:
            failure = error
            raise
        finally:
            if failure is None or isinstance(failure, Exception):  # what is cancelled is booked when the request closes its books
                await self._settle(second, failure)
        return agreed(self._spec, answer, second.watch.answers()[0])

    # --- the one in its place --------------------------------------------------------------------------------------------------------

    async def _instead(
        self, cheap: Attempt, verdict: Verdict, events: AsyncGenerator[Event, None], ended: bool, failure: BackendError | None
    ) -> AsyncGenerator[Event, None]:
        """The stronger backend's events; none where it could not answer. `report` says which. A cheap stream that has not ended waits for its first delta."""
        self._over = True
        if ended:
            await self._spare(cheap, failure)
        strong, why = await self._stronger()
        if strong is None:
            self._reported(cheap, verdict, why=why)
            return
        held: list[Event] = []
        took_over = False
        try:
            async with aclosing(strong.events()) as stronger:
                async for event in stronger:
                    if not self._exchange.call.stream:  # nobody has seen any of it until all of it is there
                        held.append(event)
                        continue
                    if not took_over:
                        took_over = True
                        await self._take_over(cheap, strong, verdict, events, ended)
                    yield event
        except BackendError as error:
            self._bookings.failed(strong, error)
            if took_over:
                raise
            self._exchange.gateway.metrics.attempt_failed(strong.plan.backend, error.code)
            await self._settle(strong, error)
            self._reported(cheap, verdict, why=error.code)
            return
        if not took_over:
            await self._take_over(cheap, strong, verdict, events, ended)
        for event in held:
            yield event

    async def _stronger(self) -> tuple[Attempt | None, str]:
        """The attempt in its place, its bound reserved; or why there is none."""
        exchange, why = self._exchange, "unavailable"
        deadline = exchange.call.request.deadline
        if deadline is not None and time.time() >= deadline:
            return None, "deadline"
        for name in self._plan.to if self._plan is not None else ():
            if self._attempts.has_tried(name) or not permitted(exchange.active.policy, exchange.features, exchange.state(), name):
                continue
            await exchange.summarise(name, ())
            attempt = exchange.make_attempt(Step(name), "escalated", "escalated")
            if not (refused := await self._attempts.reserve_beside(attempt)):
                return attempt, ""
            why = refused
        return None, why

    async def _spare(self, cheap: Attempt, failure: BackendError | None) -> None:
        """Book the answer that did not pass, so that what it did not use of its bound is free for the one in its place."""
        if failure is not None:  # the loop books it, with a repair or at the end
            self._bookings.failed(cheap, failure)
            return
        cheap.avoids = False
        await self._settle(cheap, None)

    async def _take_over(self, cheap: Attempt, strong: Attempt, verdict: Verdict, events: AsyncGenerator[Event, None], ended: bool) -> None:
        self._attempts.take_over(strong, cheap)
        self._reported(cheap, verdict, to=strong.plan.backend)
        if not ended:  # it waited in case nothing came of the other one
            await events.aclose()
            cheap.avoids = False
            self._attempts.losing(self._bookings.settle(cheap, asyncio.CancelledError()))

    async def _settle(self, attempt: Attempt, failure: BaseException | None) -> None:
        await asyncio.shield(self._exchange.gateway.background(self._bookings.settle(attempt, failure)))

    def _reported(self, cheap: Attempt, verdict: Verdict, *, why: str = "", to: str | None = None) -> None:
        name = cheap.plan.backend
        if name == self._refused:  # and now it answered: it was for them
            self._exchange.active.without_logprobs.add(name)
        said: Literal["verified", "escalated", "kept"] = "escalated" if to is not None else "kept" if why else "verified"
        self.report = CascadeReport(name, said, verdict.failed, verdict.values, to, why)
        self._exchange.gateway.metrics.cascade(name, said)
        log.info("cascade", request_id=self._exchange.request_id, backend=name, verdict=said, failed=verdict.failed, to=to, why=why)


def another_sample(request: GenerateRequest) -> GenerateRequest:
    """The request for a second, independent answer: one, drawn anew."""
    temperature = request.temperature
    if temperature is not None and temperature < SAMPLE_TEMPERATURE:
        temperature = SAMPLE_TEMPERATURE
    return msgspec.structs.replace(request, n=1, temperature=temperature, seed=None if request.seed is None else request.seed + 1)
