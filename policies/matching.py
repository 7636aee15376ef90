"""Whether a rule's conditions hold, and what a weighted rule draws."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from policies.features import Features
from policies.schema import When


def matches(when: When, features: Features) -> bool:
    """Whether all conditions hold."""
    for wanted, value in (
        (when.tenant, features.tenant),
        (when.role, features.role),
        (when.data_class, features.data_class),
        (when.task, features.task),
        (when.model, features.model),
    ):
        if wanted is not None and value not in ((wanted,) if isinstance(wanted, str) else wanted):
            return False
    if when.needs is not None and not set((when.needs,) if isinstance(when.needs, str) else when.needs) & set(features.needs):
        return False
    if when.grounded is not None and when.grounded != features.grounded:
        return False
    return _within(features.input_tokens, when.min_input_tokens, when.max_input_tokens) and _within(
        features.complexity, when.min_complexity, when.max_complexity
    )


def _within(value: float | None, least: float | None, most: float | None) -> bool:
    if least is None and most is None:
        return True
    return value is not None and (least is None or value >= least) and (most is None or value <= most)


def draw(weights: Mapping[str, float], seed: str, rule: str) -> tuple[str, ...]:
    """The names in a random order: drawn by weight, one after the other without replacement. A weight of 0 is never drawn.

    The order depends on the names, the weights, the seed and the rule only; a backend that goes away moves nobody else's first draw.
    """
    left = {name: weights[name] for name in sorted(weights) if weights[name] > 0}
    order = []
    for turn in range(len(left)):
        point = unit(f"{seed}\n{rule}\n{turn}") * sum(left.values())
        picked = ""
        for name, weight in left.items():
            picked = name
            point -= weight
            if point < 0:
                break
        order.append(picked)
        del left[picked]
    return tuple(order)


def unit(text: str) -> float:
    """A number in [0, 1) that is a pure function of the text: the first 53 bits of its SHA-256."""
    return (int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) >> 11) / (1 << 53)
