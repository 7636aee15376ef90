"""The one request flow. Read it top to bottom and you know the product.

limits -> data class -> ground -> decide -> [ reserve -> generate -> cite -> moderate ] per attempt -> settle

What is in brackets stands in `router.attempts`: the loop in `loop`, what an attempt is in `attempt`, which one comes next in `course`, and what
is set aside for it in `bookings`.

The order is the security and the billing argument: nothing is retrieved before the request passed the input rules, nothing is called
before its upper bound is reserved, nothing is delivered before it is moderated, and every exit settles.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import msgspec
import structlog

from adapters.backend import Backend, DataClass, estimate_tokens, may_be_spoken
from adapters.cost import upper_bound, usd_float
from adapters.output_limits import LONGEST_OUTPUT_TOKENS, default_output_tokens
from adapters.prompting import with_format
from adapters.structured import AnswerFormat
from adapters.tokens import counting_once
from adapters.types import Citation, Event, Finished, GenerateRequest, JsonObject, Message, Passage, TextDelta, Usage
from config.prices import Price
from policies.access import Principal, may_handle
from policies.canary import Side, side_of
from policies.decide import Decision, State, decide, permitted
from policies.decision import banded
from policies.features import extract, highest
from policies.limits import check_input
from policies.rate_limits import Scopes
from policies.replaying import passed_over
from policies.trials import Pairs
from retrieval.values import SearchRequest, SearchResult
from router.attempts.attempt import Attempt
from router.attempts.bookings import Bookings
from router.attempts.cascade import CascadeReport, another_sample
from router.attempts.course import Step
from router.attempts.ensemble import EnsembleReport
from router.attempts.loop import Attempts
from router.attempts.structured import StructuredAnswer, may_stream, required_format
from router.gateway import Gateway
from router.history import Histories
from router.http.errors import ApiError
from router.limits.admission import Admission
from router.limits.refusals import Limited, Standings
from router.moderating import Moderation
from router.money.books import BudgetExceeded
from router.money.levels import caps_of
from router.money.settlement import LARGEST_AMOUNT, AttemptPlan, Caps, Left, Purpose, Settlement, dearest
from router.policy_in_force import ActivePolicy
from router.scoring import scored
from router.summarising import UNMODERATED, needs_nothing, summarise, summary_request
from router.trials import pairs
from router.trials.canaries import came_to
from router.wire.call import Call
from router.wire.headgate import Headgate

log = structlog.get_logger("headgate.pipeline")

EXPECTED_OUTPUT_TOKENS = 1_000
"""What an answer is charged to the limits in advance where the request does not say how long it may become; the difference is made good after it."""

LEAST_OUTPUT_TOKENS = 256
"""An answer that asked for more is cut down to no less where the budget does not hold all of it."""

LEAST_THINKING_TOKENS = 4_096
"""The same for one that thinks, where nothing says how much."""


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
        self.active: ActivePolicy = gateway.policy.acquire()
        self.tenant = self.active.policy.tenant(principal.tenant)
        self.data_class: DataClass = "internal"
        self.passages: tuple[Passage, ...] = ()
        self.decision: Decision | None = None
        self._found: SearchResult | None = None
        self._thresholds: Mapping[str, float] = {}
        self.decided_from: State | None = None
        """What the last decision was made from, besides the policy and the features."""
        self.embedding: bytes | None = None
        """Of the question, in float16, where routing or search has made one."""
        self.rules = self.active.policy.moderation_rules(principal.tenant)
        self._budget_left: float | None = None
        self._expected: dict[str, float] | None = None
        self.form: AnswerFormat | None = None
        """What the request demands of its answer's form."""
        self._no_summary = False
        self.usage = Usage(source="counted")
        self.outcome = "refused"
        self._bookings = Bookings(gateway, principal, request_id, self.active.version, self._caps())
        self._attempts = Attempts(self, self._bookings)
        self._generating = False
        self._ended_at = 0.0
        self._waiting: Callable[[], None] | None = None
        self.pairing: Pairs | None = None
        """Where the other backend is to answer, too, once the answer is delivered."""
        self.heard: list[str] = []
        """What the answer said, where it is to be compared."""
        self._side: tuple[str, Side] | None = None
        self._first = ""
        self._admission: Admission | None = None
        self._standings: Standings | None = None

    # --- before the first call -------------------------------------------------------------------------------------------------------

    async def prepare(self, *, with_budget: bool = False, limited: bool = False) -> Decision:
        """Check, ground and decide. Nothing is billed here. Raises `ApiError`.

        The budget is asked when it is reserved from; `with_budget` asks it now, for an explanation. `limited` counts the request against its rate
        limits, and may wait for them: for one that is to be answered.
        """
        call, policy = self.call, self.active.policy
        counting_once()
        counted = estimate_tokens(call.request)
        refusal = check_input(call.request, policy.file.input, counted.n)
        if refusal is not None:
            raise ApiError(refusal.status, refusal.code, f"{refusal.message}.", param=refusal.param)
        self.form = required_format(call.request)
        scopes = self.gateway.limits.scopes(policy.file, self.tenant, self.principal) if limited else None
        if scopes:
            await self._admit(scopes, counted.n)
        self.data_class = highest(self.tenant.data_class, call.hints.data_class or "public")
        if not may_handle(self.principal, self.data_class):
            raise ApiError(403, "not_permitted", f"This key may not touch {self.data_class} data.")
        await self._ground()
        self._request = msgspec.structs.replace(
            call.request, model=call.model, context=self.passages, grounded=bool(self._stores()), partition=self.partition, whole=not call.stream
        )
        if self.passages:
            counted = estimate_tokens(self._request)
        self.features = extract(
            self._request,
            self.principal,
            data_class=self.data_class,
            input_tokens=counted.n,
            max_cost_usd=call.hints.max_cost_usd,
            complexity=with_budget or call.hints.explain or policy.asks_complexity,
            tags=call.hints.tags,
            conversation=self.gateway.conversation_ids.of(self.principal, call) if policy.asks.conversation else "",
            named_keys=policy.asks.keys,
        )
        self._histories = Histories(policy.history(self.principal.tenant), self._request, counted.upper)
        self._input_tokens = self._histories.input_tokens(self.active.backends.values())
        asked = with_budget or policy.asks.budget_left
        left = await self.gateway.accounting.remaining(self.principal.tenant, self._caps()) if asked else None
        self._budget_left = None if left is None or left[0].share is None else banded(left[0].share)
        self._expected = self._expected_costs() if with_budget or policy.asks.cost else None
        head = self.gateway.heads.of(self.principal.tenant)
        compute = self.gateway.compute
        self.features, self.embedding = await scored(policy, self.features, self.state(), head, self.question, self._found, compute)
        self._thresholds = self.gateway.thresholds.of(self.active, self.features, head)
        decision = self.decide(left[0] if left is not None and with_budget else None)
        if limited and self.decided_by("complexity"):
            self.gateway.thresholds.decided(self.active, self.features)
        if scopes and scopes.models:
            decision = await self._admit_model(decision)
        return decision

    async def _admit(self, scopes: Scopes, input_tokens: int) -> None:
        """Count the request against its limits: its input, and as much output as it asks for and any backend gives. Raises `ApiError`."""
        request = self.call.request
        output, guess = 0, EXPECTED_OUTPUT_TOKENS * request.n
        if request.max_output_tokens is not None:
            longest = max((each.spec.max_output_tokens or LONGEST_OUTPUT_TOKENS for each in self.active.policy.backends.values()), default=0)
            output = guess = min(request.max_output_tokens, longest) * request.n
        try:
            self._admission = await self.gateway.limits.admit(
                scopes, self.principal, input_tokens + output, input_tokens + guess, priority=self.call.hints.priority, deadline=request.deadline
            )
        except Limited as error:
            self._standings = error.standings
            raise

    async def _admit_model(self, decision: Decision) -> Decision:
        """Pass over candidates whose own limits are reached. Raises `Limited` where all are; then nothing is counted."""
        assert self._admission is not None
        refused: dict[str, Limited] = {}
        for place, name in enumerate(decision.candidates, 1):
            refusal = await self._admission.model(name, self.active.backends[name].model, wait=place == len(decision.candidates))
            if refusal is None:
                break
            refused[name] = refusal
        else:
            first = next(iter(refused.values()))
            self._admission.undo()
            self._admission, self._standings = None, first.standings
            raise first
        if refused:
            decision = self.decision = passed_over(decision, refused)
        return decision

    @property
    def standings(self) -> Standings | None:
        """How the narrowest of the request's limits stand, as far as they were asked."""
        return self._standings if self._admission is None else self._admission.standings

    def _leave(self) -> None:
        """Make good to the limits what was charged in advance. Again, it does nothing."""
        if self._admission is not None:
            used = self._bookings.tokens
            self._admission.settle(used, {name: self.active.backends[name].model for name in used})

    def decide(self, left: Left | None, most: float | None = None) -> Decision:
        """Raises `ApiError` where nothing is permitted. Upper costs are counted only where something depends on them.

        `most` is what the attempts so far leave of the request's `max_cost_usd`.
        """
        features = self.features if most is None else msgspec.structs.replace(self.features, max_cost_usd=most)
        costs = least = None
        if left is not None or self.call.hints.max_cost_usd is not None:
            plans = {name: self._plan(name, backend)[1] for name, backend in self.active.backends.items()}
            costs = {name: plan.amount for name, plan in plans.items()}
            least = None if left is None else {name: left.needed(plan) for name, plan in plans.items()}
        self.decided_from = self.state(costs, least, None if left is None else left.at_most(LARGEST_AMOUNT).overall)
        self.decision = decide(self.active.policy, features, self.decided_from)
        if self.attempt is None:
            self._side, self._first = side_of(self.decision), next(iter(self.decision.candidates), "")
        if self.decision.outcome != "ok":
            wait = self.active.closes_in_s() if self.decision.outcome == "no_permitted_backend" else None
            headers = {} if wait is None else {"retry-after": f"{math.ceil(wait)}"}
            raise ApiError(self.decision.status, self.decision.outcome, f"{_sentence(self.decision.message)}.", param=self.decision.param, headers=headers)
        return self.decision

    def state(self, costs: Mapping[str, int] | None = None, least: Mapping[str, int] | None = None, remaining: int | None = None) -> State:
        return self.active.state(self.seed, self.principal, costs, least, remaining, self._input_tokens, self._expected, self._budget_left, self._thresholds)

    def _expected_costs(self) -> dict[str, float]:
        """What the request is expected to cost at each backend, in USD."""
        request, active = self._request, self.active
        counted = self.features.input_tokens
        return {
            name: measured.expected_cost(self._input_tokens.get(name, counted), request.max_output_tokens, request.n, active.price(name))
            for name, measured in active.measured.items()
        }

    @property
    def seed(self) -> str:
        """The seed of weighted rules: the client's, or one of this request's own."""
        return str(self.call.hints.seed) if self.call.hints.seed is not None else self.request_id

    @property
    def rule(self) -> str:
        """What decided: a rule's name, or `pin`, `complexity`, `default`."""
        if self.decision is None:
            return ""
        return self.decision.rule or (self.decision.reasons[0].partition(":")[0] if self.decision.reasons else "")

    def decided_by(self, rung: str, name: str | None = None) -> bool:
        """Whether this rung of the ladder decided (`pin`, `rule`, `complexity`, `default`); of a rule, the one of this name."""
        said, _, rest = next(iter(() if self.decision is None else self.decision.reasons), "").partition(":")
        return said == rung and (name is None or rest == name)

    def _stores(self) -> tuple[str, ...]:
        """The stores that the request names; else those of the policy that the key may use."""
        default, own = self.active.policy.grounding(self.principal.tenant).stores, self.principal.stores
        return self.call.stores or tuple(store for store in default if own is None or store in own)

    @property
    def partition(self) -> str:
        """An opaque salt: the same for all requests of a tenant."""
        return hashlib.sha256(b"tenant:" + self.principal.tenant.encode()).hexdigest()[:16]

    @property
    def question(self) -> str:
        """The last user message's text; empty without one."""
        return next((message.text for message in reversed(self.call.request.messages) if message.role == "user"), "")

    async def _ground(self) -> None:
        stores = self._stores()
        if not stores:
            return
        question = self.question
        await self.gateway.require_stores(self.principal, stores, self.call.stores_param)
        limit = self.call.search_limit or self.active.policy.grounding(self.principal.tenant).limit
        most = self.principal.max_data_class
        found = self._found = await self.gateway.search(
            SearchRequest(tenant=self.principal.tenant, stores=stores, query=question, limit=limit, max_data_class=most)
        )
        self.passages = found.passages
        if found.passages:
            self.data_class = highest(self.data_class, found.data_class)

    # --- the attempts ----------------------------------------------------------------------------------------------------------------

    async def events(self) -> AsyncGenerator[Event, None]:
        """Moderated events of the first attempt that answers; `finished`, `usage`, `cost` and `citations` hold once it ends.

        A failure before the first delivered delta (of an answer that is held back: before its end) makes the next attempt; after it, or when
        none is left, a `BackendError` (or an `ApiError`, for a budget that allows nothing) is raised. Only deltas and opaque items are yielded.
        """
        failure: BaseException | None = None
        self._generating = True
        self.pairing = pairs.wanted(self)
        try:
            async with aclosing(self._attempts.events()) as events:
                async for event in events:
                    if self.pairing is not None and isinstance(event, TextDelta):
                        self.heard.append(event.text)
                    yield event
            self.outcome = self._attempts.outcome
        except BaseException as error:
            failure = error
            raise
        finally:
            settling = self.gateway.background(self._settle(failure))
            if not isinstance(failure, asyncio.CancelledError | GeneratorExit):
                await self.gateway.booked(settling)

    def make_attempt(self, step: Step, body: str, purpose: Purpose = "answer") -> Attempt:
        """`body` tells this request's different bodies apart: a provider sees one idempotency key for a body and its retries."""
        backend = self.active.backends[step.backend]
        request, plan = self._plan(step.backend, backend, step.added)
        answers = purpose == "answer"
        # Beside another attempt there is no need to be content with less.
        least = _least_output(request) if answers else 0
        plan = msgspec.structs.replace(plan, purpose=purpose, least_output=least, list_price=self._list_price(plan) if answers else None)
        key = hashlib.sha256(f"{self.request_id} {step.backend} {body}".encode()).hexdigest()[:32]
        request = msgspec.structs.replace(request, idempotency_key=f"headgate-{key}")
        if purpose == "sample":
            request = another_sample(request)
        watch, request = self._attempts.cascade.watch(step.backend, backend, purpose, request)
        held = not self.call.stream or not may_stream(self._request, backend.capabilities)
        structured = None if self.form is None else StructuredAnswer(self.form, step.backend, hold=held)
        return Attempt(backend, request, plan, Moderation(self.rules), structured, self._histories.fitted(backend, step.added).report, watch)

    def helper(self, name: str, request: GenerateRequest, purpose: Purpose) -> Attempt:
        """An attempt that helps with the answer and is not it: a summary, a judgement. No client sees what it says."""
        request, plan = self._bounded(name, self.active.backends[name], request)
        return Attempt(self.active.backends[name], request, msgspec.structs.replace(plan, purpose=purpose, least_output=0), Moderation(UNMODERATED))

    def _list_price(self, plan: AttemptPlan) -> Price | None:
        """The price of the dearest backend that this request could have gone to, where it is not the attempt's own: what routing avoids is reckoned by it.

        It could have gone to the candidates of its decision, and where the complexity chose the weak backend to the strong one, if that is permitted.
        """
        assert self.decision is not None
        names, complexity = set(self.decision.candidates), self.active.policy.complexity(self.principal.tenant)
        strong = complexity.strong if complexity is not None and self.rule == "complexity" else None
        if self.decision.cascade is not None:
            names.update(self.decision.cascade.to)
        if strong is not None and strong not in names and permitted(self.active.policy, self.features, self.state(), strong):
            names.add(strong)
        prices = [self.active.price(name) for name in names if name != plan.backend]
        return dearest(plan, prices)

    def _plan(self, name: str, backend: Backend, added: tuple[Message, ...] = ()) -> tuple[GenerateRequest, AttemptPlan]:
        return self._bounded(name, backend, msgspec.structs.replace(self._request, messages=self._histories.fitted(backend, added).messages))

    def planned(self, name: str, request: GenerateRequest | None = None) -> tuple[GenerateRequest, AttemptPlan]:
        """This request, or another one in its name, within a backend's limits, and what it can cost at most there."""
        backend = self.active.backends[name]
        return self._plan(name, backend) if request is None else self._bounded(name, backend, request)

    def _bounded(self, name: str, backend: Backend, request: GenerateRequest) -> tuple[GenerateRequest, AttemptPlan]:
        """The request within the backend's limits, and what it can cost at most."""
        configured = self.active.policy.backends[name]
        price = self.active.price(name)
        longest = configured.spec.max_output_tokens or backend.capabilities.max_output
        if request.max_output_tokens is not None:
            limit: int | None = min(request.max_output_tokens, longest or LONGEST_OUTPUT_TOKENS)
        else:  # what costs money has a limit: without one there is no upper bound to reserve
            limit = longest or (default_output_tokens(backend.model) if price.output or price.tiers else None)
        request = with_format(msgspec.structs.replace(request, max_output_tokens=limit), backend.capabilities)
        bound = backend.count(request).upper
        output = (limit or 0) * request.n
        runs = math.ceil(1000 * (configured.spec.total_s or 0)) if price.second else 0
        return request, AttemptPlan(
            backend=name,
            provider=backend.provider,
            model=backend.model,
            price=price,
            input_bound=bound,
            output_bound=output,
            amount=upper_bound(bound, output, price, spoken=(spoken := may_be_spoken(request)), milliseconds=runs),
            rule=self.rule,
            started_at=time.time(),
            least_output=_least_output(request),
            choices=request.n,
            spoken=spoken,
            milliseconds=runs,
            price_version=self.active.price_version(name),
        )

    def input_tokens(self) -> int:
        """The estimated input of the request at its first candidate. Comes after `prepare`; nothing is called or billed."""
        assert self.decision is not None
        backend = self.active.backends[self.decision.candidates[0]]
        return backend.count(with_format(self._request, backend.capabilities)).n

    async def summarise(self, name: str, added: tuple[Message, ...]) -> None:
        """Where the policy wants it, make the summary that takes the place of what does not fit this backend. Without one it is dropped all the same."""
        backend, by = self.active.backends[name], self._histories.policy.summarise_with
        dropped = self._histories.to_summarise(backend, added)
        if not dropped or by is None or self._no_summary:
            return
        began, summariser = time.perf_counter(), self.active.backends[by]
        attempt = self.helper(by, summary_request(dropped, summariser, self.partition), "history")
        most, both = self.features.max_cost_usd, usd_float(self._bookings.spent() + attempt.plan.amount + self._plan(name, backend, added)[1].amount)
        self._no_summary = True  # until there is one: a request asks for none a second time
        allowed = permitted(self.active.policy, needs_nothing(self.features), self.state(), by) and (most is None or both <= most)
        try:
            if allowed:
                await self._bookings.begin(attempt)
        except BudgetExceeded:
            allowed = False
        summary = await summarise(attempt, self._bookings, self.gateway) if allowed else None
        self._attempts.upstream_s += time.perf_counter() - began
        if summary is None:
            log.info("not_summarised", request_id=self.request_id, backend=by, permitted=allowed)
        else:
            self._histories.summarised(dropped, summary)
            self._no_summary = False

    def _caps(self) -> Caps:
        return caps_of(self.tenant.budget_usd, self.principal)

    # --- the end ---------------------------------------------------------------------------------------------------------------------

    async def _settle(self, failure: BaseException | None) -> None:
        """Close the books. Waits for a reservation that is still being made, so that none is ever left open."""
        ended = time.perf_counter()
        try:
            await self._attempts.stopped()
            await self._bookings.close(failure, lambda settlements: self._ended(failure, settlements))
        finally:
            self._tell_canary(failure, ended)
            self._known()
            self._leave()
            self.gateway.policy.release(self.active)

    def _ended(self, failure: BaseException | None, settlements: Mapping[Purpose, Settlement]) -> None:
        """What the answer says of itself, from what is about to be booked."""
        self._leave()
        self._judge(failure, settlements)
        self._known()

    def _judge(self, failure: BaseException | None, settlements: Mapping[Purpose, Settlement]) -> None:
        """How it ended, and what it used."""
        if self.attempt is None or (settlement := settlements.get(self.attempt.plan.purpose)) is None:
            return
        self.usage = settlement.usage
        if self.rule == "complexity" and failure is None:
            self.gateway.thresholds.settled(self.active, self.features, self.backend_name, usd_float(self.cost))
        if failure is not None:
            self.outcome = "cancelled" if isinstance(failure, asyncio.CancelledError | GeneratorExit) else settlement.outcome
        try:
            self._observe(settlement.outcome)
        except Exception:  # a figure that cannot be counted is no reason to fail an answer
            log.exception("metrics_failed", request_id=self.request_id)

    def _known(self) -> None:
        """What it used and cost is final: tell whoever waits for that, once."""
        self._ended_at = self._ended_at or time.perf_counter()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting()

    def when_known(self, told: Callable[[], None]) -> None:
        """Call `told` once it is known what the request used and cost: at once, or, where it was ended from outside, when its work has stopped."""
        if self._generating and not self._ended_at:
            self._waiting = told
        else:
            told()

    def _tell_canary(self, failure: BaseException | None, ended: float) -> None:
        if self._side is not None and (sums := came_to(self._attempts, self._first, failure, ended, self.cost)) is not None:
            self.gateway.canaries.note(self.active, *self._side, sums)

    def _observe(self, outcome: str) -> None:
        if outcome == "ok" and self.attempt is not None and self.attempt.first_delta_s is not None:
            took = time.perf_counter() - self.attempt.began
            self.active.measured[self.backend_name].answered(self.attempt.first_delta_s, self.usage.output_tokens // self.attempt.plan.choices, took)
        if self.attempt is not None and self.attempt.record.rate_limit is not None:
            self.active.rate_limits[self.backend_name] = self.attempt.record.rate_limit
        for rule, count in self.moderation.counts().items():
            self.gateway.metrics.moderated(rule, count)
        self.gateway.metrics.request_done(
            backend=self.backend_name, outcome=outcome, usage=self.usage, cost=self.cost, duration_s=time.perf_counter() - self.started
        )

    # --- what is known of it ---------------------------------------------------------------------------------------------------------

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that runs, or ran last."""
        return self._attempts.current

    @property
    def cost(self) -> int:
        """Of all attempts that have ended, in picodollars."""
        return self._bookings.cost

    @property
    def backend_name(self) -> str:
        return "" if self.attempt is None else self.attempt.plan.backend

    @property
    def model(self) -> str:
        """The answering model, as the provider names it once it has."""
        return "" if self.attempt is None else self.attempt.model

    @property
    def moderation(self) -> Moderation:
        return Moderation(self.rules) if self.attempt is None else self.attempt.moderation

    @property
    def citations(self) -> list[Citation]:
        return [] if self.attempt is None else self.attempt.citations

    @property
    def finished(self) -> list[Finished]:
        return [] if self.attempt is None else self.attempt.finished

    @property
    def overhead_s(self) -> float | None:
        """What the service itself took until the backend was called; None until the backend has begun to answer."""
        if self.attempt is None or not self.attempt.answered:
            return None
        return max(0.0, self.attempt.began - self.started - self._attempts.upstream_s)

    @property
    def latency_ms(self) -> float:
        """From its arrival to its end, or until now."""
        return 1000 * ((self._ended_at or time.perf_counter()) - self.started)

    @property
    def first_ms(self) -> float | None:
        """From its arrival to the first word of the backend that answered last; None where none came."""
        if self.attempt is None or self.attempt.first_delta_s is None:
            return None
        return 1000 * (self.attempt.began + self.attempt.first_delta_s - self.started)

    @property
    def attempts(self) -> int:
        """How many attempts at backends it has made, for every purpose."""
        return self._bookings.attempts

    @property
    def ignored(self) -> tuple[str, ...]:
        """Tuning knobs of the request that the backend does not have, fields that nobody reads, and `logprobs` where moderation drops them."""
        dropped = ("logprobs",) if self.call.request.logprobs is not None and self.moderation.active else ()
        ignored = () if self.attempt is None else self.attempt.record.ignored
        return (*ignored, *(knob for knob in dropped if knob not in ignored), *self.call.unread)

    def _notes(self) -> tuple[str, ...]:
        """What was done to the answer, as reason codes."""
        attempt = self.attempt
        if attempt is None:
            return ()
        clamped = () if attempt.clamped is None else (f"clamped:max_output_tokens={attempt.clamped}",)
        clamped = (*self._attempts.ensemble.reasons, *self._attempts.cascade.reasons, *clamped)
        if attempt.structured is None:
            return clamped
        held = ("structured:held",) if self.call.stream and attempt.structured.hold else ()
        repaired = (f"structured:repairs:{self._attempts.repairs}",) if self._attempts.repairs else ()
        return (*clamped, *held, *repaired, *(("structured:unwrapped",) if attempt.structured.unwrapped else ()))

    @property
    def clamped(self) -> int | None:
        """The output tokens that the budget left to each choice; None where it left all that was asked for."""
        return None if self.attempt is None else self.attempt.clamped

    @property
    def history(self) -> JsonObject | None:
        """What was left out of the request's messages; None where nothing was."""
        return None if self.attempt is None else self.attempt.history

    @property
    def cascade(self) -> CascadeReport | None:
        """What became of an answer that was verified; None where none was."""
        return self._attempts.cascade.report

    @property
    def ensemble(self) -> EnsembleReport | None:
        """Who took part where several answered; None where one did."""
        return self._attempts.ensemble.report

    def close(self) -> None:
        """Give up a request that was never generated."""
        if not self._generating:
            self._leave()
            self.gateway.policy.release(self.active)

    def headgate(self) -> Headgate:
        """What the answer says about itself. Complete once `events` has ended."""
        assert self.decision is not None
        return Headgate(
            backend=self.backend_name,
            model=self.model,
            rule=self.rule,
            reasons=(*self.decision.reasons, *self._notes()),
            policy_version=self.active.version,
            cost_usd=usd_float(self.cost),
            decision_id=self.request_id,
            citations=tuple(self.citations),
            moderation=self.moderation.report(),
            decision=msgspec.to_builtins(self.decision) if self.call.hints.explain else None,
            history=self.history,
            cascade=_object(self.cascade),
            ensemble=_object(self.ensemble),
        )


def _object(report: CascadeReport | EnsembleReport | None) -> JsonObject | None:
    return None if report is None else msgspec.to_builtins(report)


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:]


def _least_output(request: GenerateRequest) -> int:
    """The tokens of output, for each choice, below which an answer is not worth its price; 0 where its output is not bounded."""
    if request.max_output_tokens is None:
        return 0
    thinking = request.reasoning
    if thinking is None:
        least = LEAST_OUTPUT_TOKENS
    else:  # thoughts come first, and are output too
        least = LEAST_OUTPUT_TOKENS + thinking.budget_tokens if thinking.budget_tokens is not None else LEAST_THINKING_TOKENS
    return min(least, request.max_output_tokens)
