from __future__ import annotations

import os
import zlib
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from policies.complexity import FEATURES, HELD_OUT, complexity_of, features_of
from policies.complexity.pairs import held_out
from tests.bench.routing_data import SETS, DataMissing, read_set

DATA = Path(os.environ.get("HEADGATE_ROUTING_DATA") or Path(__file__).resolve().parents[2] / "../shared/data/routing")


def apgr(rows: list[tuple[float, float]]) -> float:
    """`(score, gain of the strong model)`: the area under the recovered gap, over the share sent to the strong model."""
    gains = [gain for _, gain in sorted(rows, key=lambda row: -row[0])]
    recovered = [0.0, *accumulate(gains)]
    return sum((left + right) / 2 for left, right in pairwise(recovered)) / recovered[-1] / len(gains)


@pytest.mark.parametrize("name", SETS)
def test_the_shipped_weights_do_what_is_said_on_rows_they_have_not_seen(name: str) -> None:
    try:
        pairs = [pair for pair in read_set(DATA, name) if held_out(pair.prompt)]
    except DataMissing as error:
        pytest.skip(str(error))
    measured = apgr([(complexity_of(pair.prompt), pair.gain) for pair in pairs])
    assert measured == pytest.approx(HELD_OUT[name], abs=0.02)
    assert measured > 0.57


def test_random_scores_are_worth_one_half() -> None:
    rows = [(zlib.crc32(str(n).encode()) / 2**32, float(n % 3 == 0)) for n in range(20_000)]
    assert apgr(rows) == pytest.approx(0.5, abs=0.02)


def test_a_greeting_is_easier_than_a_proof() -> None:
    proof = "Prove that the group of units of a finite field is cyclic, and derive the number of its generators."
    assert complexity_of("hi") < complexity_of("What is the capital of France?") < complexity_of(proof)


@pytest.mark.parametrize("text", ["", " ", "?", "\x00", "é" * 5000, "1 " * 3000, "=" * 5000, "\ud800"])
def test_strange_texts_have_a_score_between_zero_and_one(text: str) -> None:
    assert len(features_of(text)) == len(FEATURES)
    assert 0 <= complexity_of(text) <= 1
