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

from adapters.backend import Backend, DataClass, estimate_tokens
from adapters.cost import picodollars, upper_bound, usd_float
from adapters.errors import BackendError, BackendUnavailable
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
from policies.limits import check_limits
from retrieval.cite import cite
from retrieval.values import SearchRequest
from router.accounting import AttemptPlan, Booking, BudgetExceeded, Caps, Settlement, measured
from router.gateway import ActivePolicy, Gateway
from router.http.errors import ApiError
from router.moderating import Moderation
from router.wire.openai_chat import Call
from router.wire.openai_chat_out import Headgate

DEFAULT_MAX_OUTPUT_TOKENS = 16_384
"""What a paid request without a limit of its own may produce at most, where the backend's table sets no `max_output_tokens`: without a
limit there is no upper bound to reserve."""


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
        self._booking: Booking | None = None
        self._reserving: asyncio.Task[None] | None = None
        self._record = AttemptRecord(backend="")
        self._settled = False

    # --- before the first call -------------------------------------------------------------------------------------------------------

    async def prepare(self) -> Decision:
        """Check, ground and decide. Nothing is billed here. Raises `ApiError`."""
        call, policy = self.call, self.active.policy
        refusal = check_limits(policy.file.input, call.request)
        if refusal is not None:
            raise ApiError(refusal.status, refusal.code, refusal.message, param=refusal.param)
        self.data_class = highest(self.tenant.data_class, call.hints.data_class or "public")
        await self._ground()
        self._request = msgspec.structs.replace(
            call.request, model=call.model, context=self.passages, grounded=bool(self._stores()), partition=self._partition()
        )
        features = extract(
            self._request,
            self.principal,
            data_class=self.data_class,
            input_tokens=estimate_tokens(self._request).n,
            max_cost_usd=call.hints.max_cost_usd,
        )
        self.decision = decide(policy, features, self.active.state(self._seed()))
        return self.decision

    def _seed(self) -> int:
        """The seed of weighted rules: the client's, or one of this request's own."""
        return self.call.hints.seed if self.call.hints.seed is not None else int(self.request_id[:12], 16)

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
        found = await self.gateway.search(
            SearchRequest(tenant=self.principal.tenant, stores=stores, query=question, limit=self.call.search_limit or self.active.policy.grounding(self.principal.tenant).limit)
        )
        self.passages = found.passages
        if found.passages:
            self.data_class = highest(self.data_class, found.data_class)

    # --- the attempts ----------------------------------------------------------------------------------------------------------------

    async def events(self) -> AsyncGenerator[Event, None]:
        """Moderated events of the first candidate that answers; `finished`, `usage`, `cost` and `citations` hold once it ends.

        A failure before the first delivered delta tries the next candidate; after it, or when none is left, a `BackendError` (or an
        `ApiError`, for a budget that allows nothing) is raised. Only deltas are yielded.
        """
        failure: BaseException | None = None
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
        assert self.decision is not None
        last: BackendError | None = None
        refused: BudgetExceeded | None = None
        for name in self._with_budget_end(self.decision.candidates):
            backend = self.active.backends[name]
            request, plan = self._plan(name, backend)
            limit = self.call.hints.max_cost_usd
            if limit is not None and plan.amount > limit * 1e12:
                continue
            try:
                await self._reserve(plan, last)
            except BudgetExceeded as error:
                refused = error
                continue
            self.backend_name, self.model = name, backend.model
            committed = False
            try:
                async with aclosing(self._attempt(backend, request)) as events:
                    async for event in events:
                        committed = True
                        yield event
            except BackendError as error:
                self.gateway.metrics.attempt_failed(name, error.code)
                if committed or self._delivered_nothing_else_to_try(error):
                    raise
                last = error
                self._answer = ""
                continue
            self.outcome = "blocked" if self.moderation.blocked else "ok"
            return
        if last is not None:
            raise last
        if refused is not None:
            raise ApiError(402, "budget_exceeded", f"{refused}. Ask your administrator for a larger budget, or lower max_tokens.")
        raise ApiError(402, "max_cost_exceeded", "No permitted backend can answer within max_cost_usd; raise it or lower max_tokens.", param="headgate.max_cost_usd")

    @staticmethod
    def _delivered_nothing_else_to_try(error: BackendError) -> bool:
        """A request that is malformed is so for every candidate: say so at once."""
        return error.code == "invalid_request"

    def _with_budget_end(self, candidates: tuple[str, ...]) -> tuple[str, ...]:
        """The candidates, and last the backend the tenant falls to when its budget ends, where the decision's constraints allow it."""
        end = self.tenant.on_budget_end
        assert self.decision is not None
        if end is None or end in candidates or end not in self.decision.permitted:
            return candidates
        return (*candidates, end)

    def _plan(self, name: str, backend: Backend) -> tuple[GenerateRequest, AttemptPlan]:
        assert self.decision is not None
        request = self._request
        configured = self.active.policy.backends[name]
        price = configured.price
        limit = request.max_output_tokens or configured.spec.max_output_tokens
        if limit is None and (price.output or price.tiers):
            limit = backend.capabilities.max_output or DEFAULT_MAX_OUTPUT_TOKENS
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
            rule=self.decision.rule,
            started_at=time.time(),
        )

    async def _reserve(self, plan: AttemptPlan, last: BackendError | None) -> None:
        """Set the attempt's bound aside. A cancelled wait does not undo it: `_settle` waits for it and releases it."""
        self._reserving = self.gateway.background(self._book(plan, last))
        await asyncio.shield(self._reserving)

    async def _book(self, plan: AttemptPlan, last: BackendError | None) -> None:
        accounting = self.gateway.accounting
        if self._booking is None:
            budget = self.tenant.budget_usd
            caps = Caps(day=_picodollars(budget.day), month=_picodollars(budget.month))
            self._booking = await accounting.reserve(
                self.request_id, self.principal.tenant, self.principal.key_id, self.active.version, caps, plan
            )
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
                    first = False
                match event:
                    case TextDelta() | ReasoningDelta() | RefusalDelta() | ToolCallDelta():
                        yield event
                    case Finished():
                        self.finished.append(event)
                    case CitationAdded():
                        self.citations.append(event.citation)
                    case ResponseStarted():
                        self.model = event.model or self.model
                    case UsageReported():
                        self.usage = event.usage
                    case ProviderItem():
                        pass
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
        if self._settled:
            return
        self._settled = True
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
            self._observe(settlement)
        finally:
            self.gateway.policy.release(self.active)

    def _observe(self, settlement: Settlement) -> None:
        self.gateway.metrics.request_done(
            backend=self.backend_name,
            outcome=settlement.outcome,
            usage=settlement.usage,
            cost=self.cost,
            duration_s=time.perf_counter() - self.started,
        )

    @property
    def ignored(self) -> tuple[str, ...]:
        """Tuning knobs of the request that the backend does not have."""
        return self._record.ignored

    def close(self) -> None:
        """Give up a request that was never generated."""
        if not self._settled:
            self._settled = True
            self.gateway.policy.release(self.active)

    def headgate(self) -> Headgate:
        """What the answer says about itself. Complete once `events` has ended."""
        assert self.decision is not None
        return Headgate(
            backend=self.backend_name,
            model=self.model,
            rule=self.decision.rule,
            reasons=self.decision.reasons,
            policy_version=self.active.version,
            cost_usd=usd_float(self.cost),
            decision_id=self.request_id,
            citations=tuple(self.citations),
            moderation=self.moderation.report(),
            decision=msgspec.to_builtins(self.decision) if self.call.hints.explain else None,
        )


def _picodollars(usd: float | None) -> int | None:
    return None if usd is None else picodollars(usd)


def verbatim(citation: Citation, passage: Passage) -> bool:
    """Whether the quote is, character for character, what the passage says at that place."""
    if citation.file_id != passage.file_id or not passage.start <= citation.start < citation.end <= passage.end:
        return False
    return passage.text[citation.start - passage.start : citation.end - passage.start] == citation.quote
