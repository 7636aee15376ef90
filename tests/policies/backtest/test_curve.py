from __future__ import annotations

import pytest

from policies.backtest.curve import Curve, Pair, PairError, curve_of_log, curve_of_pairs, read_pairs
from policies.backtest.lines import labels
from policies.backtest.pricing import prices_of
from policies.backtest.quality import Refusal
from policies.load import Policy
from tests.policies.backtest.simulator import CERTAIN, EXPLORING, World, policy, threshold, world


def curve(logged: World, candidate: Policy) -> Curve | Refusal:
    return curve_of_log(logged.lines(candidate), candidate, labels(logged.logging, candidate), prices_of(logged.logging), prices_of(candidate))


def test_the_curve_of_the_log_is_near_the_truth_at_its_ends_and_where_the_policy_stands() -> None:
    logged = world(policy(EXPLORING), 11, 7_000)
    found = curve(logged, threshold(0.45))
    assert isinstance(found, Curve)
    assert (found.source, found.requests, found.points[0].strong_share, found.points[-1].strong_share) == ("log", 7_000, 1.0, 0.0)
    shares = [point.strong_share for point in found.points]
    assert shares == sorted(shares, reverse=True)
    for point in (found.points[0], found.points[-1], found.operating):
        assert point is not None
        assert point.cost_usd is not None
        other = threshold(min(point.threshold, 1.0)) if point.threshold <= 1 else policy("rules: [{name: all, use: [weak]}]\n")
        assert point.quality.low <= logged.truth(other) <= point.quality.high
        assert point.cost_usd == pytest.approx(1000 * logged.spent(other) / 7_000, rel=0.12)


def test_a_log_in_which_nothing_was_drawn_has_no_curve() -> None:
    refused = curve(world(policy(CERTAIN), 1, 1_000), threshold(0.45))
    assert isinstance(refused, Refusal)
    assert "nothing like them was ever drawn" in refused.reason
    assert isinstance(curve(world(policy(CERTAIN), 1, 1_000), policy(CERTAIN)), Refusal)


def test_a_log_with_few_draws_has_no_curve() -> None:
    refused = curve(world(policy(EXPLORING), 1, 300), threshold(0.45))
    assert isinstance(refused, Refusal)
    assert "at least 20 are needed" in refused.reason


def test_the_curve_of_pairs_is_what_was_measured() -> None:
    pairs = [Pair(score=number / 100, weak=float(number < 50), strong=1.0, weak_cost=0.001, strong_cost=0.003) for number in range(100)]
    found = curve_of_pairs(pairs, 0.5)
    assert found.operating is not None
    assert (found.operating.strong_share, found.operating.quality.value) == (0.5, 1.0)
    assert found.operating.cost_usd == pytest.approx(1000 * 0.002)
    assert (found.points[0].quality.value, found.points[-1].quality.value) == (1.0, 0.5)
    assert found.points[0].cost_usd == pytest.approx(3.0)


def test_pairs_without_costs_have_a_curve_over_the_strong_share() -> None:
    found = curve_of_pairs([Pair(prompt=f"Prove theorem {number}.", weak=0.0, strong=1.0) for number in range(30)], None)
    assert found.operating is None
    assert {point.cost_usd for point in found.points} == {None}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"weak": 1, "strong": 1}', "line 2: a pair needs a score or a prompt"),
        (b'{"score": 2, "weak": 1, "strong": 1}', "line 2: Expected `float` <= 1.0 - at `$.score`"),
        (b'{"score": 1, "weak": "yes", "strong": 1}', "line 2: Expected `float`, got `str` - at `$.weak`"),
        (b"no JSON", "line 2: JSON is malformed"),
        (b'{"score": 0.1, "weak": 1, "strong": 1}', "2 pairs; a curve needs at least 20"),
    ],
)
def test_a_wrong_pair_is_named_by_its_line(line: bytes, message: str) -> None:
    with pytest.raises(PairError) as raised:
        read_pairs([b'{"score": 0.5, "weak": 1, "strong": 1}\n', b"", line][::2])
    assert message in str(raised.value)
