"""The threshold that meets a target, from the last scores: pure. What changes is the threshold, so a change of the questions moves no spend.

Each seen score comes with what its request is expected to cost at the weak and at the strong backend. Three targets:

- a share of strong answers: the threshold above which that share of the last scores lies;
- a cost for each 1,000 requests: the lowest threshold at which the last requests, routed by it, cost no more on average;
- a least quality: the highest threshold at which they score no less on average, by the qualities that a head learnt for each score.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from msgspec import Struct

from policies.schema import Target

WINDOW = 256
"""Scores that are looked back at."""

WARM = 64
"""Until so many were seen, scores spread as those the rules learnt from stand in for the missing ones."""

NEVER = 1.01
"""A threshold that no score reaches."""

LEAST_CORRECTION, MOST_CORRECTION = 0.1, 10.0
"""Real over expected cost is believed within these bounds: one strange hour must not turn the router over."""

_USUAL = tuple(round(0.04 + 0.92 * (place + 0.5) / WARM, 4) for place in range(WARM))


class Seen(Struct, frozen=True):
    """One score, with the expected cost of its request at both backends, in USD."""

    score: float
    weak_usd: float = 0.0
    strong_usd: float = 0.0


class Qualities(Struct, frozen=True):
    """What answers are worth by score, from 0 to 1: `weak[n]` and `strong[n]` for scores from `edges[n - 1]` up to `edges[n]`."""

    edges: tuple[float, ...]
    weak: tuple[float, ...]
    strong: tuple[float, ...]

    def at(self, score: float) -> tuple[float, float]:
        place = bisect.bisect_right(self.edges, score)
        return self.weak[place], self.strong[place]


def for_share(seen: Sequence[Seen], share: float) -> float:
    """The least threshold at which no more than `share` of the last scores are strong. Of equal scores all are or none is: rather none."""
    scores = _warmed([each.score for each in seen[-WINDOW:]])
    return _least(scores, [1.0] * len(scores), share * len(scores))


def for_cost(seen: Sequence[Seen], usd_per_1k: float, correction: float = 1.0) -> float:
    """The least threshold at which the last requests cost `usd_per_1k` / 1000 each, at most. `correction` is real over expected cost.

    Before anything was seen nothing is strong: the first request sets a price.
    """
    last = seen[-WINDOW:]
    if not last:
        return NEVER
    correction = min(max(correction, LEAST_CORRECTION), MOST_CORRECTION)
    spare = usd_per_1k / 1000 * len(last) - sum(each.weak_usd for each in last) * correction
    dearer = [max(0.0, each.strong_usd - each.weak_usd) * correction for each in last]
    return _least([each.score for each in last], dearer, spare)


def for_quality(seen: Sequence[Seen], least: float, qualities: Qualities | None) -> float:
    """The highest threshold at which the last answers are expected to be worth `least` on average; 0 where none is, or where qualities are unknown."""
    if qualities is None:
        return 0.0
    scores = _warmed([each.score for each in seen[-WINDOW:]])
    worth = [qualities.at(score) for score in scores]
    missing = least * len(scores) - sum(weak for weak, _ in worth)
    if missing <= 0:
        return NEVER
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    won = 0.0
    for at, place in enumerate(order):
        weak, strong = worth[place]
        won += strong - weak
        last_of_its_score = at + 1 == len(order) or scores[order[at + 1]] < scores[place]
        if won >= missing and last_of_its_score:
            return scores[place]
    return 0.0


def _warmed(scores: list[float]) -> list[float]:
    """The scores, filled up to `WARM` evenly."""
    missing = WARM - len(scores)
    return scores if missing <= 0 else scores + [_USUAL[place * WARM // missing] for place in range(missing)]


def _least(scores: Sequence[float], weights: Sequence[float], most: float) -> float:
    """The least score that may be a threshold: what lies at it and above weighs `most` together, at most."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    found, weight, at = NEVER, 0.0, 0
    while at < len(order):
        score, group = scores[order[at]], 0.0
        while at < len(order) and scores[order[at]] == score:
            group += weights[order[at]]
            at += 1
        if weight + group > most + 1e-12:
            return found
        weight += group
        found = score
    return 0.0


def threshold_for(target: Target, seen: Sequence[Seen], correction: float = 1.0, qualities: Qualities | None = None) -> float:
    """The threshold that meets the target, rounded to four digits, as scores are."""
    if target.strong_share is not None:
        found = for_share(seen, target.strong_share)
    elif target.cost_usd_per_1k is not None:
        found = for_cost(seen, target.cost_usd_per_1k, correction)
    else:
        found = for_quality(seen, target.min_quality or 0.0, qualities)
    return round(found, 4)
