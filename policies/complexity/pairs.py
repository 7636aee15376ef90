"""What a head learns from: a question, and how well a weaker and a stronger model answered it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct


class Pair(Struct, frozen=True, kw_only=True):
    """Both models' scores of one question, each from 0 (wrong) to 1 (right). `group` names a subject or task; `weak_answer` is what the weak one said.

    Where `embedding` (float16 bytes) and `features` are known the question itself may be empty.
    """

    prompt: str = ""
    weak: float
    strong: float
    group: str = ""
    weak_answer: str | None = None
    embedding: bytes | None = None
    features: tuple[float, ...] | None = None

    @property
    def gain(self) -> float:
        return self.strong - self.weak


def as_pairs(rows: Sequence[Pair | Mapping[str, Any]]) -> list[Pair]:
    """The rows as `Pair`s. Raises `ValueError` that names the row and what is wrong with it."""
    found = []
    for place, row in enumerate(rows):
        try:
            pair = row if isinstance(row, Pair) else msgspec.convert(dict(row), Pair)
        except msgspec.ValidationError as error:
            raise ValueError(f"pair {place}: {error}") from error
        if not (0 <= pair.weak <= 1 and 0 <= pair.strong <= 1):
            raise ValueError(f"pair {place}: 'weak' and 'strong' lie from 0 to 1, found {pair.weak} and {pair.strong}")
        if not pair.prompt.strip() and (pair.embedding is None or pair.features is None):
            raise ValueError(f"pair {place}: 'prompt' is empty")
        found.append(pair)
    return found


def held_out(prompt: str, percent: int = 30) -> bool:
    """Whether a question belongs to the part that nothing is learnt from: by the hash of its text, so for good."""
    return int(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) % 100 >= 100 - percent
