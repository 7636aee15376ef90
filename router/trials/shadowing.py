"""One call that nobody asked for: permitted like any other, reserved and booked from a budget of its own, never seen by a client."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from adapters.collect import Collected, collect
from adapters.cost import picodollars
from adapters.errors import BackendError, BackendTimeout
from adapters.types import GenerateRequest
from policies.decide import permitted
from policies.features import Features
from policies.trials import TrialBudget
from router.attempts.attempt import Attempt
from router.attempts.bookings import Bookings
from router.moderating import Moderation
from router.money.books import BudgetExceeded
from router.money.settlement import Caps, Purpose

if TYPE_CHECKING:
    from policies.moderation import RuleSet
    from router.gateway import Gateway
    from router.pipeline import Exchange

LONGEST_S = 120.0
"""How long a call may take."""

PAYER = "shadow:"
"""With the name of a rule, who pays, as the ledger says it: a tenant's name holds no colon, and a rule's no star."""

PAYER_OF_ALL = PAYER + "*"
PAYER_OF_PAIRS = PAYER + "*pairs"

Came: TypeAlias = Literal["ok", "error", "not_permitted", "over_budget"]


class Trial:
    """The calls that one answered request gives rise to, one after the other. `close` when they are done, whatever happened."""

    def __init__(self, gateway: Gateway, exchange: Exchange, payer: str, budget: TrialBudget) -> None:
        """`payer` is what the budget is kept under, in place of the tenant: neither the tenant's budget nor its bill knows of these calls."""
        self._gateway = gateway
        self._exchange = exchange
        day, month = (None if usd is None else picodollars(usd) for usd in (budget.day, budget.month))
        principal = msgspec.structs.replace(exchange.principal, tenant=payer, team="", team_name="", user="", key_id="")
        self._bookings = Bookings(gateway, principal, exchange.request_id, exchange.active.version, Caps(day, month))

    @property
    def cost(self) -> int:
        """What its calls have cost so far, in picodollars."""
        return self._bookings.cost

    async def answer(self, name: str, rules: RuleSet) -> tuple[Came, Collected | None]:
        """The request once more, at another backend."""
        features = msgspec.structs.replace(self._exchange.features, max_cost_usd=None)  # the client's bound is on what it pays itself
        return await self._call(name, features, None, "shadow", rules)

    async def ask(self, name: str, request: GenerateRequest, features: Features, rules: RuleSet) -> tuple[Came, Collected | None]:
        """A question about the request's answers."""
        return await self._call(name, features, request, "shadow_judge", rules)

    async def _call(self, name: str, features: Features, request: GenerateRequest | None, purpose: Purpose, rules: RuleSet) -> tuple[Came, Collected | None]:
        exchange = self._exchange
        if not permitted(exchange.active.policy, features, exchange.state(), name):
            return "not_permitted", None
        bounded, plan = exchange.planned(name, request)
        key = hashlib.sha256(f"{exchange.request_id} {purpose} {name} {self._bookings.cost}".encode()).hexdigest()[:32]
        bounded = msgspec.structs.replace(bounded, whole=True, deadline=time.time() + LONGEST_S, idempotency_key=f"headgate-{key}")
        plan = msgspec.structs.replace(plan, purpose=purpose, least_output=0)
        attempt = Attempt(exchange.active.backends[name], bounded, plan, Moderation(rules))
        try:
            await self._bookings.begin(attempt)
        except BudgetExceeded:
            return "over_budget", None
        return await self._run(attempt)

    async def _run(self, attempt: Attempt) -> tuple[Came, Collected | None]:
        failure: BaseException | None = None
        try:
            async with asyncio.timeout(LONGEST_S):
                return "ok", await collect(attempt.events())
        except BackendError as error:
            failure = error
        except TimeoutError:
            failure = BackendTimeout(f"no whole answer within {LONGEST_S:g} s", backend=attempt.plan.backend)
        except BaseException as error:
            failure = error
            raise
        finally:
            if attempt.began:
                self._gateway.metrics.shadow_seconds(attempt.plan.backend, time.perf_counter() - attempt.began)
            if failure is None or isinstance(failure, Exception):  # what is cancelled is booked by `close`
                settlement = await asyncio.shield(self._gateway.background(self._bookings.settle(attempt, failure)))
                if settlement is not None:
                    self._gateway.metrics.spent(attempt.plan.backend, settlement.cost)
        return "error", None

    async def close(self, failure: BaseException | None) -> None:
        """Settle whatever is open."""
        await asyncio.shield(self._gateway.background(self._bookings.close(failure, lambda _settlements: None)))
