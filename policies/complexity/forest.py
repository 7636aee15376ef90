"""Decision trees as flat arrays: scored with numpy alone, whichever library grew them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Forest:
    """A weighted sum of trees. Leaves point at themselves, so a walk of `depth` steps ends in one from every root.

    `feature`, `threshold`, `left`, `right` and `value` have one entry a node; `roots` one a tree. A value goes left where it is at most the threshold.
    """

    ARRAYS = ("feature", "threshold", "left", "right", "value", "roots")

    def __init__(self, feature: Any, threshold: Any, left: Any, right: Any, value: Any, roots: Any, depth: int) -> None:
        self.feature: NDArray[np.int16] = np.asarray(feature, dtype=np.int16)
        self.threshold: NDArray[np.float32] = np.asarray(threshold, dtype=np.float32)
        self.left: NDArray[np.int32] = np.asarray(left, dtype=np.int32)
        self.right: NDArray[np.int32] = np.asarray(right, dtype=np.int32)
        self.value: NDArray[np.float32] = np.asarray(value, dtype=np.float32)
        self.roots: NDArray[np.int32] = np.asarray(roots, dtype=np.int32)
        self.depth = depth

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in self.ARRAYS}

    def one(self, row: NDArray[np.float64]) -> float:
        """The sum of the leaves that one row falls into."""
        at, row = self.roots, row.astype(np.float32)
        for _ in range(self.depth):
            at = np.where(row[self.feature[at]] <= self.threshold[at], self.left[at], self.right[at])
        return float(self.value[at].sum(dtype=np.float64))


def joined(trees: Sequence[tuple[Any, Any, Any, Any, Any]]) -> Forest:
    """One forest of many trees `(feature, threshold, left, right, value)` whose leaves have a `left` of -1."""
    columns: list[list[Any]] = [[], [], [], [], []]
    roots, start, deepest = [], 0, 0
    for feature, threshold, left, right, value in trees:
        own = np.arange(len(left), dtype=np.int64)
        leaf = np.asarray(left) < 0
        deepest = max(deepest, _depth(left, right))
        for column, entry in zip(
            columns,
            (np.where(leaf, 0, feature), np.where(leaf, 0.0, threshold), np.where(leaf, own, left) + start, np.where(leaf, own, right) + start, value),
            strict=True,
        ):
            column.append(entry)
        roots.append(start)
        start += len(own)
    feature, threshold, left, right, value = (np.concatenate(column) if column else np.zeros(0) for column in columns)
    return Forest(feature, threshold, left, right, value, roots, deepest)


def _depth(left: Any, right: Any) -> int:
    level, depth = [0], 0
    while level := [int(child) for node in level if left[node] >= 0 for child in (left[node], right[node])]:
        depth += 1
    return depth
