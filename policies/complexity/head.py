"""A head: what was learnt from pairs, as arrays. Scoring needs numpy only, and the same inputs give the same score, bit for bit.

A score is made of what the head expects the strong model to gain (ridge regression, mixed with trees) and of what the rules' prior expects.
The further a question lies from everything the head has seen, the more the prior counts: a head knows nothing of work that it never saw.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from policies.complexity.answers import ANSWER_FEATURES, answer_features
from policies.complexity.features import FEATURES, features_of, looked_at
from policies.complexity.forest import Forest
from policies.complexity.quantile import Qualities
from policies.complexity.rules import SHORT, prior, squashed

Embed: TypeAlias = Callable[[Sequence[str]], NDArray[Any]]
"""Texts to one unit vector each."""

FORMAT = 1
LONGEST = 8_192
"""Characters of a question that are embedded; the packaged model reads far fewer."""

NEAREST = 5
"""How near a question lies to what a head has seen: its mean cosine with so many of the nearest."""


class HeadError(ValueError):
    """A file that is no head, or not the one that was written; the message says why."""


class About(Struct, frozen=True, kw_only=True):
    """What a head says of itself, beside its arrays: the JSON part of its file.

    `space` names the embedder whose vectors it reads. The `prior_…` numbers put the rules' prior on the scale of gains, `mean` is the gain of
    its pairs, `base` the weight of the prior among what it has seen; `middle` and `spread` squash the sum to a score from 0 to 1. `qualities` are what answers
    were worth by score, measured on pairs that the head had not seen.
    """

    format: int = FORMAT
    space: str
    features: tuple[str, ...] = FEATURES
    answer_features: tuple[str, ...] = ANSWER_FEATURES
    pairs: int
    mean: float
    base: float
    prior_mean: float
    prior_scale: float
    prior_gain: float
    middle: float
    spread: float
    depth: int
    bias: float
    qualities: Qualities | None = None
    answer_depth: int | None = None
    answer_bias: float = 0.0
    answer_middle: float = 0.0
    answer_spread: float = 1.0


class Estimate:
    """Ridge regression and trees over an embedding and numbers of the text: the expected gain. `arrays` are named in `ARRAYS` and `Forest.ARRAYS`."""

    ARRAYS = ("means", "scales", "weights", "embedding_weights", "centre", "axes")

    def __init__(self, arrays: dict[str, NDArray[Any]], depth: int, bias: float) -> None:
        self.arrays = arrays
        self._means, self._scales, self._weights = (arrays[name].astype(np.float64) for name in ("means", "scales", "weights"))
        self._embedding_weights, self._centre, self._axes = (arrays[name].astype(np.float64) for name in ("embedding_weights", "centre", "axes"))
        self._forest = Forest(depth=depth, **{name: arrays[name] for name in Forest.ARRAYS})
        self._bias = bias

    def one(self, vector: NDArray[np.float64], numbers: NDArray[np.float64]) -> float:
        # Sums of products, and no matrix product: the order of a BLAS's additions depends on the machine and on how many rows come at once.
        standard = np.clip((numbers - self._means) / self._scales, -3.0, 3.0)
        linear = float((standard * self._weights).sum() + (vector * self._embedding_weights).sum())
        projected = (self._axes * (vector - self._centre)).sum(axis=1)
        return linear + self._forest.one(np.concatenate([projected, numbers])) + self._bias


class Head:
    """Scores questions; see the module. `hash` names it by all that it is made of."""

    ARRAYS = (*Estimate.ARRAYS, *Forest.ARRAYS, "reference", "nearness")

    def __init__(self, about: About, arrays: dict[str, NDArray[Any]], embed: Embed | None = None) -> None:
        """`arrays` are those of `ARRAYS`, and where the head looks at answers the estimate's again with `answer_` before their names."""
        self.about = about
        self.arrays = arrays
        self._embed = embed
        self._estimate = Estimate(arrays, about.depth, about.bias)
        self._answered: Estimate | None = None
        if about.answer_depth is not None:
            own = {name: arrays[f"answer_{name}"] for name in (*Estimate.ARRAYS, *Forest.ARRAYS)}
            self._answered = Estimate(own, about.answer_depth, about.answer_bias)
        self._reference = arrays["reference"].astype(np.float64)
        self._nearness = arrays["nearness"].astype(np.float64)

    @functools.cached_property
    def hash(self) -> str:
        return _hash(self.about, _packed(self.arrays))

    def score(self, prompts: Sequence[str], answers: Sequence[str | None] | None = None) -> NDArray[Any]:
        """A float array, from 0 to 1. With the weak model's `answers` the head looks at those too, if it has learnt to (else `ValueError`)."""
        if answers is not None and self._answered is None:
            raise ValueError("this head has seen no answers of the weak model: fit it with pairs that have a 'weak_answer'")
        if answers is not None and len(answers) != len(prompts):
            raise ValueError(f"there are {len(prompts)} prompts and {len(answers)} answers")
        vectors = embedded(prompts, self._embed)
        said = answers or [None] * len(prompts)
        return np.array([self.one(prompt, vector, answer) for prompt, vector, answer in zip(prompts, vectors, said, strict=True)])

    def one(self, prompt: str, embedding: NDArray[np.float16] | bytes, answer: str | None = None) -> float:
        """The score of one question whose embedding is known. Raises `ValueError` where that has another size."""
        return self.of(features_of(looked_at(prompt)), embedding, None if answer is None else answer_features(prompt, answer), len(prompt.split(None, SHORT)))

    def of(self, features: Sequence[float], embedding: NDArray[np.float16] | bytes, answered: Sequence[float] | None = None, words: int = SHORT) -> float:
        """The same from the numbers of the text: what a logged decision is scored from again."""
        raw = self.raw(features, embedding, answered)
        middle, spread = (self.about.middle, self.about.spread) if answered is None else (self.about.answer_middle, self.about.answer_spread)
        return squashed((raw - middle) / spread, words)

    def raw(self, features: Sequence[float], embedding: NDArray[np.float16] | bytes, answered: Sequence[float] | None = None) -> float:
        """The expected gain, as far as it tells questions apart."""
        half = np.frombuffer(embedding, dtype=np.float16) if isinstance(embedding, bytes) else embedding.astype(np.float16)
        vector = half.astype(np.float64)
        if vector.shape != self._estimate.arrays["centre"].shape:
            raise ValueError(f"the head reads embeddings of {self._estimate.arrays['centre'].shape[0]} numbers, found {vector.shape[0]}")
        numbers = np.array(features, dtype=np.float64)
        if answered is not None:
            assert self._answered is not None
            return self._answered.one(vector, np.concatenate([numbers, np.array(answered, dtype=np.float64)])) - self.about.mean
        share = self.about.base + (1 - self.about.base) * self._novelty(vector)
        expected = self.about.prior_gain * (prior(features) - self.about.prior_mean) / self.about.prior_scale
        return (1 - share) * (self._estimate.one(vector, numbers) - self.about.mean) + share * expected

    def _novelty(self, vector: NDArray[np.float64]) -> float:
        """0 among what the head has seen, 1 further away than any of it was from the rest."""
        near = np.sort((self._reference * vector).sum(axis=1))[-NEAREST:].mean()
        return float(np.interp(near, self._nearness, np.linspace(1.0, 0.0, len(self._nearness))))

    def save(self, folder: Path) -> Path:
        """Write `HASH.npz` and `HASH.json` into the folder, each whole or not at all; the JSON comes last and is the head's path."""
        folder.mkdir(parents=True, exist_ok=True)
        packed = _packed(self.arrays)
        written = {"hash": self.hash, "arrays_sha256": hashlib.sha256(packed).hexdigest(), "about": msgspec.to_builtins(self.about)}
        for name, content in ((f"{self.hash}.npz", packed), (f"{self.hash}.json", json.dumps(written, indent=1).encode())):
            part = folder / f".{name}.part"
            part.write_bytes(content)
            part.replace(folder / name)
        return folder / f"{self.hash}.json"


def load(path: Path, embed: Embed | None = None) -> Head:
    """Read a head that `save` wrote. Raises `HeadError` where a file is missing, damaged, foreign, or not the one that its hash names."""
    try:
        written = json.loads(path.read_bytes())
        packed = path.with_suffix(".npz").read_bytes()
        about = msgspec.convert(written["about"], About)
        named = written["hash"]
    except OSError as error:
        raise HeadError(f"{error.filename or path}: the head cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{path}: this is no head: {error}") from error
    if about.format != FORMAT or about.features != FEATURES or about.answer_features != ANSWER_FEATURES:
        raise HeadError(f"{path}: the head was made by another version of Headgate and reads other features; calibrate again")
    if _hash(about, packed) != named:
        raise HeadError(f"{path}: the head is not the one that was written (its hash differs); calibrate again")
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return Head(about, arrays, embed)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise HeadError(f"{path.with_suffix('.npz')}: the arrays of the head cannot be read: {error}") from error


def _packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    """An npz whose bytes depend on the arrays alone: numpy's own writer stores the time of writing."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(arrays):
            one = io.BytesIO()
            np.lib.format.write_array(one, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), one.getvalue())
    return whole.getvalue()


def _hash(about: About, packed: bytes) -> str:
    described = json.dumps(msgspec.to_builtins(about), sort_keys=True).encode()
    return hashlib.sha256(described + hashlib.sha256(packed).digest()).hexdigest()[:16]


@functools.cache
def _packaged() -> tuple[Embed, str]:
    from adapters.embedding import SentenceEmbedder

    embedder = SentenceEmbedder(offline=True)
    return lambda texts: embedder.embed(texts, "query"), embedder.space


def embedded(prompts: Sequence[str], embed: Embed | None = None) -> NDArray[np.float16]:
    """One float16 row a question, which is all that is ever scored. Without `embed`, by the packaged model, which is loaded once."""
    texts = [prompt.strip()[:LONGEST] for prompt in prompts]  # as a search embeds it, whose embedding a request shares
    embed = _packaged()[0] if embed is None else embed
    if not texts:
        return np.zeros((0, 0), dtype=np.float16)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # texts of a length together: none is padded much
    rows = np.concatenate([embed([texts[place] for place in order[at : at + 64]]) for at in range(0, len(order), 64)])
    found: NDArray[np.float16] = np.empty(rows.shape, dtype=np.float16)
    found[order] = rows.astype(np.float16)
    return found


def space_of(embed: Embed | None) -> str:
    """The space of the packaged embedder; for one that was passed, the name it has (`space`), or none."""
    return _packaged()[1] if embed is None else str(getattr(embed, "space", ""))
