"""One request for embeddings, from its decoded call to its ledger row.

limits -> embedder -> key -> data class -> reserve -> embed -> settle

As with an answer: nothing is called before its upper bound is reserved, and every exit settles. There is no routing and no fallback: vectors
of two models cannot be compared, so the one that was named answers or nobody does.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from adapters.backend import DataClass, may_see
from adapters.cost import picodollars, upper_bound, usd_float
from adapters.embedders import Embedded, EmbedRequest, TextEmbedder
from adapters.types import AttemptRecord, GenerateRequest, Message, TextPart
from config.prices import FREE, Price
from policies.access import Principal, may_handle
from policies.features import highest
from policies.limits import check_input
from router.http.errors import ApiError
from router.limits.admission import Admission
from router.limits.refusals import Limited, Standings
from router.local_embedder import LocalEmbedder
from router.money.books import BudgetExceeded
from router.money.levels import caps_of
from router.money.settlement import AttemptPlan, Booking, measured
from router.wire.call import Hints

if TYPE_CHECKING:
    from router.gateway import Gateway
    from router.policy_in_force import ActivePolicy

MAX_TOKENS = 300_000
"""Of all texts of a request together, as OpenAI has it."""


class EmbeddingCall(Struct, frozen=True):
    """A decoded request. `base64` says in which form the client wants the vectors."""

    model: str
    request: EmbedRequest
    base64: bool
    hints: Hints


class Candidate(Struct, frozen=True):
    """An embedder with what the policy says of it."""

    embedder: TextEmbedder
    clearance: DataClass
    price: Price
    price_version: str


class EmbeddingExchange:
    """Run `answer` once. `cost` (picodollars) and `record` hold once it has ended."""

    def __init__(self, gateway: Gateway, principal: Principal, call: EmbeddingCall, request_id: str) -> None:
        self.gateway = gateway
        self.principal = principal
        self.call = call
        self.request_id = request_id
        self.created = time.time()
        self.started = time.perf_counter()
        self.data_class: DataClass = "internal"
        self.active: ActivePolicy = gateway.policy.acquire()
        self.tenant = self.active.policy.tenant(principal.tenant)
        self.name = ""
        self.cost = 0
        self.outcome = "refused"
        self.record = AttemptRecord(backend="")
        self._admission: Admission | None = None
        self._standings: Standings | None = None

    @property
    def cost_usd(self) -> float:
        return usd_float(self.cost)

    async def answer(self) -> Embedded:
        """Raises `ApiError` for what is refused here, `BackendError` for what the embedder could not do."""
        booking: Booking | None = None
        opening: asyncio.Task[None] | None = None
        failure: BaseException | None = None
        try:
            chosen = self._chosen()
            tokens = self._check(chosen)
            await self._admit(chosen, tokens)
            booking = self._booking(chosen)
            opening = self.gateway.background(self.gateway.accounting.open(booking))
            try:
                await asyncio.shield(opening)
            except BudgetExceeded as error:
                self.gateway.alerts.refused(error.short)
                raise ApiError(402, "budget_exceeded", "The budget does not allow this request. Ask your administrator for a larger one.") from error
            self.record = AttemptRecord(backend=self.name, reference=booking.reference)
            return await chosen.embedder.embed(self.call.request, self.record)
        except BaseException as error:
            failure = error
            raise
        finally:
            settling = self.gateway.background(self._settle(booking, opening, failure))
            if not isinstance(failure, asyncio.CancelledError | GeneratorExit):
                await self.gateway.booked(settling)

    def _chosen(self) -> Candidate:
        """The embedder that the request names, by its own name or its model's. Raises `ApiError` 404, in the same words for one that the key may not use."""
        wanted, allowed = self.call.model, self.principal.allowed_models
        every = candidates(self.gateway, self.active)
        for name, each in sorted(every.items(), key=lambda entry: entry[0] != wanted):
            if wanted in (name, each.embedder.model):
                if allowed is not None and not {name, each.embedder.model} & set(allowed):
                    break
                self.name = name
                return each
        raise ApiError(404, "model_not_found", f"No embedding model {wanted!r}. List yours with GET /v1/models.", param="model")

    async def _admit(self, chosen: Candidate, tokens: int) -> None:
        """Count the request against its limits. Raises `ApiError`."""
        scopes = self.gateway.limits.scopes(self.active.policy.file, self.tenant, self.principal)
        if not scopes:
            return
        try:
            self._admission = await self.gateway.limits.admit(scopes, self.principal, tokens, priority=self.call.hints.priority)
            refusal = await self._admission.model(self.name, chosen.embedder.model, wait=True)
            if refusal is not None:
                self._admission.undo()
                self._admission = None
                raise refusal
        except Limited as error:
            self._standings = error.standings
            raise

    def _leave(self, used: int = 0) -> None:
        """Make good to the limits what was charged in advance."""
        if self._admission is not None:
            self._admission.settle({self.name: used} if used else {}, {self.name: self.record.model or self.name})

    @property
    def standings(self) -> Standings | None:
        """How the narrowest of the request's limits stand, as far as they were asked."""
        return self._standings if self._admission is None else self._admission.standings

    def _check(self, chosen: Candidate) -> int:
        """How many tokens the texts have. Raises `ApiError` where the texts are too many, too long, or of a class that the embedder or the key may not see."""
        embedder, texts, limits = chosen.embedder, self.call.request.texts, self.active.policy.file.input
        if len(texts) > embedder.max_inputs:
            raise ApiError(400, "too_many_inputs", f"input: {len(texts)} texts; {self.name!r} takes at most {embedder.max_inputs} at once.", param="input")
        counted = embedder.count(texts)
        if counted.n > MAX_TOKENS:
            raise ApiError(400, "context_length_exceeded", f"input: about {counted.n} tokens; at most {MAX_TOKENS} are accepted.", param="input")
        message = Message("user", tuple(TextPart(text) for text in texts))
        refusal = check_input(GenerateRequest(messages=(message,)), limits, counted.n)
        if refusal is not None:
            raise ApiError(refusal.status, refusal.code, f"{refusal.message[:1].upper()}{refusal.message[1:]}.", param="input")
        data_class = self.data_class = highest(self.tenant.data_class, self.call.hints.data_class or "public")
        if not may_handle(self.principal, data_class):
            raise ApiError(403, "not_permitted", f"This key may not touch {data_class} data.")
        if not may_see(chosen.clearance, data_class):
            message_text = f"The embedder {self.name!r} is cleared for {chosen.clearance} data, and this request holds {data_class} data."
            raise ApiError(403, "not_permitted", message_text, param="model")
        return counted.n

    def _booking(self, chosen: Candidate) -> Booking:
        embedder = chosen.embedder
        bound = embedder.count(self.call.request.texts).upper
        amount = upper_bound(bound, 0, chosen.price)
        limit = self.call.hints.max_cost_usd
        if limit is not None and amount > picodollars(limit):
            raise ApiError(402, "budget_exceeded", "This request may cost more than its max_cost_usd allows.", param="headgate.max_cost_usd")
        plan = AttemptPlan(
            backend=self.name,
            provider=embedder.provider,
            model=embedder.model,
            price=chosen.price,
            input_bound=bound,
            output_bound=0,
            amount=amount,
            rule="pin",
            started_at=time.time(),
            purpose="embedding",
            price_version=chosen.price_version,
        )
        payer, caps = self.principal, caps_of(self.tenant.budget_usd, self.principal)
        return self.gateway.accounting.booking(self.request_id, payer.tenant, payer.key_id, self.active.version, caps, plan, team=payer.team, user=payer.user)

    async def _settle(self, booking: Booking | None, opening: asyncio.Task[None] | None, failure: BaseException | None) -> None:
        """Close the books, whatever happened, once what was being reserved stands."""
        try:
            if booking is None or opening is None:
                return
            await asyncio.wait([opening])
            error = opening.exception()
            if isinstance(error, BudgetExceeded):
                return
            if error is not None:  # the database went away before it answered
                await self.gateway.release(booking)
                return
            settlement = measured(self.record, booking.plan, failure)
            self.cost, self.outcome = settlement.cost, settlement.outcome
            self._leave(settlement.usage.total_tokens)
            await self.gateway.settle(booking, settlement)
            self.gateway.metrics.request_done(
                backend=self.name, outcome=settlement.outcome, usage=settlement.usage, cost=self.cost, duration_s=time.perf_counter() - self.started
            )
        finally:
            self._leave()
            self.gateway.policy.release(self.active)


def candidates(gateway: Gateway, active: ActivePolicy) -> dict[str, Candidate]:
    """Every embedder by its name: this machine's own, and those of the policy."""
    local = LocalEmbedder(gateway.settings.embedder_model, gateway.compute)
    found = {local.name: Candidate(local, "restricted", FREE, "local")}
    for name, embedder in active.embedders.items():
        configured = active.policy.embedders[name]
        found[name] = Candidate(embedder, configured.clearance, configured.price, active.embedder_prices[name])
    return found
