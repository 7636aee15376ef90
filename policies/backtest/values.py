"""The values of a backtest: figures with their intervals, and what is kept of each logged request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Numbers: TypeAlias = NDArray[np.int64]

Strength: TypeAlias = Literal["exact", "estimate", "statistical", "measured"]
"""How surely a figure is known: by deciding again; from prices and ratios; from what random draws showed; from answers that were really made."""

STRENGTHS: Mapping[int, Strength] = {0: "exact", 1: "estimate", 2: "statistical", 3: "measured"}
"""By level."""

NORMAL_95 = 1.959964


class Estimate(Struct, frozen=True):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


class Line(Struct, frozen=True, kw_only=True, gc=False):
    """What levels 1 and 2 need of a logged request and of what the candidate policy does with it.

    `before` is where it went first, `shares` with which probability the candidate sends it where; both by label: a backend's name, but for one that is
    another model in the candidate. `after` is the label for the logged seed. `kind` is what decided then (policy version and reason): requests of a
    kind were drawn among the same backends. `counts` are the backends' own counts of its input, where they are known. `answered`: it is the first
    candidate that answered, so the tokens are its own. `drawn`: the propensity is that of `before` (not where a rate limit passed over what was drawn,
    nor where the client named the seed: its requests are not drawn by chance).
    """

    request_id: str
    tenant: str
    created_at: float
    kind: tuple[int, str]
    rule: str
    before: str
    after: str
    shares: tuple[tuple[str, float], ...]
    propensity: float
    drawn: bool
    by_complexity: bool
    complexity: float | None
    task: str
    numbers: tuple[float, ...]
    embedding: bytes | None
    counts: tuple[tuple[str, int], ...]
    answered: bool
    input_tokens: int
    output_tokens: int
    cache_read: int
    cache_written: int
    cost: int
    milliseconds: float | None
    most_output: int | None
    success: bool
    score: float | None

    @property
    def refused_before(self) -> bool:
        return self.before.startswith("refused: ")

    @property
    def refused_after(self) -> bool:
        return self.after.startswith("refused: ")


class Ratio(Struct, frozen=True, kw_only=True):
    """Output tokens of one model for each of another's. `guessed`: too few answers of both, so it is no more than a stated guess."""

    before: str
    after: str
    requests: int
    ratio: Estimate
    answers_before: int
    answers_after: int
    guessed: bool


class CostLine(Struct, frozen=True, kw_only=True):
    """A part of the cost, in USD: what was booked, and what it would have been."""

    name: str
    requests: int
    moved: int
    before_usd: float
    after_usd: Estimate


class Costs(Struct, frozen=True, kw_only=True, tag="cost"):
    """Level 1. `before_usd` is from the books and exact."""

    requests: int
    moved: int
    before_usd: float
    after_usd: Estimate
    difference_usd: Estimate
    tenants: tuple[CostLine, ...]
    rules: tuple[CostLine, ...]
    ratios: tuple[Ratio, ...]
    notes: tuple[str, ...]
