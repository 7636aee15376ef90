"""The cost-quality curve: what every threshold of `complexity` would cost and be worth, and where the policy stands on it.

From the log, quality is doubly robust (level 2) and cost an estimate (level 1), both over the requests that `complexity` decides. From pairs, where both
models answered every question, both are sums of what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from policies.backtest.costing import CostModel
from policies.backtest.pricing import PriceAt
from policies.backtest.quality import FEWEST_REQUESTS, FEWEST_TRIALS, Refusal, outcomes, trial_of, without_support
from policies.backtest.values import NORMAL_95, Estimate, Line
from policies.complexity import complexity_of
from policies.load import Policy

if TYPE_CHECKING:
    from policies.backtest.values import Floats

POINTS = 41
FEWEST_PAIRS = 20


class CurvePoint(Struct, frozen=True, kw_only=True):
    """One threshold. `cost_usd` is for a thousand requests; None where no costs are known."""

    threshold: float
    strong_share: float
    cost_usd: float | None
    quality: Estimate


class Curve(Struct, frozen=True, kw_only=True):
    """From all strong (threshold 0) to all weak (above 1). `operating` is the policy's own threshold; None where it has none."""

    source: Literal["log", "pairs"]
    weak: str
    strong: str
    requests: int
    points: tuple[CurvePoint, ...]
    operating: CurvePoint | None


Finite = Annotated[float, Meta(ge=0, le=1e9)]


class Pair(Struct, frozen=True, kw_only=True):
    """A question that both models answered: its complexity (or the prompt, to find it), how good the answers were from 0 to 1, and their cost in USD."""

    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    prompt: str | None = None
    weak: Annotated[float, Meta(ge=0, le=1)]
    strong: Annotated[float, Meta(ge=0, le=1)]
    weak_cost: Finite | None = None
    strong_cost: Finite | None = None

    def __post_init__(self) -> None:
        if self.score is None and not (self.prompt or "").strip():
            raise ValueError("a pair needs a score or a prompt")


class PairError(ValueError):
    """A line of the pairs is wrong."""


def read_pairs(lines: Iterable[bytes]) -> list[Pair]:
    """Pairs from JSON lines; empty lines are skipped. Raises `PairError` with the line's number."""
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(msgspec.json.decode(line, type=Pair))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise PairError(f"line {number}: {error}") from error
    if len(found) < FEWEST_PAIRS:
        raise PairError(f"{len(found)} pairs; a curve needs at least {FEWEST_PAIRS}")
    return found


def curve_of_pairs(pairs: Sequence[Pair], threshold: float | None, weak: str = "weak", strong: str = "strong") -> Curve:
    """The curve of pairs. Costs are known where every pair has both. Needs numpy."""
    import numpy as np

    scores = np.array([complexity_of(pair.prompt or "") if pair.score is None else pair.score for pair in pairs])
    worth = np.array([(pair.weak, pair.strong) for pair in pairs])
    costs = None
    if all(pair.weak_cost is not None and pair.strong_cost is not None for pair in pairs):
        costs = np.array([(pair.weak_cost, pair.strong_cost) for pair in pairs], dtype=float)
    return _curve("pairs", weak, strong, scores, worth, costs, threshold)


def curve_of_log(lines: Sequence[Line], candidate: Policy, called: dict[str, str], price_before: PriceAt, price_after: PriceAt) -> Curve | Refusal:
    """The curve of the requests that the candidate's `complexity` decides, or why there is none. Needs numpy."""
    import numpy as np

    complexity = candidate.file.complexity
    if complexity is None:
        return Refusal(reason="the policy decides nothing by complexity", remedy="add complexity: {weak: …, strong: …, threshold: …}, or give --pairs")
    weak, strong = called[complexity.weak], called[complexity.strong]
    measure, answered = outcomes(lines)
    used = [line for line in answered if line.by_complexity and line.complexity is not None and {name for name, _ in line.shares} <= {weak, strong}]
    if len(used) < FEWEST_REQUESTS:
        return Refusal(
            reason=f"only {len(used)} requests with an outcome are decided by complexity; at least {FEWEST_REQUESTS} are needed",
            remedy="wait for more traffic, widen --since, or give --pairs",
        )
    both = [msgspec.structs.replace(line, shares=((weak, 0.5), (strong, 0.5))) for line in used]
    lacking = without_support(both)
    if lacking is not None:
        return lacking
    trials = sum(line.propensity <= 0.5 for line in used)  # where one of two is drawn, those that the other one was likelier for, or as likely
    if trials < 2 * FEWEST_TRIALS:
        reason = f"only {trials} of these requests were drawn to the backend that was less likely for them; at least {2 * FEWEST_TRIALS} are needed"
        return Refusal(reason=reason, remedy="wait for more traffic, or raise complexity.explore")
    trial = trial_of(used, measure, (weak, strong))
    worth = trial.worth()[:, [trial.names.index(weak), trial.names.index(strong)]]
    model = CostModel(used, price_before, price_after)
    costs = np.stack([model.per_line([name] * len(used)) for name in (weak, strong)], axis=1)
    scores = np.array([line.complexity for line in used], dtype=float)
    return _curve("log", weak, strong, scores, worth, costs, complexity.threshold)


def _curve(source: Literal["log", "pairs"], weak: str, strong: str, scores: Floats, worth: Floats, costs: Floats | None, threshold: float | None) -> Curve:
    import numpy as np

    def at(value: float) -> CurvePoint:
        above = scores >= value
        gained = np.where(above, worth[:, 1], worth[:, 0])
        mean, error = float(gained.mean()), NORMAL_95 * float(gained.std(ddof=1)) / float(np.sqrt(len(gained)))
        cost = None if costs is None else 1000 * float(np.where(above, costs[:, 1], costs[:, 0]).mean())
        return CurvePoint(threshold=value, strong_share=float(above.mean()), cost_usd=cost, quality=Estimate(mean, mean - error, mean + error))

    grid = np.unique(np.quantile(scores, np.linspace(0, 1, POINTS)[1:]))
    thresholds = [0.0, *(round(float(value), 4) for value in grid if 0 < value <= 1), 1.0001]
    operating = None if threshold is None else at(threshold)
    return Curve(
        source=source,
        weak=weak,
        strong=strong,
        requests=len(scores),
        points=tuple(at(value) for value in dict.fromkeys(thresholds)),
        operating=operating,
    )
