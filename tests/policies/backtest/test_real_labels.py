"""The truth test on published labels: both models answered every question, so it is known what any policy would have been worth."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import Struct

from policies.backtest.quality import Quality, Refusal, estimate_quality
from policies.complexity import complexity_of
from policies.features import Features, task_of
from tests.policies.backtest.simulator import CERTAIN, EXPLORING, Asked, log_of, policy, threshold


class Label(Struct):
    prompt: str
    weak: float
    strong: float


@pytest.fixture
def labels(shared: Path) -> list[Asked]:
    path = shared / "data" / "routing" / "mmlu.jsonl.gz"
    if not path.exists():
        pytest.skip("the labels are not beside this checkout")
    with gzip.open(path) as file:
        rows = [msgspec.json.decode(line, type=Label) for line in file]
    return [
        Asked(
            Features(task=task_of(row.prompt), complexity=complexity_of(row.prompt), input_tokens=len(row.prompt) // 4),
            {"weak": row.weak, "strong": row.strong},
            {"weak": 200, "strong": 300},
        )
        for row in rows
    ]


@pytest.mark.parametrize(("seeds", "least"), [(5, 4), pytest.param(100, 90, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_on_real_labels_the_estimate_is_near_the_truth_and_its_interval_covers_it(labels: list[Asked], seeds: int, least: int) -> None:
    errors, covered = [], 0
    for seed in range(seeds):
        logged = log_of(policy(EXPLORING), labels, seed)
        found, truth = estimate_quality(logged.lines(threshold(0.45))), logged.truth(threshold(0.45))
        assert isinstance(found, Quality)
        errors.append(found.doubly_robust.value - truth)
        covered += found.doubly_robust.low <= truth <= found.doubly_robust.high
    rmse = np.sqrt(np.mean(np.square(errors)))
    said = f"bias {np.mean(errors):+.4f}, RMSE {rmse:.4f}, within 2 points {np.mean(np.abs(errors) <= 0.02):.0%}, covered {covered} of {seeds}"
    assert abs(np.mean(errors)) <= 0.02, said
    assert rmse <= 0.025, said
    assert covered >= least, said


def test_on_real_labels_without_exploration_there_is_no_number(labels: list[Asked]) -> None:
    assert isinstance(estimate_quality(log_of(policy(CERTAIN), labels, 1).lines(threshold(0.45))), Refusal)
