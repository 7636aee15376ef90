"""The truth test: estimates against a world in which it is known what every request would have come to."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from policies.backtest.quality import CLIP, Quality, Refusal, estimate_quality
from policies.load import Policy
from tests.policies.backtest.simulator import CERTAIN, EXPLORING, World, policy, threshold, world

SIZE = 7_000


def estimated(logged: World, candidate: Policy) -> Quality:
    found = estimate_quality(logged.lines(candidate))
    assert isinstance(found, Quality), found
    return found


@pytest.mark.parametrize(("seeds", "least", "error"), [(8, 7, 0.02), pytest.param(100, 90, 0.005, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_with_five_percent_exploration_the_estimate_is_near_the_truth_and_its_interval_covers_it(seeds: int, least: int, error: float) -> None:
    logging, candidate = policy(EXPLORING), threshold(0.45)
    errors, covered, covered_difference = [], 0, 0
    for seed in range(seeds):
        logged = world(logging, seed, SIZE)
        found, truth = estimated(logged, candidate), logged.truth(candidate)
        errors.append(found.doubly_robust.value - truth)
        covered += found.doubly_robust.low <= truth <= found.doubly_robust.high
        was = sum(record.score or 0.0 for record in logged.records) / SIZE
        covered_difference += found.difference.low <= truth - was <= found.difference.high
    rmse, near = np.sqrt(np.mean(np.square(errors))), np.mean(np.abs(errors) <= 0.02)
    said = f"bias {np.mean(errors):+.4f}, RMSE {rmse:.4f}, within 2 points {near:.0%}, covered {covered} of {seeds}"
    assert abs(np.mean(errors)) <= error, said
    assert rmse <= 0.02, said
    assert covered >= least, said
    assert covered_difference >= least, said


def test_without_exploration_there_is_no_number_but_what_to_set() -> None:
    refused = estimate_quality(world(policy(CERTAIN), 1, 2_000).lines(threshold(0.45)))
    assert isinstance(refused, Refusal)
    assert refused.unsupported_share > 0.1
    assert "nothing like them was ever drawn (most from weak to strong)" in refused.reason
    assert "rule 'easy'" in refused.remedy
    assert "weighted: {weak: 95, strong: 5}" in refused.remedy


def test_where_complexity_decided_without_exploration_the_remedy_is_to_explore() -> None:
    refused = estimate_quality(world(threshold(0.6), 1, 2_000).lines(threshold(0.45)))
    assert isinstance(refused, Refusal)
    assert "complexity.explore: 0.05" in refused.remedy


def test_the_policy_that_logged_is_worth_what_was_logged() -> None:
    found = estimated(world(policy(EXPLORING), 3, 2_000), policy(EXPLORING))
    assert found.doubly_robust.value == pytest.approx(found.logged.value, abs=0.005)
    assert found.difference.low <= 0 <= found.difference.high
    assert found.effective == pytest.approx(2_000, rel=0.001)


def test_too_few_draws_give_no_number() -> None:
    refused = estimate_quality(world(policy(EXPLORING), 4, 400).lines(threshold(0.3)))
    assert isinstance(refused, Refusal)
    assert "at least 10 are needed" in refused.reason
    assert isinstance(estimate_quality(world(policy(EXPLORING), 4, 60).lines(threshold(0.3))), Refusal)


def test_without_scores_the_outcome_is_success_and_that_is_said() -> None:
    logged = world(policy(EXPLORING), 6, 4_000, scored=False)
    found = estimated(logged, threshold(0.45))
    assert found.measure == "success"
    assert abs(found.doubly_robust.value - logged.truth(threshold(0.45))) <= 0.06, "which interval misses it by chance is another test"
    assert any("whether a request succeeded" in note for note in found.notes)


def test_weights_beyond_the_largest_are_clipped_and_that_is_said() -> None:
    rare = EXPLORING.replace("strong: 2.5}", "strong: 0.1}").replace("weak: 97.5", "weak: 99.9")
    lines = world(policy(rare), 7, 3_000).lines(policy("rules: [{name: all, use: [strong]}]\n"))
    lines = [
        msgspec.structs.replace(line, before="strong", propensity=0.001) if number % 40 == 0 and line.kind[1] == "rule:easy" else line
        for number, line in enumerate(lines)
    ]
    found = estimate_quality(lines)
    assert isinstance(found, Quality)
    assert found.clipped > 20
    assert any(f"weights above {CLIP:g} were clipped" in note for note in found.notes)


def test_trials_that_all_came_out_alike_do_not_make_the_estimate_certain() -> None:
    lines = [msgspec.structs.replace(line, score=1.0) for line in world(policy(EXPLORING), 8, 3_000).lines(threshold(0.45))]
    found = estimate_quality(lines)
    assert isinstance(found, Quality)
    assert found.doubly_robust.value == pytest.approx(1.0)
    assert found.doubly_robust.low < 1 - found.moved_share * 2 / found.trials
    assert found.doubly_robust.high == 1.0


def test_a_few_requests_without_support_widen_the_interval_by_all_that_they_could_change() -> None:
    lines = world(policy(EXPLORING), 9, 2_000).lines(policy(EXPLORING))
    narrow = estimate_quality(lines)
    strange = [msgspec.structs.replace(line, shares=(("new", 1.0),)) if number < 10 else line for number, line in enumerate(lines)]
    wide = estimate_quality(strange)
    assert isinstance(narrow, Quality)
    assert isinstance(wide, Quality)
    assert wide.doubly_robust.high - wide.doubly_robust.low >= narrow.doubly_robust.high - narrow.doubly_robust.low + 2 * 0.0049
    assert any("0.50%" in note for note in wide.notes)


def test_the_estimate_is_the_same_every_time() -> None:
    lines = world(policy(EXPLORING), 10, 1_500).lines(threshold(0.5))
    assert estimate_quality(lines) == estimate_quality(lines)
