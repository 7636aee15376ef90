"""How good an order of questions is: APGR and CPT, with bootstrap intervals.

*APGR*: sort by the score, move the share sent to the strong model from 0 to 1, and integrate the share of the weak-to-strong quality gap that
is recovered (random = .5). *CPT(x)*: the share of strong calls needed to recover x of the gap. Both are RouteLLM's (Ong et al., 2024).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Measured(Struct, frozen=True):
    """A value with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


def recovered(scores: Any, gains: Any) -> Array:
    """The share of the gap that is recovered with 0, 1, … n strong calls. NaN where the strong model gains nothing over all. Ties count as mixed."""
    scores, gains = np.asarray(scores, dtype=float), np.asarray(gains, dtype=float)
    order = np.argsort(-scores, kind="stable")
    ranked, sums = scores[order], gains[order]
    # Rows of one score have no order: each counts as the mean of them.
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(ranked) else np.zeros(0, dtype=int)
    sizes = np.diff(np.concatenate([starts, [len(ranked)]]))
    if len(starts):
        sums = np.repeat(np.add.reduceat(sums, starts) / sizes, sizes)
    curve = np.concatenate([[0.0], np.cumsum(sums)])
    return curve / curve[-1] if curve[-1] > 1e-9 else np.full(len(curve), np.nan)


def apgr(scores: Any, gains: Any) -> float:
    """The area under `recovered`; NaN where the strong model gains nothing."""
    curve = recovered(scores, gains)
    return float(np.trapezoid(curve, dx=1 / (len(curve) - 1))) if len(curve) > 1 else float("nan")


def cpt(scores: Any, gains: Any, share: float) -> float:
    """The smallest share of strong calls from which on `share` of the gap is recovered."""
    curve = recovered(scores, gains)
    reached = np.flatnonzero(curve >= share)
    return float(reached[0] / (len(curve) - 1)) if len(reached) else float("nan")


def bootstrap(measure: Any, *columns: Any, draws: int = 400, seed: int = 0) -> Measured:
    """`measure(*columns)` with the 2.5 % and 97.5 % points over rows drawn with replacement (Efron's percentile bootstrap)."""
    columns = tuple(np.asarray(column) for column in columns)
    random = np.random.default_rng(seed)
    size = len(columns[0])
    drawn = [measure(*(column[rows] for column in columns)) for rows in (random.integers(0, size, size) for _ in range(draws))]
    low, high = np.nanquantile(drawn, [0.025, 0.975]) if not np.all(np.isnan(drawn)) else (float("nan"), float("nan"))
    return Measured(float(measure(*columns)), float(low), float(high))
