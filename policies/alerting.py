"""Which shares of a budget are reached. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal


def reached(spent: int, cap: int, shares: Iterable[float]) -> list[float]:
    """The shares of `cap` that `spent` is not below, ascending; exact, however large the amounts. Nothing spent reaches nothing, of a cap of 0 too."""
    return sorted(share for share in shares if spent > 0 and spent >= Decimal(repr(share)) * cap)
