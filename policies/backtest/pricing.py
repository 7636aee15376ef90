"""What a policy's backends charged at a time: the policy's own prices by date, else the price book's of that day."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from adapters.price_book import dated, price_for
from config.prices import FREE, Price
from policies.load import Policy

PriceAt: TypeAlias = Callable[[str, float], Price]
"""A backend's name and a time in seconds since the epoch, to its price then. Free for one that does not exist."""

_HOUR_S = 3600


def prices_of(policy: Policy) -> PriceAt:
    """The prices of a policy's backends, by time; the book is asked once an hour of the log, for some of its prices hold for hours."""
    known: dict[tuple[str, int], Price] = {}

    def price(name: str, at: float) -> Price:
        hour = int(at // _HOUR_S)
        found = known.get((name, hour))
        if found is None:
            found = known[(name, hour)] = _price(policy, name, at)
        return found

    return price


def _price(policy: Policy, name: str, at: float) -> Price:
    configured = policy.backends.get(name)
    if configured is None:
        return FREE
    day = dated(configured.spec.price_from, at)
    if day is not None:
        return configured.spec.price_from[day]
    if configured.spec.price is not None or not configured.remote:
        return configured.price
    return price_for(configured.spec, datetime.fromtimestamp(at, UTC)) or configured.price
