"""A first estimate of how hard a question is, from cheap features of its text: pure, no model, well under 100 µs for 2,000 characters.

A ridge regression on the features below, learnt by `tools/train_complexity.py` from paired answers of a weaker and a stronger model
(Mixtral-8x7B and GPT-4 on MMLU and GSM8K, published by lm-sys/RouteLLM under Apache-2.0). Its target is what the stronger model gains. The
score is squashed so that half of the questions it learnt from lie above 0.5: it is a rank, and no probability.

Known limit: it has seen exam questions only. APGR (random = .5), on rows held out over ten random halves: see `HELD_OUT`. A tenant's own labels
beat it, and rules that know the work beat both.
"""

from __future__ import annotations

import math

from policies.words import spaced, words_of

HELD_OUT = {"mmlu": 0.649, "gsm8k": 0.585}
"""APGR on held-out rows: the mean of ten random halves."""

_LETTERS = spaced()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_QUANTITIES = _words("each every per total times twice half many much more less than left remaining altogether percent cost costs")
_NEGATIONS = _words("not except never no cannot without false incorrect least neither nor none")
_LOGIC = _words("if then therefore because whether either must all some only suppose given assume let following statement statements which")
_SUBJECTS = _words(
    "prove derive theorem integral function group ring field matrix probability equation polynomial algorithm constant velocity energy force"
    " molecular reaction law court plaintiff defendant statute liability moral theory"
)

FEATURES = (
    "characters",
    "word_length",
    "long_words",
    "numbers_share",
    "numbers",
    "distinct_words",
    "questions",
    "full_stops",
    "commas",
    "formulas",
    "brackets",
    "quotes",
    "percent",
    "sentence_length",
    "quantities",
    "negations",
    "logic",
    "subjects",
)


def features_of(text: str) -> tuple[float, ...]:
    """The numbers that the estimate is made of, in the order of `FEATURES`."""
    words = words_of(text.lower(), _LETTERS)
    count = len(words) or 1
    distinct = frozenset(words)
    numbers = sum(map(str.isdigit, words))
    stops = text.count(".")
    questions = text.count("?")
    log = math.log1p
    return (
        log(len(text)),
        sum(map(len, words)) / count,
        sum(1 for word in distinct if len(word) >= 9) / count,
        numbers / count,
        log(numbers),
        len(distinct) / count,
        log(questions),
        log(stops),
        log(text.count(",")),
        log(text.count("$") + text.count("\\") + text.count("^") + text.count("=")),
        log(text.count("(")),
        float('"' in text),
        float("%" in text),
        min(count / (1 + stops + questions), 60) / 20,
        log(len(distinct & _QUANTITIES)),
        log(len(distinct & _NEGATIONS)),
        log(len(distinct & _LOGIC)),
        log(len(distinct & _SUBJECTS)),
    )


SHORT = 12
SHORTNESS = 0.25
"""A greeting is no exam question: below so many words, each missing one makes a text look easier by so much (set by hand)."""

# BEGIN LEARNT
_WEIGHTS: tuple[float, ...] = (
    -0.03241, -0.006954, -0.03082, -0.1039, 0.0521, -0.01826, -0.002789, -0.01435, 0.0285, -0.03247, 0.02827, -0.005606,
    0.008799, 0.02199, 0.01498, 0.003472, -0.002475, 0.009821,
)  # fmt: skip
_MEANS: tuple[float, ...] = (
    5.79, 4.506, 0.09612, 0.04194, 0.7143, 0.7205, 0.4592, 1.979, 0.9318, 0.1545, 0.1486, 0.0975, 0.03548, 0.4078,
    0.3576, 0.32, 0.7414, 0.2061,
)  # fmt: skip
_SCALES: tuple[float, ...] = (
    0.7743, 0.7535, 0.06919, 0.08198, 0.8841, 0.1534, 0.3418, 0.4959, 0.9531, 0.4677, 0.3716, 0.2966, 0.185, 0.205,
    0.5177, 0.4412, 0.5935, 0.3607,
)  # fmt: skip
_MIDDLE = -0.0010123
_SPREAD = 0.091822
# END LEARNT


def linear(features: tuple[float, ...]) -> float:
    """The raw score. A feature counts for three standard deviations at most, so nothing strange in a text can carry the score away."""
    return sum(weight * max(-3.0, min(3.0, (value - mean) / scale)) for weight, value, mean, scale in zip(_WEIGHTS, features, _MEANS, _SCALES, strict=True))


def complexity_of(text: str) -> float:
    """How hard the question is, from 0 to 1, rounded to four digits."""
    score = (linear(features_of(text)) - _MIDDLE) / _SPREAD
    words = len(text.split(None, SHORT))
    return round(1 / (1 + math.exp(SHORTNESS * max(0, SHORT - words) - score)), 4)
