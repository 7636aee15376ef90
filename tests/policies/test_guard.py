"""The guard of a canary: it does not fire on noise, however often it is looked at, and fires on what is really worse."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.guard import FALSE_ALARM, Arm, Verdict, lower_share, outcome, upper_share, verdict, window_ended
from policies.trials import Guard
from tests.conftest import LONG

UNWATCHED: dict[str, Any] = dict.fromkeys(("error_rate", "error_rate_over", "latency_ratio", "cost_ratio", "score_drop"))
RUNS, LENGTH, LOOK = (1_000, 1_000, 10) if LONG else (100, 400, 10)

counts = st.integers(min_value=0, max_value=10**6)
levels = st.floats(min_value=1, max_value=50)


def only(**bounds: Any) -> Guard:
    return Guard(**{**UNWATCHED, **bounds})


def answered(ms: float = 1.0, cost: float = 0.0) -> Arm:
    return outcome(failed=False, ms=ms, cost_usd=cost)


Drawn = Callable[[random.Random], Arm]


def spread(typical: float, sigma: float) -> Callable[[random.Random], float]:
    return lambda chance: typical * math.exp(chance.gauss(0, sigma))


def failing(rate: float) -> Drawn:
    return lambda chance: outcome(failed=True) if chance.random() < rate else answered()


def rated(good: float) -> Drawn:
    return lambda chance: Arm(requests=1, scores=1, score_sum=float(chance.random() < good))


def fired_at(guard: Guard, candidate: Drawn, baseline: Drawn, seed: int, length: int = LENGTH, look: int = LOOK) -> int | None:
    """After how many requests of each side the guard fires, looked at all the while."""
    chance = random.Random(seed)
    ours, theirs = Arm(), Arm()
    for number in range(1, length + 1):
        ours, theirs = ours + candidate(chance), theirs + baseline(chance)
        if number % look == 0 and verdict(guard, ours, theirs) is not None:
            return number
    return None


AT_THE_BOUND = {
    "error_rate": (only(error_rate=0.05), failing(0.05), failing(0.0)),
    "error_rate_over": (only(error_rate_over=0.05), failing(0.07), failing(0.02)),
    "latency_ratio": (only(latency_ratio=2.0), lambda chance: answered(ms=spread(200, 1.5)(chance)), lambda chance: answered(ms=spread(100, 1.5)(chance))),
    "cost_ratio": (only(cost_ratio=2.0), lambda chance: answered(cost=spread(2, 1.0)(chance)), lambda chance: answered(cost=spread(1, 1.0)(chance))),
    "score_drop": (only(score_drop=0.1), rated(0.6), rated(0.7)),
}
"""A canary exactly as bad as each bound allows: there a false alarm is likeliest."""


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("metric", AT_THE_BOUND)
def test_a_canary_as_bad_as_its_guard_allows_is_hardly_ever_rolled_back_though_it_is_looked_at_all_the_while(metric: str) -> None:
    guard, candidate, baseline = AT_THE_BOUND[metric]
    alarms = sum(fired_at(guard, candidate, baseline, seed) is not None for seed in range(RUNS))
    print(f"\n{metric}: {alarms} false alarms in {RUNS} canaries of {LENGTH} requests")  # noqa: T201
    assert alarms <= 2 * FALSE_ALARM * RUNS


@pytest.mark.parametrize(
    ("guard", "candidate", "baseline", "most"),
    [
        pytest.param(only(error_rate_over=0.05), failing(1.0), failing(0.01), 50, id="only errors"),
        pytest.param(only(error_rate=0.05), failing(1.0), failing(0.01), 5, id="only errors, beside a fixed bound"),
        pytest.param(only(error_rate_over=0.05), failing(0.5), failing(0.01), 150, id="half errors"),
        pytest.param(only(latency_ratio=1.5), AT_THE_BOUND["latency_ratio"][1], lambda chance: answered(ms=spread(40, 0.5)(chance)), 400, id="slow"),
        pytest.param(
            only(cost_ratio=2.0), lambda chance: answered(cost=spread(6, 0.5)(chance)), lambda chance: answered(cost=spread(1, 0.5)(chance)), 150, id="dear"
        ),
        pytest.param(only(score_drop=0.1), rated(0.2), rated(0.8), 150, id="bad"),
    ],
)
def test_what_is_really_worse_is_found_out_soon(guard: Guard, candidate: Drawn, baseline: Drawn, most: int) -> None:
    found = [fired_at(guard, candidate, baseline, seed, length=most, look=1 if most <= 50 else 5) for seed in range(20)]
    assert all(found), found


def test_costs_and_latencies_are_not_judged_before_the_least_number_of_requests() -> None:
    def arm(count: int, ms: float) -> Arm:
        return sum((answered(ms=ms, cost=ms) for _ in range(count)), Arm())

    guard = Guard(min_requests=30)
    assert verdict(guard, arm(29, 1000), arm(500, 1)) is None
    assert verdict(guard, arm(500, 1000), arm(29, 1)) is None
    found = verdict(guard, arm(30, 1000), arm(30, 1))
    assert found is not None
    assert (found.metric, round(found.candidate), round(found.baseline or 0), found.bound) == ("latency_ratio", 1000, 1, 2.0)
    assert str(found) == "latency_ratio: 1000 beside 1, and the guard's bound is 2"


def test_errors_are_compared_with_those_of_the_rules_own_backends() -> None:
    down = Arm(requests=40, errors=40)
    assert isinstance(verdict(Guard(), down, Arm(requests=400, errors=4)), Verdict)
    assert verdict(Guard(), down, Arm(requests=400, errors=390)) is None, "both fail: the canary is not to blame"
    assert verdict(Guard(), down, Arm()) is None, "there is nothing to compare with yet"


def test_later_windows_ask_for_more_evidence_and_a_window_ends_only_when_it_can_say_something() -> None:
    failing_arm, well = Arm(requests=100, errors=22), Arm(requests=2_000, errors=40)
    fires = [verdict(Guard(error_rate_over=0.01), failing_arm, well, window) is not None for window in (1, 1_000_000)]
    assert fires == [True, False]
    guard = Guard(min_requests=10)
    assert not window_ended(guard, Arm(requests=39), 10_000, 60)
    assert not window_ended(guard, Arm(requests=40), 59, 60)
    assert window_ended(guard, Arm(requests=40), 60, 60)


@given(counts, counts, levels)
def test_a_share_lies_between_its_bounds(one: int, other: int, level: float) -> None:
    total, count = min(one, other), max(one, other)
    low, high = lower_share(total, count, level), upper_share(total, count, level)
    assert 0.0 <= low <= high <= 1.0
    if count:
        assert low <= total / count <= high


@given(counts, counts, levels)
def test_more_failures_never_speak_for_a_backend(one: int, other: int, level: float) -> None:
    total, count = min(one, other), max(one, other)
    assert lower_share(total, count + 1, level) <= lower_share(total + 1, count + 1, level) + 1e-9


@given(st.lists(st.tuples(st.booleans(), st.floats(0.1, 1e7), st.floats(0, 100)), max_size=200), st.integers(1, 1_000))
def test_a_canary_that_does_as_the_rules_own_backends_do_is_never_rolled_back(requests: list[tuple[bool, float, float]], window: int) -> None:
    arm = sum((outcome(failed=failed, ms=ms, cost_usd=cost) for failed, ms, cost in requests), Arm())
    assert verdict(Guard(min_requests=1), arm, arm, window) is None
