"""Learn a head from pairs: ridge regression on embedding and features, mixed with extremely randomised trees, and from 2,000 pairs on with boosted ones.

Chosen by cross-validation inside the part of the published sets that nothing is reported on (docs/complexity.md): trees learn what the weak and
the strong model score and answer the difference; averaged over ridge and both kinds of trees, errors that are each one's own cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.complexity.answers import answer_features
from policies.complexity.features import features_of, looked_at
from policies.complexity.forest import joined
from policies.complexity.head import About, Embed, Estimate, Head, embedded, space_of
from policies.complexity.pairs import Pair, as_pairs
from policies.complexity.rules import prior

LEAST_PAIRS = 40
"""With fewer there is nothing to learn from."""

BOOSTED_FROM = 2_000
"""With fewer pairs boosted trees only add noise."""

DIRECTIONS = 32
"""Principal directions of the embedding that the trees see."""

REFERENCES = 512
"""Embeddings that a head keeps, to know how near a question lies to what it has seen."""

EMBEDDING_SCALE = 6.0
RIDGE = 1000.0
NOVEL = 0.05
"""Among what a head has seen, this share lies so far out that it counts as new, more the further."""

PRIOR_PAIRS = 200
"""The rules' prior counts as much as so many pairs."""

PRIOR_GAIN = 0.12
"""The least that one standard deviation of the prior is worth, as a gain: on unseen work, pairs from elsewhere say nothing against it."""

ANSWERED_SHARE = 0.8
"""A head looks at answers where so many of its pairs have one."""

Progress = Callable[[int, int], object]


def fit(pairs: Sequence[Pair | Mapping[str, Any]], *, embed: Embed | None = None, progress: Progress | None = None) -> Head:
    """A head learnt from the pairs; the same pairs give the same head. `progress` is told how much of how much is done.

    Raises `ValueError` for a pair that is none, for too few of them, and where no pair tells the models apart.
    """
    rows = as_pairs(pairs)
    if len(rows) < LEAST_PAIRS:
        raise ValueError(f"a head needs at least {LEAST_PAIRS} pairs, found {len(rows)}")
    if len({row.gain for row in rows}) == 1:
        raise ValueError("in every pair the strong model gains the same: there is nothing to tell questions apart by")
    vectors = vectors_of(rows, embed)
    numbers = np.array([features_of_pair(row) for row in rows])
    weak, strong = np.array([row.weak for row in rows]), np.array([row.strong for row in rows])
    gains = strong - weak
    priors = np.array([prior(row) for row in numbers])
    scale = float(priors.std()) or 1.0
    slope = float(((priors - priors.mean()) * (gains - gains.mean())).mean()) / scale
    answered = np.array([row.weak_answer is not None and bool(row.prompt) for row in rows])
    looks = answered.mean() >= ANSWERED_SHARE
    steps = _Steps(progress, 2 + 2 * bool(looks))
    arrays, depth, bias = _estimate(vectors, numbers, weak, strong, steps)
    reference, nearness = _nearness(vectors)
    about = About(
        space=space_of(embed),
        pairs=len(rows),
        mean=float(gains.mean()),
        base=PRIOR_PAIRS / (PRIOR_PAIRS + len(rows)),
        prior_mean=float(priors.mean()),
        prior_scale=scale,
        prior_gain=max(slope, PRIOR_GAIN),
        middle=0.0,
        spread=1.0,
        depth=depth,
        bias=bias,
    )
    arrays |= {"reference": reference, "nearness": nearness}
    if looks:
        chosen = np.flatnonzero(answered)
        wide = np.array([[*numbers[place], *answer_features(rows[place].prompt, rows[place].weak_answer or "")] for place in chosen])
        own, answer_depth, answer_bias = _estimate(vectors[chosen], wide, weak[chosen], strong[chosen], steps)
        arrays |= {f"answer_{name}": array for name, array in own.items()}
        seen = Estimate(own, answer_depth, answer_bias)
        raw = [seen.one(vectors[place].astype(np.float64), wide[at]) - about.mean for at, place in enumerate(chosen[:1000])]
        about = _replaced(about, answer_depth=answer_depth, answer_bias=answer_bias, answer_middle=float(np.median(raw)), answer_spread=_spread(raw))
    head = Head(about, arrays, embed)
    raw = [head.raw(list(numbers[place]), vectors[place]) for place in range(min(len(rows), 1000))]
    return Head(_replaced(about, middle=float(np.median(raw)), spread=_spread(raw)), arrays, embed)


def _replaced(about: About, **fields: Any) -> About:
    import msgspec

    return msgspec.structs.replace(about, **fields)


def _spread(raw: Sequence[float]) -> float:
    return max(float(np.std(raw)), 1e-6)


def features_of_pair(pair: Pair) -> tuple[float, ...]:
    return features_of(looked_at(pair.prompt)) if pair.features is None else pair.features


def vectors_of(rows: Sequence[Pair], embed: Embed | None) -> NDArray[np.float16]:
    """The embeddings, those that a pair brings as they are. Raises `ValueError` where they differ in size."""
    missing = [place for place, row in enumerate(rows) if row.embedding is None]
    made = dict(zip(missing, embedded([rows[place].prompt for place in missing], embed), strict=True)) if missing else {}
    found = [np.frombuffer(row.embedding, dtype=np.float16) if row.embedding is not None else made[place] for place, row in enumerate(rows)]
    if len({len(row) for row in found}) > 1:
        raise ValueError("the pairs' embeddings are of different models: their sizes differ")
    return np.stack(found)


class _Steps:
    def __init__(self, progress: Progress | None, whole: int) -> None:
        self._progress, self._whole, self._done = progress, whole, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._whole)


def _estimate(half: NDArray[np.float16], numbers: Any, weak: Any, strong: Any, done: _Steps) -> tuple[dict[str, NDArray[Any]], int, float]:
    """The arrays of an `Estimate`, the depth of its forest, and its bias."""
    vectors, gains, count = half.astype(np.float64), strong - weak, len(weak)
    means, scales = numbers.mean(0), numbers.std(0) + 1e-6
    centre = vectors.mean(0)
    axes = np.linalg.svd(vectors - centre, full_matrices=False)[2][: min(DIRECTIONS, count - 1)]
    sheet = np.hstack([vectors * EMBEDDING_SCALE, np.clip((numbers - means) / scales, -3, 3)])
    middle = sheet.mean(0)
    inner = sheet - middle
    weights = np.linalg.solve(inner.T @ inner + RIDGE * np.eye(sheet.shape[1]), inner.T @ (gains - gains.mean()))
    done()
    seen = np.hstack([(vectors - centre) @ axes.T, numbers]).astype(np.float32)
    boosted = count >= BOOSTED_FROM
    share = 1 / 3 if boosted else 1 / 2
    trees = _randomised(seen, weak, strong, share)
    baseline = 0.0
    if boosted:
        more, baseline = _boosted(seen, weak, strong, share)
        trees += more
    forest = joined(trees)
    done()
    size = vectors.shape[1]
    arrays = {
        "means": means,
        "scales": scales,
        "weights": share * weights[size:],
        "embedding_weights": share * EMBEDDING_SCALE * weights[:size],
        "centre": centre.astype(np.float32),
        "axes": axes.astype(np.float32),
        **forest.arrays(),
    }
    return arrays, forest.depth, float(share * (gains.mean() - middle @ weights) + baseline)


_Trees = list[tuple[Any, Any, Any, Any, Any]]


def _randomised(seen: Any, weak: Any, strong: Any, share: float, trees: int = 150) -> _Trees:
    """Extremely randomised trees (Geurts et al., 2006), grown on both models' scores; their leaves answer the gain."""
    from sklearn.ensemble import ExtraTreesRegressor

    leaf = 15 if len(weak) >= 2_500 else 8
    model = ExtraTreesRegressor(trees, min_samples_leaf=leaf, max_features=0.4, random_state=0).fit(seen, np.stack([weak, strong], axis=1))
    grown = [each.tree_ for each in model.estimators_]
    return [
        (tree.feature, tree.threshold, tree.children_left, tree.children_right, (tree.value[:, 1, 0] - tree.value[:, 0, 0]) * share / trees) for tree in grown
    ]


def _boosted(seen: Any, weak: Any, strong: Any, share: float, rounds: int = 3) -> tuple[_Trees, float]:
    """Gradient-boosted trees for each model's score, by different seeds; and what they start from."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    found: _Trees = []
    baseline = 0.0
    for seed in range(rounds):
        for target, sign in ((strong, 1.0), (weak, -1.0)):
            model = HistGradientBoostingRegressor(
                max_iter=100, learning_rate=0.05, max_leaf_nodes=6, min_samples_leaf=60, l2_regularization=10, max_features=0.2, random_state=seed
            ).fit(seen, target)
            weight = sign * share / rounds
            baseline += weight * float(np.ravel(model._baseline_prediction)[0])
            for predictor in (each[0] for each in model._predictors):
                nodes = predictor.nodes
                leaf = nodes["is_leaf"].astype(bool)
                left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
                found.append((nodes["feature_idx"], nodes["num_threshold"], left, right, np.where(leaf, nodes["value"], 0.0) * weight))
    return found, baseline


def _nearness(half: NDArray[np.float16]) -> tuple[NDArray[np.float16], NDArray[np.float64]]:
    """Embeddings to compare with, and the low quantiles (0 to `NOVEL`) of how near the pairs lie to them, each without itself."""
    from policies.complexity.head import NEAREST

    random = np.random.default_rng(0)
    chosen = random.permutation(len(half))[:REFERENCES]
    reference = half[chosen]
    cosines = half.astype(np.float64) @ reference.astype(np.float64).T
    cosines[chosen, np.arange(len(chosen))] = -1.0
    near = np.sort(cosines, axis=1)[:, -NEAREST:].mean(axis=1)
    return reference, np.quantile(near, np.linspace(0.0, NOVEL, 6))
