"""A first estimate of how hard a question is, from cheap features of its text: pure, no model, well under a millisecond for 2,000 characters.

Two parts. What people know of the work, set by hand (`prior`): code is hard, a short question for a fact is easy. And a ridge regression on
the features, learnt by `tools/train_complexity.py` as a correction of it from paired answers of a weaker and a stronger model (see
docs/complexity.md for the data). The score is squashed so that half of the questions it learnt from lie above 0.5: it is a rank, and no
probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.complexity.features import FEATURES, features_of, looked_at

HELD_OUT = {"mmlu": 0.633, "gsm8k": 0.614, "mixed_tasks": 0.651}
"""APGR (random = .5) on the rows that were held out by hash: `policies.complexity.pairs.held_out`."""

SHORT = 12
SHORTNESS = 0.25
"""A greeting is no exam question: below so many words, each missing one makes a text look easier by so much (set by hand)."""

_PLACE = {name: place for place, name in enumerate(FEATURES)}
_PRIOR = {"maths": 0.3, "science": 0.25, "reasoning": 0.3, "numbers": 0.25, "quantities": 0.15, "options": 0.2, "short": -0.6}
_CODE = {"code_asked": 2.0, "code_marks": 1.0, "code_words": 0.8}
_MOST_CODE = 2.5
"""However much code there is, it says no more than that there is code."""


def prior(features: Sequence[float]) -> float:
    """What is expected of a question before anything was learnt, set by hand: unlike what is learnt, it holds for work that nobody labelled."""
    code = min(sum(weight * features[_PLACE[name]] for name, weight in _CODE.items()), _MOST_CODE)
    length = min(features[_PLACE["characters"]] - 5, 2.0)
    fact = 0.4 if features[_PLACE["factoid"]] and features[_PLACE["characters"]] < 5.2 else 0.0
    return code + 0.25 * length - fact + sum(weight * features[_PLACE[name]] for name, weight in _PRIOR.items())


# BEGIN LEARNT
_WEIGHTS: tuple[float, ...] = (
    -0.01164, -0.001588, -0.007576, -0.01728, -0.01127, 0.003197, -0.002127, -5.205e-05, 0.002524, -0.01309, 0.002379,
    0.003623, -0.00622, -0.006352, 0.01622, -0.002543, 0.01068, 0.008438, -0.02456, -0.03499, -0.0124, -0.01304, -0.02,
    -0.01186, -0.01165, 0.01772, -0.005703, 0.0009052, -0.00133, -0.0003469, -0.006679, -0.02138, 0.001906, 0.002001,
    -0.00248, 0.004499, -0.0002376, 0.006237, -0.03362, -0.0001354, -0.01356, 0.01963, -0.008969, -0.0163,
)  # fmt: skip
_MEANS: tuple[float, ...] = (
    5.614, 4.458, 0.08406, 0.04364, 0.7392, 0.7373, 0.4693, 1.7, 0.9416, 0.2043, 0.1675, 0.1025, 0.03564, 0.4358,
    0.3754, 0.2723, 0.6588, 0.1717, 0.08185, 0.05825, 0.005346, 0.1354, 0.1498, 0.04686, 0.1069, 0.2511, 0.6827,
    0.04915, 0.02365, 1.071, 2.191, 0.1028, 2.437, 0.6771, 0.09573, 0.09692, 0.1251, 0.1971, 1.311, 0.04506, 0.2354,
    0.03694, 0.1187, 0.05279,
)  # fmt: skip
_SCALES: tuple[float, ...] = (
    0.9312, 0.7617, 0.07041, 0.0835, 0.9176, 0.1706, 0.3448, 0.8389, 0.9873, 0.5791, 0.4366, 0.3034, 0.1854, 0.2446,
    0.5396, 0.4181, 0.5827, 0.3376, 0.2717, 0.2853, 0.07292, 0.3492, 0.3405, 0.1824, 0.3089, 0.4336, 0.4654, 0.1472,
    0.152, 0.7598, 1.749, 0.2903, 3.269, 0.7923, 0.35, 0.2978, 0.4326, 0.135, 0.8642, 0.1121, 0.4242, 0.1886, 0.3235,
    0.2658,
)  # fmt: skip
_PRIOR_WEIGHT = 0.15
_PRIOR_MEAN = 0.76675
_PRIOR_SCALE = 0.76197
_MIDDLE = -0.0011524
_SPREAD = 0.096448
# END LEARNT


def linear(features: Sequence[float]) -> float:
    """The raw score. A feature counts for three standard deviations at most, so nothing strange in a text can carry the score away."""
    learnt = sum(weight * max(-3.0, min(3.0, (value - mean) / scale)) for weight, value, mean, scale in zip(_WEIGHTS, features, _MEANS, _SCALES, strict=True))
    return learnt + _PRIOR_WEIGHT * (prior(features) - _PRIOR_MEAN) / _PRIOR_SCALE


def squashed(score: float, words: int) -> float:
    """A raw score, 0 in the middle and 1 one spread above it, as a number from 0 to 1, rounded to four digits."""
    exponent = SHORTNESS * max(0, SHORT - words) - score
    return round(1 / (1 + math.exp(min(exponent, 700.0))), 4)


def complexity_of(text: str) -> float:
    """How hard the question is, from 0 to 1, rounded to four digits."""
    return squashed((linear(features_of(looked_at(text))) - _MIDDLE) / _SPREAD, len(text.split(None, SHORT)))
