"""A bucket lets through what it says, and truing up neither makes nor loses tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.buckets import LONGEST_DEBT, Bucket, charged, full_in, per_minute, refilled, slowest, wait_for

buckets = st.builds(per_minute, st.integers(1, 10**7), st.floats(0.01, 60))
arrivals = st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1)), min_size=1, max_size=60)


@given(buckets, arrivals)
def test_never_more_passes_than_the_rate_and_a_burst(bucket: Bucket, arrivals: list[tuple[float, float]]) -> None:
    """From any moment on, and whatever the sizes: at most `rate * time + max(capacity, the largest charge + capacity / 2)`."""
    level, at = bucket.capacity, 0.0
    passed: list[tuple[float, float]] = []
    for pause, share in arrivals:
        cost = 1 + share * (bucket.limit - 1)
        level, at = refilled(bucket, level, pause), at + pause
        if wait_for(bucket, level, cost) == 0:
            level = charged(bucket, level, cost)
            passed.append((at, cost))
    for first, (start, _) in enumerate(passed):
        most = max(bucket.capacity, max(cost for _, cost in passed[first:]) + bucket.capacity / 2)
        for last in range(first, len(passed)):
            total = sum(cost for _, cost in passed[first : last + 1])
            assert total <= (passed[last][0] - start) * bucket.rate + most + 1e-6 * (1 + total) + 1e-5 * len(passed)


@given(buckets, st.floats(0, 1), st.floats(0, 1), st.floats(0, 30))
def test_truing_up_conserves(bucket: Bucket, reserved: float, used: float, took_s: float) -> None:
    """A charge that turned out to have been another leaves a bucket that was being used up as that other one would have."""
    reserved, used = 1 + reserved * (bucket.limit - 1), 1 + used * (bucket.limit - 1)
    level = min(1.0, bucket.capacity) - bucket.limit  # others wait: it does not fill up meanwhile
    took_s = min(took_s, 0.9 * (bucket.limit - 1) / bucket.rate) if bucket.limit > 1 else 0.0
    estimated = charged(bucket, refilled(bucket, charged(bucket, level, reserved), took_s), used - reserved)
    known = refilled(bucket, charged(bucket, level, used), took_s)
    assert estimated == pytest.approx(known, rel=1e-9, abs=1e-6 * bucket.limit)


@given(buckets, st.lists(st.floats(-2, 2), max_size=30))
def test_what_is_given_back_never_makes_more_than_a_minute_and_a_debt_never_closes_for_ever(bucket: Bucket, changes: list[float]) -> None:
    level = bucket.capacity
    for change in changes:
        level = charged(bucket, level, change * bucket.limit)
        assert -LONGEST_DEBT * bucket.limit <= level <= max(bucket.limit, bucket.capacity)
        assert wait_for(bucket, level, bucket.limit) <= 60 * (LONGEST_DEBT + 1) * 1.001


@given(buckets, st.floats(0, 1), st.floats(0, 1))
def test_after_the_wait_that_is_told_a_charge_passes(bucket: Bucket, debt: float, share: float) -> None:
    cost = 1 + share * (bucket.limit - 1)
    level = bucket.capacity - debt * bucket.limit
    assert wait_for(bucket, refilled(bucket, level, wait_for(bucket, level, cost)), cost) == 0
    assert refilled(bucket, level, full_in(bucket, level)) == pytest.approx(bucket.capacity)


def test_a_clock_that_goes_back_stands_still() -> None:
    bucket = per_minute(60, 1.2)
    assert refilled(bucket, 0.5, -5) == 0.5


def test_a_charge_larger_than_half_a_bucket_waits_for_that_and_leaves_a_debt() -> None:
    bucket = per_minute(6000, 1.2)
    assert bucket.capacity == 120
    assert wait_for(bucket, 59, 3000) == pytest.approx(0.01)
    assert wait_for(bucket, 60, 3000) == 0
    assert charged(bucket, 120, 3000) == -2880
    assert wait_for(bucket, -2880, 1) == pytest.approx(28.81)


@pytest.mark.parametrize("limit", [1, 3, 60, 600, 6_000])
def test_a_minute_lets_through_its_limit_within_two_percent(limit: int) -> None:
    """A client that always asks: in the worst minute (the bucket was full) at most a request or 2 percent more, and in every later one the limit."""
    bucket, step = per_minute(limit, 1.2), 60 / limit / 4
    level, count, counts = bucket.capacity, 0, []
    for minute in range(3):
        count = 0
        for tick in range(4 * limit):
            level = refilled(bucket, level, step if minute or tick else 0.0)
            if wait_for(bucket, level, 1) == 0:
                level, count = charged(bucket, level, 1), count + 1
        counts.append(count)
    assert limit <= counts[0] <= max(limit * 1.02, limit + 1)
    assert all(abs(count - limit) <= max(1, 0.02 * limit) for count in counts[1:])


def test_the_charge_that_must_wait_longest_is_named() -> None:
    fast, slow = per_minute(600, 1.2), per_minute(6, 1.2)
    assert slowest([(fast, 12, 1), (slow, 1, 1)]) == (None, 0.0)
    number, wait = slowest([(fast, 0, 1), (slow, 0, 1)])
    assert (number, wait) == (1, pytest.approx(10))
