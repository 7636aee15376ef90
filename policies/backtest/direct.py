"""The direct model of the doubly robust estimate: how good an answer each backend would give, from a request's features and embedding.

A ridge regression for each backend, weighted by the inverse of the logged propensities and cross-fitted: no request is predicted by a model that has seen
it, or the estimate would be too sure of itself. How much it shrinks is chosen by generalised cross-validation (Golub, Heath, Wahba 1979).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from policies.backtest.values import Line

if TYPE_CHECKING:
    from policies.backtest.values import Floats, Numbers

FOLDS = 5
FEWEST = 40
"""Answers of a backend from which a model of its own is made; with fewer, the mean of those there are (or of all, with fewer than 10) is taken."""

_SHRINKAGE = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Times the number of requests."""


def folds_of(lines: Sequence[Line]) -> Numbers:
    """The fold of each request, by a hash of its id: the same in every run."""
    import numpy as np

    return np.array([zlib.crc32(line.request_id.encode()) % FOLDS for line in lines], dtype=int)


def design(lines: Sequence[Line]) -> Floats:
    """Features, and the embeddings where every request has one of the same size, each column with mean 0 and spread 1 (embeddings: together)."""
    import numpy as np

    numbers = np.array([line.numbers for line in lines], dtype=float)
    columns = [_standardised(numbers)]
    complexity = numbers[:, 0]
    columns.append(_standardised(np.stack([complexity**2, np.maximum(complexity - 0.5, 0.0)], axis=1)))
    sizes = {len(line.embedding) if line.embedding else 0 for line in lines}
    if len(sizes) == 1 and (size := sizes.pop()):
        vectors = np.frombuffer(b"".join(line.embedding or b"" for line in lines), dtype=np.float16).reshape(len(lines), size // 2).astype(float)
        vectors = vectors - vectors.mean(axis=0)
        columns.append(vectors / max(float(vectors.std()), 1e-9) * 0.3)
    return np.concatenate(columns, axis=1)


def _standardised(values: Floats) -> Floats:
    import numpy as np

    spread = values.std(axis=0)
    found: Floats = (values - values.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return found


def predictions(x: Floats, folds: Numbers, actions: Numbers, kinds: int, rewards: Floats, weights: Floats) -> Floats:
    """What each of `kinds` backends would give each request (rows by columns), from 0 to 1, by models that have not seen the request."""
    import numpy as np

    found = np.zeros((len(x), kinds))
    for fold in range(FOLDS):
        held, rest = folds == fold, folds != fold
        overall = float(np.average(rewards[rest], weights=weights[rest])) if rest.any() else 0.5
        for kind in range(kinds):
            chosen = rest & (actions == kind)
            count = int(chosen.sum())
            if count >= FEWEST and np.ptp(rewards[chosen]) > 0:
                found[held, kind] = _ridge(x[chosen], rewards[chosen], weights[chosen], x[held])
            else:
                found[held, kind] = float(np.average(rewards[chosen], weights=weights[chosen])) if count >= 10 else overall
    return np.clip(found, 0.0, 1.0)


def _ridge(x: Floats, y: Floats, weights: Floats, wanted: Floats) -> Floats:
    """A weighted ridge regression with an intercept that is not shrunk."""
    import numpy as np

    share = weights / weights.sum()
    center, mean = share @ x, float(share @ y)
    root = np.sqrt(share * len(x))[:, None]
    a, b = (x - center) * root, (y - mean) * root[:, 0]
    values, vectors = np.linalg.eigh(a.T @ a)
    values = np.maximum(values, 0.0)
    projected = vectors.T @ (a.T @ b)
    total = float(b @ b)
    best, chosen = np.inf, _SHRINKAGE[-1]
    for shrinkage in _SHRINKAGE:
        shrunk = values + shrinkage * len(x)
        freedom = 1.0 + float((values / shrunk).sum())
        if freedom >= len(x):
            continue
        error = total - float((projected**2 * (2 / shrunk - values / shrunk**2)).sum())
        score = error / (1 - freedom / len(x)) ** 2
        if score < best:
            best, chosen = score, shrinkage
    coefficients = vectors @ (projected / (values + chosen * len(x)))
    found: Floats = mean + (wanted - center) @ coefficients
    return found
