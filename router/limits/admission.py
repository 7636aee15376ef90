"""A request that the limits let in: what it holds of them until it ends, and what clients are told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from policies.rate_limits import ModelScopes, Scopes, model_scopes
from router.limits.refusals import Limited, Standings, standings
from router.limits.values import Charge, Give, Store, Take, Verdict, charges_of

if TYPE_CHECKING:
    from router.limits.limiter import Limiter, Turn


class Admission:
    """One request's. `settle` comes once it is known what was used, and again does nothing."""

    def __init__(self, limiter: Limiter, scopes: Scopes, tokens: int, turn: Turn | None, store: Store | None, take: Take, verdict: Verdict) -> None:
        """`tokens` are charged until it is known better. `turn` None: it does not wait. `store` None: the store is away and everything may pass."""
        self._limiter = limiter
        self._scopes = scopes
        self._turn = turn
        self._tokens = tokens
        self._store = store
        self._taken = take
        self._levels = verdict.levels
        self._reserved: dict[str, tuple[Store | None, ModelScopes]] = {}
        """By backend: where its own limits were charged."""
        self._settled = False

    @property
    def standings(self) -> Standings:
        return standings(self._taken.charges, self._levels)

    async def model(self, name: str, model: str, *, wait: bool) -> Limited | None:
        """Charge the limits of a backend that is to answer; the refusal where they do not let it. `wait`: the request may wait for it."""
        own = model_scopes(self._scopes, name, model)
        if not (own.requests or own.tokens):
            return None
        take = Take(charges_of(own, self._tokens))
        verdict, store = await self._limiter.take(take, self._turn if wait else None)
        if not verdict.passed:
            return Limited(verdict, take)
        self._reserved[name] = (store, own)
        self._taken = Take((*self._taken.charges, *take.charges), self._taken.slots)
        self._levels = (*self._levels, *verdict.levels)
        return None

    def settle(self, used: Mapping[str, int], models: Mapping[str, str]) -> None:
        """True up. `used` are tokens by backend, of all that was tried; `models` says each one's model.

        A backend that answered without being charged before (a fallback) is charged now, whatever is left.
        """
        if self._settled:
            return
        self._settled = True
        total = sum(used.values())
        general = tuple(Charge(scope, total - self._tokens) for scope in self._scopes.tokens if total != self._tokens)
        if self._store is not None and (general or self._scopes.slots):
            self._store.give(Give(general, self._scopes.slots))
        for name, (store, own) in self._reserved.items():
            change = used.get(name, 0) - self._tokens
            if store is not None and change and own.tokens:
                store.give(Give(tuple(Charge(scope, change) for scope in own.tokens)))
        for name, tokens in used.items() if self._scopes.models else ():
            own = model_scopes(self._scopes, name, models.get(name, name))
            if name not in self._reserved and (own.requests or own.tokens) and self._store is not None:
                self._store.give(Give(charges_of(own, tokens)))
        if self._limiter.somebody_waits:
            self._limiter.freed((*self._scopes.slots, *(charge.scope for charge in general)))

    def undo(self) -> None:
        """The request was refused by a limit after all: nothing was asked of them."""
        if self._settled:
            return
        self._settled = True
        scopes = self._scopes
        charges = charges_of(ModelScopes(scopes.requests, scopes.tokens), self._tokens)
        if self._store is not None:
            self._store.give(Give(tuple(Charge(charge.scope, -charge.cost) for charge in charges), scopes.slots))
        for store, own in self._reserved.values():
            if store is not None:
                store.give(Give(tuple(Charge(charge.scope, -charge.cost) for charge in charges_of(own, self._tokens))))
        self._limiter.freed((*scopes.slots, *scopes.requests, *scopes.tokens))
