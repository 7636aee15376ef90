"""Whether a head may serve a tenant: only where it beats the rules on the tenant's own pairs, and that is no luck. Pure.

Heads do not carry over: one learnt elsewhere can order questions worse than chance. So each is measured on pairs of the tenant's that it has not
seen, and until the lower end of its interval lies above the rules' score, the rules serve.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from policies.complexity.head import Embed, Head
from policies.complexity.measures import Measured, apgr, bootstrap
from policies.complexity.pairs import Pair, as_pairs
from policies.complexity.quantile import Qualities
from policies.complexity.rules import SHORT, linear
from policies.complexity.training import LEAST_PAIRS, Progress, features_of_pair, fit, vectors_of

LEAST_HELD_OUT = 150
"""On fewer pairs nothing is promoted, however well it does."""

FOLDS = 5
BINS = 8


class Verdict(Struct, frozen=True, kw_only=True):
    """What was measured, and whether the head may serve. `apgr` is the head's and `rules` the rules'; None where nothing could be measured."""

    promoted: bool
    reason: str
    pairs: int
    apgr: Measured | None = None
    rules: float | None = None


def judge(head_scores: Sequence[float], rules_scores: Sequence[float], gains: Sequence[float]) -> Verdict:
    """The gate: at least `LEAST_HELD_OUT` pairs the head has not seen, and the lower 95 % bound of its APGR above the rules' APGR on the same pairs.

    The rules' figure is as uncertain as the head's, so the lower bound of the difference on the same draws must lie above 0 as well.
    """
    count = len(gains)
    if count < LEAST_HELD_OUT:
        return Verdict(promoted=False, reason=f"{count} held-out pairs are fewer than {LEAST_HELD_OUT}: the rules serve", pairs=count)
    if sum(gains) <= 0:
        return Verdict(promoted=False, reason="the strong backend gains nothing on these pairs: there is no order to learn", pairs=count)
    head, rules = bootstrap(apgr, head_scores, gains), apgr(rules_scores, gains)
    ahead = bootstrap(lambda own, other, gain: apgr(own, gain) - apgr(other, gain), head_scores, rules_scores, gains, seed=1)
    told = f"APGR {head.value:.3f} [{head.low:.3f}, {head.high:.3f}] on {count} held-out pairs, the rules {rules:.3f}"
    if head.low > rules and ahead.low > 0:
        return Verdict(promoted=True, reason=f"{told}: the head serves", pairs=count, apgr=head, rules=rules)
    return Verdict(promoted=False, reason=f"{told}: not surely better than the rules, which serve on", pairs=count, apgr=head, rules=rules)


def judge_head(head: Head, pairs: Sequence[Pair]) -> Verdict:
    """The gate for a head that was learnt from other pairs than these."""
    rows = as_pairs(pairs)
    numbers = [features_of_pair(row) for row in rows]
    vectors = vectors_of(rows, None)
    scores = [head.of(own, vector, None, _words(row)) for own, vector, row in zip(numbers, vectors, rows, strict=True)]
    return judge(scores, [linear(own) for own in numbers], [row.gain for row in rows])


def calibrate(pairs: Sequence[Pair | Mapping[str, Any]], *, embed: Embed | None = None, progress: Progress | None = None) -> tuple[Head | None, Verdict]:
    """Learn from all pairs, and judge by cross-validation: each pair is scored by a head that has not seen it.

    The parts are by the hash of a pair's content, so a repeated question never stands on both sides. The head that would serve is learnt from all.
    There is none where there are too few pairs to learn from.
    """
    rows = as_pairs(pairs)
    if len(rows) < max(LEAST_HELD_OUT, LEAST_PAIRS):
        return None, Verdict(promoted=False, reason=f"{len(rows)} pairs are fewer than {LEAST_HELD_OUT}: the rules serve", pairs=len(rows))
    if len({row.gain for row in rows}) == 1:
        return None, Verdict(promoted=False, reason="in every pair the strong backend gains the same: there is no order to learn", pairs=len(rows))
    vectors, numbers = vectors_of(rows, embed), [features_of_pair(row) for row in rows]
    rows = [_with(row, vector.tobytes(), own) for row, vector, own in zip(rows, vectors, numbers, strict=True)]
    parts = np.array([_part(row) for row in rows])
    scores = np.zeros(len(rows))
    for part in range(FOLDS):
        known = [row for row, own in zip(rows, parts, strict=True) if own != part]
        learnt = fit(known, embed=embed) if len(known) >= LEAST_PAIRS and len({row.gain for row in known}) > 1 else None
        for place in np.flatnonzero(parts == part):
            row = rows[place]
            scores[place] = learnt.of(row.features or (), row.embedding or b"", None, _words(row)) if learnt is not None else 0.0
        if progress is not None:
            progress(part + 1, FOLDS + 1)
    verdict = judge(list(scores), [linear(own) for own in numbers], [row.gain for row in rows])
    head = fit(rows, embed=embed)
    head = Head(msgspec.structs.replace(head.about, qualities=_qualities(scores, rows)), head.arrays, embed)
    if progress is not None:
        progress(FOLDS + 1, FOLDS + 1)
    return head, verdict


def _qualities(scores: Any, rows: Sequence[Pair]) -> Qualities:
    """Both backends' mean scores in bins of equally many pairs, the weak one's made to fall as the score rises (pool adjacent violators)."""
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    weak, strong = ([float(np.mean([getattr(rows[place], name) for place in part])) for part in bins] for name in ("weak", "strong"))
    edges = tuple(float(scores[part[0]]) for part in bins[1:])
    return Qualities(edges, tuple(_falling(weak)), tuple(strong))


def _falling(values: Sequence[float]) -> list[float]:
    blocks: list[tuple[float, int]] = []
    for value in values:
        total, count = value, 1
        while blocks and blocks[-1][0] / blocks[-1][1] < total / count:
            more, others = blocks.pop()
            total, count = total + more, count + others
        blocks.append((total, count))
    return [total / count for total, count in blocks for _ in range(count)]


def _words(pair: Pair) -> int:
    return len(pair.prompt.split(None, SHORT)) if pair.prompt else SHORT


def _with(pair: Pair, embedding: bytes, features: tuple[float, ...]) -> Pair:
    return msgspec.structs.replace(pair, embedding=embedding, features=tuple(features))


def _part(pair: Pair) -> int:
    return zlib.crc32(pair.embedding or pair.prompt.encode("utf-8", "surrogatepass")) % FOLDS
