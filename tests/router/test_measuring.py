from __future__ import annotations

import pytest

from config.prices import FREE, Price
from router.measuring import FRESH_S, SAMPLES, USUAL_OUTPUT_TOKENS, Measured


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_backend_is_as_fast_as_the_median_of_its_last_answers_in_two_digits() -> None:
    measured = Measured()
    assert measured.latency_ms is None
    for seconds in (0.1234, 9.0, 0.1278):
        measured.answered(seconds, 10, 1.0)
    assert measured.latency_ms == 130.0
    for _ in range(SAMPLES):
        measured.answered(0.0456, 10, 1.0)
    assert measured.latency_ms == 46.0
    for _ in range(SAMPLES):
        measured.answered(0.0, 10, 1.0)
    assert measured.latency_ms == 0.0


def test_what_was_measured_long_ago_counts_no_more() -> None:
    clock = Clock()
    measured = Measured(clock)
    measured.answered(1.0, 10, 1.0)
    clock.now += FRESH_S - 1
    measured.answered(3.0, 10, 1.0)
    assert measured.latency_ms == 2000.0
    clock.now += 2
    assert measured.latency_ms == 3000.0
    clock.now += FRESH_S
    assert measured.latency_ms is None


def test_an_answer_is_expected_to_be_as_long_as_they_usually_are_and_no_longer_than_was_asked_for() -> None:
    price = Price(input=1.0, output=10.0)
    measured = Measured()
    assert measured.expected_cost(1000, None, 1, price) == pytest.approx(0.001 + USUAL_OUTPUT_TOKENS * 1e-5)
    assert measured.expected_cost(1000, 50, 2, price) == pytest.approx(0.001 + 100 * 1e-5)
    for _ in range(100):
        measured.answered(0.1, 2000, 1.0)
    assert measured.output_tokens == pytest.approx(2000, rel=0.01)
    assert measured.expected_cost(0, None, 1, price) == pytest.approx(0.02, rel=0.01)
    assert measured.expected_cost(1000, None, 1, FREE) == 0


def test_the_time_of_a_machine_is_expected_to_cost_what_its_answers_take() -> None:
    measured = Measured()
    for _ in range(100):
        measured.answered(0.1, 10, 30.0)
    assert measured.expected_cost(10, None, 1, Price(input=0.0, output=0.0, second=0.01)) == pytest.approx(0.3, rel=0.01)
