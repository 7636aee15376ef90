"""The one request flow. Read it top to bottom and you know the product.

limits -> data class -> ground -> decide -> [ reserve -> generate -> cite -> moderate ] per candidate -> settle

The order is the security and the billing argument: nothing is retrieved before the request passed the input rules, nothing is called
before its upper bound is reserved, nothing is delivered before it is moderated, and every exit settles.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec
import structlog

from adapters.backend import Backend, DataClass, estimate_tokens
from adapters.cost import picodollars, upper_bound, usd_float
from adapters.errors import BackendError, BackendUnavailable
from adapters.output_limits import LONGEST_OUTPUT_TOKENS, default_output_tokens
from adapters.types import (
    AttemptRecord,
    Citation,
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    Passage,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)
from policies.access import Principal
from policies.decide import Decision, decide
from policies.features import extract, highest
from policies.limits import check_input
from retrieval.cite import cite
from retrieval.values import SearchRequest
from router.books import BudgetExceeded
from router.gateway import Gateway
from router.http.errors import ApiError
from router.moderating import Moderation
from router.policy_in_force import ActivePolicy
from router.settlement import LARGEST_AMOUNT, AttemptPlan, Booking, Caps, Settlement, measured
from router.wire.call import Call
from router.wire.headgate import Headgate

log = structlog.get_logger("headgate.pipeline")

BUDGET_ROUNDS = 5
"""How often a request decides anew when others take the budget between its decision and its reservation."""


class Exchange:
    """One request from its decoded call to its ledger row.

    `prepare` decides; `events` generates. `events` may be closed or cancelled at any point: the upstream stops at once, and the settlement
    runs to its end in the background.
    """

    def __init__(self, gateway: Gateway, principal: Principal, call: Call, request_id: str) -> None:
        self.gateway = gateway
        self.principal = principal
        self.call = call
        self.request_id = request_id
        self.created = time.time()
        self.started = time.perf_counter()
        self.upstream_s = 0.0
        self.overhead_s: float | None = None
        self.active: ActivePolicy = gateway.policy.acquire()
        self.tenant = self.active.policy.tenant(principal.tenant)
        self.data_class: DataClass = "internal"
        self.passages: tuple[Passage, ...] = ()
        self.decision: Decision | None = None
        self.moderation = Moderation(self.active.policy.moderation_rules(principal.tenant))
        self.citations: list[Citation] = []
        self.finished: list[Finished] = []
        self.usage = Usage(source="counted")
        self.cost = 0
        self.backend_name = ""
        self.model = ""
        self.outcome = "refused"
        self._answer = ""
        self._tried: set[str] = set()
        self._booking: Booking | None = None
        self._reserving: asyncio.Task[None] | None = None
        self._record = AttemptRecord(backend="")
        self._generating = False

    # --- before the first call -------------------------------------------------------------------------------------------------------

    async def prepare(self, *, with_budget: bool = False) -> Decision:
        """Check, ground and decide. Nothing is billed here. Raises `ApiError`.

        The budget is asked when it is reserved from; `with_budget` asks it now, for an explanation.
        """
        call, policy = self.call, self.active.policy
        refusal = check_input(call.request, policy.file.input, estimate_tokens(call.request).n)
        if refusal is not None:
            raise ApiError(refusal.status, refusal.code, f"{refusal.message}.", param=refusal.param)
        self.data_class = highest(self.tenant.data_class, call.hints.data_class or "public")
        await self._ground()
        self._request = msgspec.structs.replace(
            call.request, model=call.model, context=self.passages, grounded=bool(self._stores()), partition=self._partition(), whole=not call.stream
        )
        self._features = extract(
            self._request,
            self.principal,
            data_class=self.data_class,
            input_tokens=estimate_tokens(self._request).n,
            max_cost_usd=call.hints.max_cost_usd,
        )
        remaining = await self.gateway.accounting.remaining(self.principal.tenant, self._caps()) if with_budget else None
        return self._decide(remaining)

    def _decide(self, remaining: int | None) -> Decision:
        """Raises `ApiError` where nothing is permitted. Upper costs are counted only where something depends on them."""
        costs = None
        if remaining is not None or self.call.hints.max_cost_usd is not None:
            costs = {name: self._plan(name, backend)[1].amount for name, backend in self.active.backends.items()}
        self.decision = decide(self.active.policy, self._features, self.active.state(self._seed(), self.principal, costs, remaining))
        if self.decision.outcome != "ok":
            raise ApiError(self.decision.status, self.decision.outcome, f"{_sentence(self.decision.message)}.", param=self.decision.param)
        return self.decision

    def _seed(self) -> str:
        """The seed of weighted rules: the client's, or one of this request's own."""
        return str(self.call.hints.seed) if self.call.hints.seed is not None else self.request_id

    @property
    def rule(self) -> str:
        """What decided: a rule's name, or `pin`, `complexity`, `default`."""
        if self.decision is None:
            return ""
        return self.decision.rule or (self.decision.reasons[0].partition(":")[0] if self.decision.reasons else "")

    def _stores(self) -> tuple[str, ...]:
        return self.call.stores or self.active.policy.grounding(self.principal.tenant).stores

    def _partition(self) -> str:
        return hashlib.sha256(b"tenant:" + self.principal.tenant.encode()).hexdigest()[:16]

    async def _ground(self) -> None:
        stores = self._stores()
        if not stores:
            return
        question = next((message.text for message in reversed(self.call.request.messages) if message.role == "user"), "")
        await self.gateway.require_stores(self.principal.tenant, stores, self.call.stores_param)
        limit = self.call.search_limit or self.active.policy.grounding(self.principal.tenant).limit
        found = await self.gateway.search(SearchRequest(tenant=self.principal.tenant, stores=stores, query=question, limit=limit))
        self.passages = found.passages
        if found.passages:
            self.data_class = highest(self.data_class, found.data_class)

    # --- the attempts ----------------------------------------------------------------------------------------------------------------

    async def events(self) -> AsyncGenerator[Event, None]:
        """Moderated events of the first candidate that answers; `finished`, `usage`, `cost` and `citations` hold once it ends.

        A failure before the first delivered delta (of a whole answer: before its end) tries the next candidate; after it, or when none is
        left, a `BackendError` (or an `ApiError`, for a budget that allows nothing) is raised. Only deltas and opaque items are yielded.
        """
        failure: BaseException | None = None
        self._generating = True
        try:
            async with aclosing(self._candidates()) as events:
                async for event in events:
                    yield event
        except BaseException as error:
            failure = error
            raise
        finally:
            settling = self.gateway.background(self._settle(failure))
            if not isinstance(failure, asyncio.CancelledError | GeneratorExit):
                await asyncio.shield(settling)

    async def _candidates(self) -> AsyncGenerator[Event, None]:
        last: BackendError | None = None
        while (planned := await self._next(last)) is not None:
            backend, request = planned
            committed = False
            held: list[Event] = []
            waited, began = self.upstream_s, time.perf_counter()
            try:
                async with aclosing(self._attempt(backend, request)) as events:
                    async for event in events:
                        if not self.call.stream:  # nobody has seen any of a whole answer until all of it is there
                            held.append(event)
                            continue
                        committed = True
                        yield event
            except BackendError as error:
                self.gateway.metrics.attempt_failed(backend.name, error.code)
                self.upstream_s = waited + time.perf_counter() - began
                if committed or error.code == "invalid_request":  # malformed for one is malformed for all
                    raise
                last = error
                continue
            self.outcome = "blocked" if self.moderation.blocked else "ok"
            for event in held:
                yield event
            return
        assert last is not None, "with no candidate left and nothing tried, _next raises"
        raise last

    async def _next(self, last: BackendError | None) -> tuple[Backend, GenerateRequest] | None:
        """Reserve for the next candidate that the budget allows; None where all were tried. Raises `ApiError` 402 where none could be tried.

        A budget that refuses changes the decision: what it still affords is decided anew, with the policy's `on_budget_end`.
        """
        assert self.decision is not None
        for _ in range(BUDGET_ROUNDS):
            name = next((name for name in self.decision.candidates if name not in self._tried), None)
            if name is None:
                return None
            backend = self.active.backends[name]
            request, plan = self._plan(name, backend)
            try:
                await self._reserve(plan, last)
            except BudgetExceeded:
                try:
                    self._decide(await self._remaining(last))
                except ApiError:
                    if last is not None:
                        return None
                    raise
                continue
            self._tried.add(name)
            self.backend_name, self.model = name, backend.model
            self._answer = ""
            return backend, request
        if last is not None:
            return None
        raise ApiError(402, "budget_exceeded", "The budget is being used up by other requests; try again, or ask your administrator for a larger one.")

    async def _remaining(self, last: BackendError | None) -> int:
        """What the budget leaves to the next attempt: the failed one's reservation is given back when this one's is made."""
        spent = 0 if self._booking is None else measured(self._record, self._booking.plan, last).cost
        left = await self.gateway.accounting.remaining(self.principal.tenant, self._caps(), self._booking, spent)
        return LARGEST_AMOUNT if left is None else min(left, LARGEST_AMOUNT)

    def _plan(self, name: str, backend: Backend) -> tuple[GenerateRequest, AttemptPlan]:
        request = self._request
        configured = self.active.policy.backends[name]
        price = self.active.price(name)
        longest = configured.spec.max_output_tokens or backend.capabilities.max_output
        if request.max_output_tokens is not None:
            limit: int | None = min(request.max_output_tokens, longest or LONGEST_OUTPUT_TOKENS)
        else:  # what costs money has a limit: without one there is no upper bound to reserve
            limit = longest or (default_output_tokens(backend.model) if price.output or price.tiers else None)
        request = msgspec.structs.replace(request, max_output_tokens=limit)
        bound = backend.count(request).upper
        output = (limit or 0) * request.n
        return request, AttemptPlan(
            backend=name,
            provider=backend.provider,
            model=backend.model,
            price=price,
            input_bound=bound,
            output_bound=output,
            amount=upper_bound(bound, output, price),
            rule=self.rule,
            started_at=time.time(),
        )

    def _caps(self) -> Caps:
        budget = self.tenant.budget_usd
        return Caps(day=_picodollars(budget.day), month=_picodollars(budget.month))

    async def _reserve(self, plan: AttemptPlan, last: BackendError | None) -> None:
        """Set the attempt's bound aside. A cancelled wait does not undo it: `_settle` waits for it and releases it."""
        self._reserving = self.gateway.background(self._book(plan, last))
        await asyncio.shield(self._reserving)

    async def _book(self, plan: AttemptPlan, last: BackendError | None) -> None:
        accounting = self.gateway.accounting
        if self._booking is None:
            booking = accounting.booking(self.request_id, self.principal.tenant, self.principal.key_id, self.active.version, self._caps(), plan)
            try:
                await accounting.open(booking)
            except BudgetExceeded:
                raise
            except Exception:
                self.gateway.background(self.gateway.release(booking))
                raise
            self._booking = booking
        else:
            settlement = measured(self._record, self._booking.plan, last)
            await accounting.next_attempt(self._booking, settlement, plan)
            self.cost += settlement.cost
        self._record = AttemptRecord(backend=plan.backend)

    async def _attempt(self, backend: Backend, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """One candidate's deltas, cited and moderated. `Finished` and usage stay here."""
        self.moderation = Moderation(self.moderation.rules)
        self.citations, self.finished = [], []
        began = time.perf_counter()
        first = True
        async with (
            aclosing(backend.generate(request, self._record)) as raw,
            aclosing(self._cited(raw)) as cited,
            aclosing(self.moderation.stage(cited)) as events,
        ):
            async for event in events:
                if first:
                    self.upstream_s += time.perf_counter() - began
                    self.overhead_s = max(0.0, time.perf_counter() - self.started - self.upstream_s)
                    first = False
                match event:
                    case TextDelta() | ReasoningDelta() | RefusalDelta() | ToolCallDelta() | ProviderItem():
                        yield event
                    case Finished():
                        self.finished.append(event)
                    case CitationAdded():
                        self.citations.append(event.citation)
                    case ResponseStarted():
                        self.model = event.model or self.model
                    case UsageReported():
                        self.usage = event.usage
        if not self.finished:
            raise BackendUnavailable(f"backend {backend.name!r} ended without an answer", backend=backend.name)
        self.citations = [self.moderation.follow(citation) for citation in self.citations]

    async def _cited(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        """Check every citation against the passages; where the model only marked its claims ([1]), make the citations from the marks."""
        passages = self.passages
        given = False
        async for event in events:
            match event:
                case CitationAdded():
                    given = True
                    if any(verbatim(event.citation, passage) for passage in passages):
                        yield event
                case Finished():
                    if passages and not given and event.choice == 0:
                        for citation in cite(self._answer, self.passages):
                            yield CitationAdded(citation)
                    yield event
                case TextDelta():
                    if passages and event.choice == 0:
                        self._answer += event.text
                    yield event
                case ReasoningDelta() | RefusalDelta() | ToolCallDelta() | ProviderItem() | ResponseStarted() | UsageReported():
                    yield event

    # --- the end ---------------------------------------------------------------------------------------------------------------------

    async def _settle(self, failure: BaseException | None) -> None:
        """Close the books. Waits for a reservation that is still being made, so that none is ever left open."""
        if self._reserving is not None:
            await asyncio.wait([self._reserving])
        try:
            if self._booking is None:
                return
            settlement = measured(self._record, self._booking.plan, failure)
            if self.moderation.blocked:
                settlement = msgspec.structs.replace(settlement, outcome="blocked")
            self.usage = settlement.usage
            self.cost += settlement.cost
            if failure is not None:
                self.outcome = settlement.outcome
            await self.gateway.settle(self._booking, settlement)
            try:
                self._observe(settlement)
            except Exception:  # a figure that cannot be counted is no reason to fail an answer
                log.exception("metrics_failed", request_id=self.request_id)
        finally:
            self.gateway.policy.release(self.active)

    def _observe(self, settlement: Settlement) -> None:
        for rule, count in self.moderation.counts().items():
            self.gateway.metrics.moderated(rule, count)
        self.gateway.metrics.request_done(
            backend=self.backend_name,
            outcome=settlement.outcome,
            usage=settlement.usage,
            cost=self.cost,
            duration_s=time.perf_counter() - self.started,
        )

    @property
    def ignored(self) -> tuple[str, ...]:
        """Tuning knobs of the request that the backend does not have, and `logprobs` where moderation drops them."""
        dropped = ("logprobs",) if self.call.request.logprobs is not None and self.moderation.active else ()
        return (*self._record.ignored, *(knob for knob in dropped if knob not in self._record.ignored))

    def close(self) -> None:
        """Give up a request that was never generated."""
        if not self._generating:
            self.gateway.policy.release(self.active)

    def headgate(self) -> Headgate:
        """What the answer says about itself. Complete once `events` has ended."""
        assert self.decision is not None
        return Headgate(
            backend=self.backend_name,
            model=self.model,
            rule=self.rule,
            reasons=self.decision.reasons,
            policy_version=self.active.version,
            cost_usd=usd_float(self.cost),
            decision_id=self.request_id,
            citations=tuple(self.citations),
            moderation=self.moderation.report(),
            decision=msgspec.to_builtins(self.decision) if self.call.hints.explain else None,
        )


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:]


def _picodollars(usd: float | None) -> int | None:
    return None if usd is None else picodollars(usd)


def verbatim(citation: Citation, passage: Passage) -> bool:
    """Whether the quote is, character for character, what the passage says at that place."""
    if citation.file_id != passage.file_id or not passage.start <= citation.start < citation.end <= passage.end:
        return False
    return passage.text[citation.start - passage.start : citation.end - passage.start] == citation.quote
