"""When a failed attempt is made again: bounds, jitter, and the provider's own wish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import (
    ERRORS,
    AuthenticationFailed,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    BreakerOpen,
    DeadlinePassed,
    InvalidRequest,
    Overloaded,
    ProviderFault,
    QueueFull,
    RateLimited,
    StreamBroken,
)
from adapters.resilience import RetrySpec
from adapters.retry import may_help, pause_before_retry

WORTH_IT = [RateLimited, Overloaded, BackendUnavailable, BackendTimeout, ProviderFault, StreamBroken]


@pytest.mark.parametrize("error", sorted(ERRORS.values(), key=lambda error: error.code))
def test_only_errors_that_may_pass_are_retried(error: type[BackendError]) -> None:
    assert may_help(error("x")) == (error in WORTH_IT)


@pytest.mark.parametrize("error", [QueueFull, BreakerOpen, DeadlinePassed])
def test_what_headgate_itself_refuses_is_not_retried(error: type[BackendError]) -> None:
    assert not may_help(error("x"))


@pytest.mark.parametrize(
    ("error", "status", "helps"),
    [
        (InvalidRequest, 400, False),
        (AuthenticationFailed, 401, False),
        (AuthenticationFailed, 403, False),
        (BackendUnavailable, 404, False),
        (BackendTimeout, 408, True),
        (RateLimited, 429, True),
        (ProviderFault, 500, True),
        (Overloaded, 503, True),
        (BackendTimeout, 504, True),
        (Overloaded, 529, True),
    ],
)
def test_a_status_says_whether_a_retry_may_help(error: type[BackendError], status: int, helps: bool) -> None:
    assert may_help(error("x", provider_status=status)) == helps


SPECS = st.builds(
    RetrySpec,
    attempts=st.integers(1, 10),
    first_s=st.floats(0.001, 10),
    longest_s=st.floats(0.001, 10),
    total_s=st.floats(0.001, 60),
)


@given(SPECS, st.integers(1, 12), st.floats(0, 60), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 30))
def test_a_pause_is_within_every_bound_and_never_earlier_than_asked(spec: RetrySpec, failures: int, elapsed: float, chance: float, asked: float | None) -> None:
    pause = pause_before_retry(spec, RateLimited("x", retry_after=asked), failures=failures, elapsed_s=elapsed, chance=chance)
    if pause is None:
        assert failures >= spec.attempts or (asked or 0) > spec.longest_s or elapsed + spec.longest_s > spec.total_s
        return
    assert failures < spec.attempts
    assert (asked or 0.0) <= pause <= spec.longest_s
    assert pause <= (asked or 0.0) + spec.first_s * 2 ** (failures - 1) + 1e-9
    assert elapsed + pause <= spec.total_s


def test_the_jitter_is_full_and_doubles() -> None:
    spec = RetrySpec(attempts=10, first_s=0.5, longest_s=3.0, total_s=100.0)
    error = ProviderFault("x")
    ends = [pause_before_retry(spec, error, failures=number, elapsed_s=0.0, chance=1 - 1e-12) for number in (1, 2, 3, 4)]
    assert ends == pytest.approx([0.5, 1.0, 2.0, 3.0])
    assert pause_before_retry(spec, error, failures=3, elapsed_s=0.0, chance=0.0) == 0.0


def test_one_attempt_is_no_retry() -> None:
    assert pause_before_retry(RetrySpec(attempts=1), ProviderFault("x"), failures=1, elapsed_s=0.0, chance=0.0) is None
