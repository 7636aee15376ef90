"""Money in picodollars: exact, and bounded before the call."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.cost import PICODOLLARS, cost, picodollars, upper_bound, usd, usd_float
from adapters.types import Usage
from config.prices import FREE, Price, PriceTier

rates = st.decimals(min_value=0, max_value=200, places=6).map(float)
optional_rates = st.none() | rates
tiers = st.lists(
    st.builds(PriceTier, above=st.integers(0, 5000), input=rates, output=rates, cache_read=optional_rates, cache_write=optional_rates),
    max_size=3,
    unique_by=lambda tier: tier.above,
).map(tuple)
prices = st.builds(Price, input=rates, output=rates, cache_read=optional_rates, cache_write=optional_rates, request=st.sampled_from([0.0, 0.0025]), tiers=tiers)


@st.composite
def usages(draw: st.DrawFn, most_input: int = 10_000, most_output: int = 10_000) -> Usage:
    total = draw(st.integers(0, most_input))
    read = draw(st.integers(0, total))
    written = draw(st.integers(0, total - read))
    return Usage(total, draw(st.integers(0, most_output)), cache_read_input_tokens=read, cache_creation_input_tokens=written)


def test_a_cost_is_the_sum_of_each_kind_of_token_at_its_rate() -> None:
    price = Price(input=3.0, output=15.0, cache_read=0.3, cache_write=3.75)
    usage = Usage(input_tokens=1000, output_tokens=200, cache_read_input_tokens=600, cache_creation_input_tokens=100)
    assert cost(usage, price) == 300 * 3_000_000 + 600 * 300_000 + 100 * 3_750_000 + 200 * 15_000_000
    assert usd(cost(usage, price)) == "0.004455"


def test_cached_tokens_cost_the_input_rate_where_the_price_names_no_other() -> None:
    usage = Usage(input_tokens=100, cache_read_input_tokens=60, cache_creation_input_tokens=40)
    assert cost(usage, Price(input=2.0, output=1.0)) == 100 * 2_000_000


def test_the_whole_request_is_billed_at_the_tier_of_its_input_and_a_tier_starts_above_its_mark() -> None:
    price = Price(input=1.25, output=10.0, tiers=(PriceTier(above=400_000, input=5.0, output=30.0), PriceTier(above=200_000, input=2.5, output=15.0)))
    assert cost(Usage(200_000, 1), price) == 200_000 * 1_250_000 + 10_000_000
    assert cost(Usage(200_001, 1), price) == 200_001 * 2_500_000 + 15_000_000
    assert cost(Usage(400_001, 1), price) == 400_001 * 5_000_000 + 30_000_000


def test_a_fee_per_request_is_added_once() -> None:
    assert cost(Usage(), Price(input=1.0, output=1.0, request=0.005)) == 5 * 10**9
    assert upper_bound(0, 0, Price(input=1.0, output=1.0, request=0.005)) == 5 * 10**9


def test_what_is_free_costs_nothing() -> None:
    assert cost(Usage(10**6, 10**6), FREE) == 0
    assert upper_bound(10**6, 10**6, FREE) == 0


def test_a_rate_finer_than_a_picodollar_a_token_is_rounded_up() -> None:
    assert cost(Usage(1, 0), Price(input=0.0000001, output=0.0)) == 1


@given(usages(), prices)
def test_a_cost_equals_the_decimal_reckoning(usage: Usage, price: Price) -> None:
    tier: Price | PriceTier = price
    for candidate in sorted(price.tiers, key=lambda each: each.above):
        tier = candidate if usage.input_tokens > candidate.above else tier
    read_rate = tier.input if tier.cache_read is None else tier.cache_read
    write_rate = tier.input if tier.cache_write is None else tier.cache_write
    plain = usage.input_tokens - usage.cache_read_input_tokens - usage.cache_creation_input_tokens
    counts = (plain, usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.output_tokens)
    per_million = (tier.input, read_rate, write_rate, tier.output)
    expected = sum((n * Decimal(repr(rate)) for n, rate in zip(counts, per_million, strict=True)), Decimal(0)) / 10**6 + Decimal(repr(price.request))
    assert Decimal(cost(usage, price)) == expected * PICODOLLARS


@given(st.data(), prices, st.integers(0, 10_000), st.integers(0, 10_000))
def test_no_usage_within_the_bounds_costs_more_than_the_upper_bound(data: st.DataObject, price: Price, most_input: int, most_output: int) -> None:
    assert cost(data.draw(usages(most_input, most_output)), price) <= upper_bound(most_input, most_output, price)


@given(prices, st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_upper_bound_is_reached_so_that_it_reserves_no_more_than_needed(price: Price, most_input: int, most_output: int) -> None:
    marks = [tier.above for tier in price.tiers if tier.above < most_input]
    dearest = max(
        cost(Usage(length, most_output, cache_read_input_tokens=read, cache_creation_input_tokens=written), price)
        for length in (*marks, most_input)
        for read, written in ((0, 0), (length, 0), (0, length))
    )
    assert upper_bound(most_input, most_output, price) == dearest


def test_a_cache_write_dearer_than_input_is_in_the_bound() -> None:
    assert upper_bound(100, 0, Price(input=3.0, output=15.0, cache_write=3.75)) == 100 * 3_750_000


def test_a_cheaper_tier_for_long_inputs_does_not_lower_the_bound() -> None:
    price = Price(input=5.0, output=5.0, tiers=(PriceTier(above=100, input=1.0, output=1.0),))
    assert upper_bound(150, 10, price) == 100 * 5_000_000 + 10 * 5_000_000


@pytest.mark.parametrize(
    ("pico", "text"),
    [(0, "0"), (1, "0.000000000001"), (2_500_000, "0.0000025"), (10**12, "1"), (1_500_000_000_000, "1.5"), (-250_000_000_000, "-0.25"), (200 * 10**12, "200")],
)
def test_dollars_are_written_exactly_and_plainly(pico: int, text: str) -> None:
    assert usd(pico) == text
    assert picodollars(text) == pico
    assert usd_float(pico) == float(text)


def test_a_float_of_dollars_is_read_as_it_prints() -> None:
    assert picodollars(0.1) == 100_000_000_000
    assert picodollars(0.07) + picodollars(0.01) == picodollars(0.08)


@given(st.integers(-(10**20), 10**20))
def test_writing_and_reading_dollars_loses_nothing(pico: int) -> None:
    assert picodollars(usd(pico)) == pico
