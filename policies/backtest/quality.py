"""Level 2: how good the answers would have been, from the outcomes of requests whose backend was drawn with a known probability. Statistical.

Two estimates, which should agree:

- SNIPS (Swaminathan, Joachims 2015): the mean outcome, each request weighted by the candidate's probability of its backend over the logged one.
- Doubly robust (Dudik, Langford, Li 2011): what a direct model predicts, corrected by the weighted errors of that model where it was put to the test. It is
  right when either the propensities or the model are, and the figure to go by.

Where the candidate sends requests to a backend to which nothing like them was ever drawn, the log cannot know, and there is no number: `Refusal`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from policies.backtest.direct import design, folds_of, predictions
from policies.backtest.values import NORMAL_95, Estimate, Line

if TYPE_CHECKING:
    from policies.backtest.values import Floats

Measure: TypeAlias = Literal["score", "success"]

CLIP = 200.0
"""The largest weight. A backend drawn for one request in 200 is still weighted in full."""

TOLERATED = 0.01
"""The share of requests without support for which the interval is widened by all that they could change; with more, there is no number."""

FEWEST_REQUESTS = 100
FEWEST_TRIALS = 10
"""Requests that were drawn to where the candidate would send them, against the odds. With fewer, there is no number."""

AGAINST_THE_ODDS = 1.5
"""A request that weighs more was drawn to where the candidate sends it oftener than the logged policy did."""

ENOUGH_SCORES = 200
"""Requests with a score; with fewer, the outcome is whether a request succeeded."""


class Quality(Struct, frozen=True, kw_only=True, tag="quality"):
    """Level 2. Outcomes run from 0 to 1. `logged` is what was; `difference` is the candidate's less that, request by request.

    `effective` is the number of unweighted requests that would say as much as the weighted ones; `trials` are the drawn requests that the estimate of what
    moves hangs on; `clipped` weights were larger than allowed.
    """

    measure: Measure
    requests: int
    left_out: int
    moved_share: float
    logged: Estimate
    doubly_robust: Estimate
    difference: Estimate
    snips: Estimate
    effective: float
    trials: int
    clipped: int
    notes: tuple[str, ...]


class Refusal(Struct, frozen=True, kw_only=True):
    """Why there is no number, and what to set so that there will be one."""

    reason: str
    remedy: str
    unsupported_share: float = 0.0


class Trial(Struct):
    """The log as arrays: outcomes, logged choices and their propensities, the candidate's probabilities (requests by backends)."""

    lines: Sequence[Line]
    names: list[str]
    rewards: Floats
    chosen: Floats
    """1 where a backend was the logged choice (requests by backends)."""
    propensity: Floats
    shares: Floats
    expected: Floats
    """The direct model's predictions (requests by backends)."""
    measure: Measure

    def worth(self) -> Floats:
        """For each request and backend what it would have been worth there, without bias: prediction, and the weighted error where it was logged."""
        weight = self.chosen / self.propensity[:, None]
        found: Floats = self.expected + weight.clip(max=CLIP) * (self.rewards[:, None] - self.expected)
        return found


def estimate_quality(lines: Sequence[Line]) -> Quality | Refusal:
    """The quality of the candidate's choices, or why it cannot be told. Needs numpy."""
    import numpy as np

    measure, used = outcomes(lines)
    if len(used) < FEWEST_REQUESTS:
        return Refusal(
            reason=f"only {len(used)} requests with an outcome that both policies answer; at least {FEWEST_REQUESTS} are needed",
            remedy="wait for more traffic, or widen --since",
        )
    lacking = _lacking(used)
    share = float(lacking.mean())
    if share > TOLERATED:
        return _no_support(used, lacking, share)
    trial = trial_of(used, measure)
    weights = (trial.shares * trial.chosen).sum(axis=1) / trial.propensity
    clipped = int((weights > CLIP).sum())
    moved = float(np.maximum(1.0 - weights, 0.0).mean())  # the mean distance of the two policies' probabilities, without bias
    weights = np.minimum(weights, CLIP)
    trials = int((weights > AGAINST_THE_ODDS).sum())
    much = moved > 2 * TOLERATED
    if much and trials < FEWEST_TRIALS:
        return Refusal(
            reason=f"{moved:.0%} of the requests would go elsewhere, and only {trials} were drawn to where they would go; at least {FEWEST_TRIALS} are needed",
            remedy="wait for more traffic, or raise complexity.explore",
            unsupported_share=share,
        )
    predicted = (trial.shares * trial.expected).sum(axis=1)
    logged_prediction = (trial.chosen * trial.expected).sum(axis=1)
    influence = predicted + weights * (trial.rewards - logged_prediction)
    below, above = _unseen(trial.rewards[weights > AGAINST_THE_ODDS], moved)
    reach = _student(trials - 1) if much else NORMAL_95
    doubt, shift = _doubt(weights, trial.rewards, logged_prediction) if much else (0.0, 0.0)
    robust = _within(_mean(influence, share, below, above, reach, doubt, shift))
    snips = float((weights * trial.rewards).sum() / weights.sum())
    error = float(np.sqrt((weights**2 * (trial.rewards - snips) ** 2).sum() + doubt) / weights.sum())
    notes = []
    if clipped:
        notes.append(f"{clipped} weights above {CLIP:g} were clipped, which pulls the estimates towards the direct model's")
    if share:
        notes.append(f"{share:.2%} of the requests would go where nothing like them was ever drawn: the intervals allow for any outcome of them")
    if measure == "score":
        notes.append("the outcome is the score of the requests that have one; it says nothing of those that nobody judged")
    else:
        notes.append(f"the outcome is whether a request succeeded, for fewer than {ENOUGH_SCORES} have a score (POST /v1/feedback)")
    return Quality(
        measure=measure,
        requests=len(used),
        left_out=len(lines) - len(used),
        moved_share=moved,
        logged=_within(_mean(trial.rewards)),
        doubly_robust=robust,
        difference=_mean(influence - trial.rewards, share, below, above, reach, doubt, shift),
        snips=_within(Estimate(snips, min(snips + shift - reach * error, snips) - share - below, max(snips + shift + reach * error, snips) + share + above)),
        effective=float(weights.sum() ** 2 / (weights**2).sum()),
        trials=trials,
        clipped=clipped,
        notes=tuple(notes),
    )


def outcomes(lines: Sequence[Line]) -> tuple[Measure, list[Line]]:
    """Which outcome is used, and the requests that have it and that both policies answer."""
    answered = [line for line in lines if line.drawn and not line.refused_before and not line.refused_after]
    scored = [line for line in answered if line.score is not None]
    return ("score", scored) if len(scored) >= ENOUGH_SCORES else ("success", answered)


def trial_of(lines: Sequence[Line], measure: Measure, extra: Sequence[str] = ()) -> Trial:
    """The lines as arrays, with the direct model's predictions; `extra` are backends that are asked for although no policy names them first."""
    import numpy as np

    names = sorted({*extra, *(line.before for line in lines), *(name for line in lines for name, _ in line.shares)})
    place = {name: number for number, name in enumerate(names)}
    rewards = np.array([line.score if measure == "score" and line.score is not None else float(line.success) for line in lines])
    actions = np.array([place[line.before] for line in lines], dtype=int)
    propensity = np.array([line.propensity for line in lines])
    chosen, shares = np.zeros((len(lines), len(names))), np.zeros((len(lines), len(names)))
    chosen[np.arange(len(lines)), actions] = 1.0
    for row, line in enumerate(lines):
        for name, share in line.shares:
            shares[row, place[name]] = share
    weights = np.minimum(1.0 / propensity, CLIP)
    expected = predictions(design(lines), folds_of(lines), actions, len(names), rewards, weights)
    return Trial(lines, names, rewards, chosen, propensity, shares, expected, measure)


class _Support:
    """Which backends requests of a kind were drawn among: those that came first, by whatever chance, where it was a draw."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._drawn: dict[tuple[int, str], set[str]] = defaultdict(set)
        for line in lines:
            if line.propensity < 1.0:
                self._drawn[line.kind].add(line.before)

    def lacking(self, line: Line) -> float:
        """With which probability the candidate sends this request where it could not have gone."""
        could = {line.before} if line.propensity >= 1.0 else {line.before, *self._drawn[line.kind]}
        return sum(share for name, share in line.shares if name not in could)


def _lacking(lines: Sequence[Line]) -> Floats:
    """For each request with which probability it would go where it could not have gone."""
    import numpy as np

    support = _Support(lines)
    return np.array([support.lacking(line) for line in lines])


def without_support(lines: Sequence[Line]) -> Refusal | None:
    """Why the log cannot tell what becomes of these requests, if too many of them go where nothing like them was ever drawn."""
    lacking = _lacking(lines)
    share = float(lacking.mean())
    return _no_support(lines, lacking, share) if share > TOLERATED else None


def _no_support(lines: Sequence[Line], lacking: Floats, share: float) -> Refusal:
    missing: dict[tuple[str, str, str], float] = defaultdict(float)
    for line, without in zip(lines, lacking, strict=True):
        if without:
            after = max((name for name, _ in line.shares if name != line.before), key=dict(line.shares).__getitem__, default=line.after)
            missing[(line.kind[1], line.before, after)] += float(without)
    (kind, before, after), _ = max(missing.items(), key=lambda item: item[1])
    if kind == "complexity":
        remedy = (
            "set complexity.explore: 0.05 in the policy in force, so that one request in twenty is drawn between weak and strong, and ask again after a while"
        )
    elif kind.startswith("rule:"):
        remedy = f"let rule {kind[5:]!r} draw: use: {{weighted: {{{before}: 95, {after}: 5}}}}, and ask again after a while"
    elif kind.startswith("pin:"):
        remedy = "these requests name their model themselves; nothing can be drawn for them"
    else:
        remedy = (
            f"let a rule draw instead of {kind!r}: use: {{weighted: {{{before}: 95, {after}: 5}}}}, or set complexity.explore: 0.05; ask again after a while"
        )
    return Refusal(
        reason=f"{share:.1%} of the requests would go where nothing like them was ever drawn (most from {before} to {after}), so nobody knows those answers",
        remedy=remedy,
        unsupported_share=share,
    )


def _unseen(trials: Floats, moved: float) -> tuple[float, float]:
    """How far below and above an interval must reach where every trial came out alike: up to 3 in so many may still be otherwise (the rule of three)."""
    if not len(trials) or trials.min() != trials.max():
        return 0.0, 0.0
    reach = min(moved, 1.0) * min(3.0 / len(trials), 1.0)
    return (reach if trials[0] > 0 else 0.0), (reach if trials[0] < 1 else 0.0)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 1 % (Cornish and Fisher's expansion): what hangs on few trials is less sure than it looks."""
    return NORMAL_95 + 2.372 / freedom + 2.823 / freedom**2


def _doubt(weights: Floats, rewards: Floats, predicted: Floats) -> tuple[float, float]:
    """How much more the trials' errors should vary, summed, than they happen to; and by how much the middle of the interval lies elsewhere than the estimate.

    Few trials with few bad outcomes look good and sure at once. As Agresti and Coull (1998) do for a share, two good and two bad outcomes are added to the
    trials before their spread is taken; outcomes between 0 and 1 vary less than ones that are right or wrong. The estimate itself is not touched.
    """
    heavy = weights > AGAINST_THE_ODDS
    if not heavy.any():
        return 0.0, 0.0
    weight, reward = weights[heavy], rewards[heavy]
    count = float(weight.sum() ** 2 / (weight**2).sum())
    mean = float((weight * reward).sum() / weight.sum())
    shifted = (mean * count + 2) / (count + 4)
    plain = float((weight**2 * (reward - mean) ** 2).sum())
    left = float((weight**2 * (reward - predicted[heavy]) ** 2).sum()) / plain if plain > 0 else 1.0
    more = float((weight**2).sum()) * max(shifted * (1 - shifted) - mean * (1 - mean), 0.0) * min(left, 1.0)
    return more, float(weight.sum()) / len(weights) * (shifted - mean)


def _mean(
    values: Floats, unsupported: float = 0.0, below: float = 0.0, above: float = 0.0, reach: float = NORMAL_95, doubt: float = 0.0, shift: float = 0.0
) -> Estimate:
    """The mean with its interval; of a share without support, any outcome between 0 and 1 is possible."""
    import numpy as np

    value = float(values.mean())
    error = reach * float(np.sqrt(values.var(ddof=1) / len(values) + doubt / len(values) ** 2))
    low, high = value + shift - error - unsupported - below, value + shift + error + unsupported + above
    return Estimate(value, min(low, value), max(high, value))


def _within(estimate: Estimate) -> Estimate:
    """With an interval of possible outcomes only."""
    return Estimate(estimate.value, max(0.0, min(estimate.low, 1.0)), min(1.0, max(estimate.high, 0.0)))
