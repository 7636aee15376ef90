"""Counting against what providers reported in recorded exchanges. `docs/accounting.md` has the figures."""

from __future__ import annotations

from functools import cache

import pytest

from tests.adapters.remote.recordings import ABSENT, present
from tests.adapters.tokens.measure import Error, errors, quantiles

pytestmark = pytest.mark.skipif(not present(), reason=ABSENT)

EXCEEDED = {
    "test_openai_responses/test_openai_responses_reasoning_mode_pro.yaml#0": "`reasoning.mode: pro` bills the prompt of several passes",
}


@cache
def measured() -> tuple[Error, ...]:
    return tuple(errors())


@pytest.mark.parametrize(
    ("api", "requests", "median", "p95"),
    [("openai chat", 112, 0.015, 0.10), ("openai responses", 71, 0.025, 0.80), ("anthropic", 89, 0.06, 0.40), ("gemini", 86, 0.08, 0.45)],
)
def test_the_estimate_is_as_near_as_the_documentation_says(api: str, requests: int, median: float, p95: float) -> None:
    some = [error.n for error in measured() if error.of.api == api]
    assert len(some) == requests
    found = quantiles(some)
    assert found[0] <= median
    assert found[1] <= p95


def test_a_plain_text_request_to_openai_is_counted_exactly() -> None:
    plain = [each for each in measured() if each.of.api.startswith("openai") and not each.of.request.tools and not each.of.request.response_format.schema]
    exact = [each for each in plain if each.n == 0]
    assert len(plain) >= 50
    assert len(exact) / len(plain) >= 0.90


def test_no_provider_reported_more_than_the_upper_bound() -> None:
    assert {error.of.id for error in measured() if error.exceeded} == set(EXCEEDED)
