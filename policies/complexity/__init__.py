"""How hard a question is: a score whose only promise is its order. The higher, the more a stronger model gains over a weaker one.

`rules` scores a text alone. A `Head`, learnt from a tenant's own pairs (`fit`), also sees its embedding; `gate` says when it may serve.

    head = fit(pairs)               # mappings or `Pair`s: prompt, weak, strong (0 or 1, or between), perhaps group and weak_answer
    head.score(prompts)             # a float array; head.score(prompts, answers) after the weak model has answered
    score(prompts)                  # the shipped rules

Importing this loads neither numpy nor a model; `fit` and `score` do, `fit` scikit-learn as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policies.complexity.features import FEATURES, features_of
from policies.complexity.pairs import Pair
from policies.complexity.rules import HELD_OUT, complexity_of, linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from policies.complexity.head import Embed, Head

__all__ = ["FEATURES", "HELD_OUT", "Pair", "complexity_of", "features_of", "fit", "linear", "score"]


def fit(pairs: Sequence[Pair | Mapping[str, Any]], *, embed: Embed | None = None) -> Head:
    """Learn a head from pairs; see `policies.complexity.training.fit`. `embed` makes unit vectors of texts (default: the packaged MiniLM)."""
    from policies.complexity.training import fit

    return fit(pairs, embed=embed)


def score(prompts: Sequence[str], head: Head | None = None) -> NDArray[Any]:
    """The scores of a head, or without one of the shipped rules: a float array, from 0 to 1."""
    import numpy as np

    return np.array([complexity_of(prompt) for prompt in prompts]) if head is None else head.score(prompts)
