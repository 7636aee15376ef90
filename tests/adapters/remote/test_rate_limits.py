"""What providers' headers say of their rate limits, and that it reaches the attempt's record."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.rate_limits import rate_limit
from adapters.types import RateLimit
from tests.adapters.remote.kit import KINDS, outcome, serving
from tests.fakes.wire import answering, failing

OPENAI = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-reset-requests": "120ms",
    "x-ratelimit-limit-tokens": "30000",
    "x-ratelimit-remaining-tokens": "29000",
    "x-ratelimit-reset-tokens": "1h6m2.5s",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "0",
    "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:30Z",
    "anthropic-ratelimit-tokens-limit": "80000",
    "anthropic-ratelimit-tokens-remaining": "79000",
    "anthropic-ratelimit-tokens-reset": "2026-01-01T00:01:00Z",
}
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def test_openais_headers_are_durations() -> None:
    assert rate_limit(OPENAI) == RateLimit(500, 499, 0.12, 30_000, 29_000, 3_962.5)


def test_anthropics_headers_are_times() -> None:
    assert rate_limit(ANTHROPIC, MIDNIGHT) == RateLimit(50, 0, 30.0, 80_000, 79_000, 60.0)
    assert rate_limit(ANTHROPIC, MIDNIGHT + 3_600) == RateLimit(50, 0, 0.0, 80_000, 79_000, 0.0)


def test_other_servers_say_plain_seconds() -> None:
    assert rate_limit({"x-ratelimit-reset-requests": "2.5"}) == RateLimit(requests_reset_s=2.5)


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "inf", "5 apples", "1m junk", "²", "9" * 40 + "x"])
def test_what_is_no_number_says_nothing(value: str) -> None:
    assert rate_limit(dict.fromkeys([*OPENAI, *ANTHROPIC], value)) is None


@given(st.text())
def test_no_header_is_an_error(value: str) -> None:
    rate_limit(dict.fromkeys([*OPENAI, *ANTHROPIC], value))


@pytest.mark.parametrize("kind", KINDS)
async def test_answers_and_refusals_leave_their_limits_in_the_attempts_record(kind: str) -> None:
    limits = ANTHROPIC if kind == "anthropic" else OPENAI
    answer = answering(kind)
    answer.headers.update(limits)
    refusal = failing(kind, 429, "rate_limit_error")
    refusal.headers.update(limits)
    async with serving(kind, [answer, refusal]) as (backend, _):
        for _ in range(2):
            _, _, attempt = await outcome(backend)
            assert attempt.rate_limit is not None
            assert attempt.rate_limit.requests_limit == int(next(iter(limits.values())))
