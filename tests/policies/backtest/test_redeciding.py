from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.backtest.lines import labels
from policies.backtest.redeciding import distribution, redecide, summarise, target
from policies.decide import State, decide
from policies.load import load_policy
from tests.policies.backtest.simulator import BACKENDS, BOTH, CERTAIN, EXPLORING, policy, threshold, world


def test_the_same_policy_decides_every_logged_request_again_bit_for_bit() -> None:
    logged = world(policy(EXPLORING), 1, 500)
    assert all(redecide(logged.logging, record) == record.decision for record in logged.records)
    found = summarise(logged.logging, logged.records)
    assert (found.requests, found.same, found.reordered, found.changed, found.moves) == (500, 500, 0, 0, ())


def test_what_changes_is_named_with_where_from_where_to_and_why() -> None:
    logged = world(policy(CERTAIN), 2, 400)
    found = summarise(threshold(0.45), logged.records)
    expected = [record for record in logged.records if 0.45 <= (record.features.complexity or 0) < 0.6]
    (move,) = found.moves
    assert (move.before, move.after, move.why_before, move.why_after, move.requests) == ("weak", "strong", "rule:easy", "complexity:strong", len(expected))
    assert set(move.examples) <= {record.request_id for record in expected}
    assert len(move.examples) == 3
    assert move.tenants == ("acme", "globex", "initech")
    assert found.changed == len(expected)
    assert found.changed + found.same + found.reordered == found.requests == 400


def test_a_backend_that_the_same_rule_may_no_longer_use_is_named_as_the_reason() -> None:
    logged = world(policy(CERTAIN), 2, 50)
    limited = policy(CERTAIN.replace("use: [weak]", "use: [weak, strong]"))
    down = [record for record in logged.records if record.decision.rule == "easy"]
    state = {**BOTH, "weak": type(BOTH["weak"])(capabilities=BOTH["weak"].capabilities, ready=False, reason="down")}
    (move,) = summarise(limited, down, state).moves
    assert (move.before, move.after, move.why_after) == ("weak", "strong", "rule:easy, weak excluded: unavailable")


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.integers(0, 20), min_size=2, max_size=2).filter(lambda each: sum(each) > 0), seed=st.integers(0, 10**6))
def test_the_distribution_is_what_draws_with_other_seeds_come_to(weights: list[int], seed: int) -> None:
    drawing = policy(f"rules: [{{name: any, use: {{weighted: {{weak: {weights[0]}, strong: {weights[1]}}}}}}}]\n")
    (record,) = world(drawing, seed, 1).records
    shares = distribution(drawing, record, redecide(drawing, record))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares == pytest.approx({name: weight / sum(weights) for name, weight in zip(("weak", "strong"), weights, strict=True) if weight})
    seeds = [decide(drawing, record.features, State(backends=BOTH, seed=f"{seed}/{number}")) for number in range(400)]
    drawn = sum(target(each) == "weak" for each in seeds) / 400
    assert drawn == pytest.approx(shares.get("weak", 0.0), abs=0.13)


def test_another_model_under_an_old_name_is_another_backend_and_the_same_model_under_a_new_name_is_not() -> None:
    before = policy("")
    assert labels(before, before) == {"weak": "weak", "strong": "strong", "extractive": "extractive"}
    text = BACKENDS.replace("weak: {kind: scripted, text: a, price", "weak: {kind: scripted, model: newer, text: a, price")
    after = load_policy(text, price_of=lambda _name, _spec: None)
    assert labels(before, after)["weak"] == "weak (newer)"
    first = load_policy("version: 1\nbackends: {old: {kind: scripted, model: m, price: {input: 1, output: 1}}}\ndefault: old\n", price_of=lambda *_: None)
    second = load_policy("version: 1\nbackends: {new: {kind: scripted, model: m, price: {input: 1, output: 1}}}\ndefault: new\n", price_of=lambda *_: None)
    assert labels(first, second)["new"] == "old"


def test_deciding_again_does_not_depend_on_the_order_of_the_requests() -> None:
    logged = world(policy(EXPLORING), 5, 200)
    shuffled = random.Random(1).sample(logged.records, len(logged.records))
    one, other = summarise(threshold(0.5), logged.records), summarise(threshold(0.5), shuffled)
    assert [(move.before, move.after, move.requests) for move in one.moves] == [(move.before, move.after, move.requests) for move in other.moves]


def test_a_threshold_that_moved_holds_for_the_policy_it_moved_under_and_for_no_other() -> None:
    logged = world(threshold(0.6), 6, 200)
    moved = [
        msgspec.structs.replace(record, state=msgspec.structs.replace(record.state, thresholds={record.features.tenant: 0.8})) for record in logged.records
    ]
    strong = {value: sum((record.features.complexity or 0) >= value for record in moved) for value in (0.45, 0.6, 0.8)}
    assert sum(target(redecide(logged.logging, record)) == "strong" for record in moved) == strong[0.8]
    assert sum(target(redecide(threshold(0.45), record)) == "strong" for record in moved) == strong[0.45]
    assert sum(target(redecide(threshold(0.45), record, kept=True)) == "strong" for record in moved) == strong[0.8]
