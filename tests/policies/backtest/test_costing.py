from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.prices import Price
from policies.backtest.costing import CostModel, estimate_costs
from policies.backtest.pricing import prices_of
from policies.backtest.values import Costs, Line
from policies.load import Policy, load_policy
from tests.policies.backtest.simulator import BACKENDS, CERTAIN, EXPLORING, WRITES_MORE, World, policy, threshold, world


def costs(logged: World, candidate: Policy) -> Costs:
    return estimate_costs(logged.lines(candidate), prices_of(logged.logging), prices_of(candidate))


@pytest.mark.parametrize(("seeds", "least"), [(4, 3), pytest.param(100, 88, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_the_interval_of_the_cost_covers_what_the_requests_would_have_cost(seeds: int, least: int) -> None:
    candidate, covered, errors = threshold(0.45), 0, []
    for seed in range(seeds):
        logged = world(policy(EXPLORING), 500 + seed, 7_000)
        found, truth = costs(logged, candidate), logged.spent(candidate)
        covered += found.after_usd.low <= truth <= found.after_usd.high
        errors.append(found.after_usd.value / truth - 1)
    assert covered >= least
    assert abs(sum(errors) / seeds) < 0.04


def test_the_ratio_of_two_models_is_learnt_from_answers_of_both() -> None:
    found = costs(world(policy("rules: [{name: any, use: {weighted: {weak: 70, strong: 30}}}]\n"), 1, 6_000), policy("rules: [{name: all, use: [strong]}]\n"))
    (ratio,) = found.ratios
    assert (ratio.before, ratio.after, ratio.guessed) == ("weak", "strong", False)
    assert ratio.ratio.low < WRITES_MORE < ratio.ratio.high
    assert ratio.ratio.value == pytest.approx(WRITES_MORE, rel=0.08)
    assert ratio.ratio.high - ratio.ratio.low < 0.3


def test_with_too_few_answers_of_both_the_ratio_is_a_stated_guess_with_a_wide_interval() -> None:
    found = costs(world(policy("rules: [{name: any, use: [weak]}]\n"), 1, 300), policy("rules: [{name: all, use: [strong]}]\n"))
    (ratio,) = found.ratios
    assert (ratio.ratio.value, ratio.guessed) == (1.0, True)
    assert 0.15 < ratio.ratio.low < 0.4
    assert 2.5 < ratio.ratio.high < 7
    assert any("too few answers of both (0 and 0)" in note for note in found.notes)
    assert any("too few answers of strong" in note for note in found.notes)
    assert found.after_usd.high > 2 * found.after_usd.low


def test_requests_that_stay_cost_what_was_booked_exactly() -> None:
    logged = world(policy(EXPLORING), 2, 400)
    found = costs(logged, policy(EXPLORING))
    booked = sum(record.cost for record in logged.records) / 1e12
    assert found.moved == 0
    assert found.before_usd == pytest.approx(booked, rel=1e-12)
    assert (found.after_usd.value, found.after_usd.low, found.after_usd.high) == pytest.approx((booked, booked, booked), rel=1e-12)


def test_another_price_rescales_what_stays() -> None:
    logged = world(policy(EXPLORING), 2, 400)
    dearer = load_policy((BACKENDS + EXPLORING).replace("{input: 1, output: 4}", "{input: 3, output: 12}"), price_of=lambda *_: None)
    of_weak = sum(record.cost for record in logged.records if record.backend == "weak") / 1e12
    found = costs(logged, dearer)
    assert found.after_usd.value == pytest.approx(found.before_usd + 2 * of_weak, rel=1e-9)


def test_the_price_is_that_of_the_day_of_the_request() -> None:
    text = (BACKENDS + CERTAIN).replace("price: {input: 1, output: 4}", 'price: {input: 1, output: 4}, price_from: {"2026-09-21": {input: 2, output: 8}}')
    dated = load_policy(text, price_of=lambda *_: None)
    price = prices_of(dated)
    before, after = 1_789_900_000.0, 1_790_000_000.0  # 2026-09-20 and 21, UTC
    assert price("weak", before) == Price(input=1, output=4)
    assert price("weak", after) == Price(input=2, output=8)
    assert price("strong", after) == Price(input=5, output=20)


def test_parts_by_tenant_and_rule_sum_to_the_whole() -> None:
    found = costs(world(policy(EXPLORING), 3, 900), threshold(0.5))
    assert {line.name for line in found.tenants} == {"acme", "globex", "initech"}
    for parts in (found.tenants, found.rules):
        assert sum(line.after_usd.value for line in parts) == pytest.approx(found.after_usd.value)
        assert sum(line.before_usd for line in parts) == pytest.approx(found.before_usd)
        assert sum(line.requests for line in parts) == 900
        assert sum(line.moved for line in parts) == found.moved


def lines_of(logged: World, **fields: object) -> list[Line]:
    return [msgspec.structs.replace(line, **fields) for line in logged.lines(logged.logging)]


def test_failed_attempts_at_the_other_backend_are_paid_there_too() -> None:
    logged = world(policy("rules: [{name: any, use: {weighted: {weak: 50, strong: 50}}}]\n"), 4, 2_000)
    price = prices_of(logged.logging)
    lines = logged.lines(logged.logging)
    twice = [msgspec.structs.replace(line, cost=2 * line.cost) if line.before == "strong" else line for line in lines]
    plain, dear = (CostModel(each, price, price).per_line(["strong"] * 2_000).sum() for each in (lines, twice))
    assert dear == pytest.approx(2 * plain, rel=1e-6)


def test_the_other_backends_cache_reads_what_it_read_in_the_log() -> None:
    logged = world(policy("rules: [{name: any, use: {weighted: {weak: 50, strong: 50}}}]\n"), 5, 1_000)
    text = BACKENDS.replace("price: {input: 5, output: 20}", "price: {input: 5, output: 20, cache_read: 0}")
    cheap = load_policy(text, price_of=lambda *_: None)
    price = prices_of(cheap)
    lines = logged.lines(logged.logging)
    cached = [
        msgspec.structs.replace(line, cache_read=line.input_tokens, cost=line.output_tokens * 20_000_000) if line.before == "strong" else line for line in lines
    ]
    moved = [line for line in cached if line.before == "weak"]
    found = CostModel(cached, price, price).per_line(["strong"] * 1_000)
    reckoned = sum(cost for line, cost in zip(cached, found, strict=True) if line.before == "weak")
    assert reckoned == pytest.approx(sum(line.output_tokens for line in moved) * WRITES_MORE * 20 / 1e6, rel=0.15)


def test_a_bound_on_the_output_holds_for_the_other_model_too() -> None:
    logged = world(policy("rules: [{name: any, use: [weak]}]\n"), 6, 100)
    price = prices_of(logged.logging)
    lines = lines_of(logged, output_tokens=100, input_tokens=0, most_output=10, cost=100 * 4_000_000)
    found = CostModel(lines, price, price).per_line(["strong"] * 100)
    assert found.tolist() == pytest.approx([10 * 20 / 1e6] * 100)


FIFTY = world(policy("rules: [{name: any, use: [weak]}]\n"), 7, 50)


@given(refused=st.lists(st.booleans(), min_size=50, max_size=50))
def test_what_would_be_refused_costs_nothing(refused: list[bool]) -> None:
    price = prices_of(FIFTY.logging)
    lines = lines_of(FIFTY)
    targets = ["refused: budget_exceeded" if each else "weak" for each in refused]
    found = CostModel(lines, price, price).per_line(targets)
    assert [cost == 0 for cost in found] == refused
    assert [cost for cost, each in zip(found, refused, strict=True) if not each] == pytest.approx(
        [line.cost / 1e12 for line, each in zip(lines, refused, strict=True) if not each]
    )
