from __future__ import annotations

import gzip
import json
import zlib
from itertools import accumulate, pairwise
from pathlib import Path

import pytest

from policies.complexity import FEATURES, HELD_OUT, complexity_of, features_of

DATA = Path(__file__).resolve().parents[2] / "../shared/data/routing"


def apgr(rows: list[tuple[float, float]]) -> float:
    """`(score, gain of the strong model)`: the area under the recovered gap, over the share sent to the strong model."""
    gains = [gain for _, gain in sorted(rows, key=lambda row: -row[0])]
    recovered = [0.0, *accumulate(gains)]
    return sum((left + right) / 2 for left, right in pairwise(recovered)) / recovered[-1] / len(gains)


@pytest.mark.parametrize("name", ["mmlu", "gsm8k"])
def test_the_shipped_weights_do_what_is_said_on_rows_they_have_not_seen(name: str) -> None:
    path = DATA / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} of lm-sys/RouteLLM is not on this machine")
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    unseen = [row for row in rows if zlib.crc32(row["prompt"].encode()) % 2]
    measured = apgr([(complexity_of(row["prompt"]), row["strong"] - row["weak"]) for row in unseen])
    assert measured == pytest.approx(HELD_OUT[name], abs=0.03)
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
