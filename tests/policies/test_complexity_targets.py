from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.complexity.quantile import NEVER, WINDOW, Qualities, Seen, for_cost, for_quality, for_share, threshold_for
from policies.schema import Target
from router.limits.scores import Scores

SCORES = st.lists(st.floats(0, 1).map(lambda score: round(score, 4)), min_size=64, max_size=300)


def drawn(kind: str, count: int, seed: int) -> list[float]:
    """Scores as different kinds of work have them."""
    random = np.random.default_rng(seed)
    low, high = {"easy": (1.5, 9.0), "mixed": (3.0, 3.0), "hard": (9.0, 1.5), "narrow": (300.0, 300.0)}[kind]
    return [round(float(each), 4) for each in random.beta(low, high, count)]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize(("before", "after"), [("mixed", "easy"), ("easy", "hard"), ("hard", "narrow"), ("narrow", "mixed")])
def test_after_a_switch_of_domain_the_strong_share_is_within_three_points_from_request_300_on(before: str, after: str, share: float) -> None:
    for seed in range(5):
        seen: list[Seen] = []
        strong: list[bool] = []
        for score in drawn(before, 600, seed) + drawn(after, 1300, seed + 50):
            strong.append(score >= for_share(seen, share))
            seen = [*seen, Seen(score)][-WINDOW:]
        realised = sum(strong[900:]) / len(strong[900:])
        assert abs(realised - share) <= 0.03


def test_a_fixed_threshold_drifts_where_the_rolling_one_does_not() -> None:
    before, after = drawn("mixed", 600, 1), drawn("easy", 1300, 2)
    fixed = float(np.quantile(before, 0.7))
    assert np.mean(np.array(after) >= fixed) < 0.1


@given(SCORES, st.floats(0, 1))
def test_never_more_of_the_last_scores_are_strong_than_the_target_says(scores: list[float], share: float) -> None:
    threshold = for_share([Seen(score) for score in scores], share)
    last = scores[-WINDOW:]
    assert sum(score >= threshold for score in last) <= share * len(last) + 1e-9
    lower = max((score for score in last if score < threshold), default=None)
    if lower is not None and threshold > 0:
        assert sum(score >= lower for score in last) > share * len(last), "one score lower would be too many"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.01), st.floats(0, 0.1)), min_size=1, max_size=300), st.floats(0.01, 200))
def test_the_last_requests_routed_by_the_threshold_cost_no_more_than_the_target_unless_the_weak_alone_do(
    rows: list[tuple[float, float, float]], most: float
) -> None:
    seen = [Seen(score, weak, max(weak, strong)) for score, weak, strong in rows]
    threshold = for_cost(seen, most)
    last = seen[-WINDOW:]
    costs = sum(each.strong_usd if each.score >= threshold else each.weak_usd for each in last) / len(last) * 1000
    assert costs <= max(most, sum(each.weak_usd for each in last) / len(last) * 1000) + 1e-6


def test_a_real_cost_that_is_higher_than_was_expected_makes_fewer_answers_strong() -> None:
    seen = [Seen(score, 0.0, 0.01) for score in drawn("mixed", 256, 1)]
    share = lambda threshold: sum(each.score >= threshold for each in seen) / len(seen)  # noqa: E731
    assert share(for_cost(seen, 3.0)) == pytest.approx(0.3, abs=0.01)
    assert share(for_cost(seen, 3.0, correction=2.0)) == pytest.approx(0.15, abs=0.01)
    assert share(for_cost(seen, 3.0, correction=1e9)) == pytest.approx(0.03, abs=0.01), "what is believed has bounds"
    assert for_cost([], 3.0) == NEVER


@given(SCORES, st.floats(0.3, 0.95))
def test_the_answers_are_expected_to_be_worth_the_least_quality_wherever_that_can_be(scores: list[float], least: float) -> None:
    qualities = Qualities((0.25, 0.5, 0.75), (0.9, 0.7, 0.5, 0.3), (0.95, 0.95, 0.9, 0.8))
    threshold = for_quality([Seen(score) for score in scores], least, qualities)
    last = scores[-WINDOW:]
    worth = sum(qualities.at(score)[score >= threshold] for score in last) / len(last)
    best = sum(qualities.at(score)[1] for score in last) / len(last)
    assert worth >= min(least, best) - 1e-9
    assert for_quality([Seen(score) for score in scores], least, None) == 0.0, "without a head's qualities everything is strong"


def test_a_target_is_met_by_its_own_threshold() -> None:
    seen = [Seen(score, 0.001, 0.01) for score in drawn("mixed", 256, 3)]
    assert threshold_for(Target(strong_share=0.3), seen) == for_share(seen, 0.3)
    assert threshold_for(Target(cost_usd_per_1k=4.0), seen) == for_cost(seen, 4.0)
    assert threshold_for(Target(min_quality=0.8), seen) == 0.0


def test_workers_share_scores_and_a_restart_keeps_them(tmp_path: Path) -> None:
    one, other = Scores(tmp_path), Scores(tmp_path)
    for place in range(300):
        (one if place % 2 else other).add("acme", "rules", Seen(place / 300))
    assert [each.score for each in one.seen("acme", "rules")] == [place / 300 for place in range(300 - WINDOW, 300)]
    assert other.seen("acme", "rules") == one.seen("acme", "rules")
    assert (one.seen("globex", "rules"), one.seen("acme", "head:1")) == ([], [])
    one.settled("acme", "rules", 0.01, 0.03)
    assert other.correction("acme", "rules") == pytest.approx(3.0)
    one.close()
    other.close()
    assert len(Scores(tmp_path).seen("acme", "rules")) == WINDOW


def test_a_file_of_scores_that_is_none_begins_anew(tmp_path: Path) -> None:
    scores = Scores(tmp_path)
    scores.add("acme", "rules", Seen(0.5))
    scores.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"something else")
    assert scores.seen("acme", "rules") == []
    scores.add("acme", "rules", Seen(0.25))
    assert [each.score for each in scores.seen("acme", "rules")] == [0.25]


def _add(folder: Path, count: int) -> None:
    scores = Scores(folder)
    for _ in range(count):
        scores.add("acme", "rules", Seen(0.5))


def test_scores_added_by_many_processes_at_once_are_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add, args=(tmp_path, 200)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seen = Scores(tmp_path).seen("acme", "rules")
    assert len(seen) > 100
    assert {each.score for each in seen} == {0.5}
