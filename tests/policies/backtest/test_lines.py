from __future__ import annotations

import msgspec
import numpy as np

from policies.backtest.direct import FOLDS, design, folds_of, predictions
from policies.backtest.running import Backtest, Replayed
from tests.policies.backtest.simulator import EXPLORING, policy, threshold, world


def test_a_direct_model_never_predicts_a_request_that_it_has_seen() -> None:
    """Outcomes that are pure noise: a model that saw its own would predict them."""
    lines = world(policy(EXPLORING), 1, 1_000).lines(threshold(0.5))
    random = np.random.default_rng(1)
    vectors = random.standard_normal((1_000, 384)).astype(np.float16)
    lines = [msgspec.structs.replace(line, embedding=vectors[row].tobytes()) for row, line in enumerate(lines)]
    rewards = random.integers(0, 2, 1_000).astype(float)
    folds, actions = folds_of(lines), np.zeros(1_000, dtype=int)
    assert set(folds.tolist()) == set(range(FOLDS))
    predicted = predictions(design(lines), folds, actions, 1, rewards, np.ones(1_000))[:, 0]
    assert abs(np.corrcoef(predicted, rewards)[0, 1]) < 0.15


def test_embeddings_are_used_where_every_request_has_one() -> None:
    lines = world(policy(EXPLORING), 1, 50).lines(threshold(0.5))
    plain = design(lines)
    some = [msgspec.structs.replace(line, embedding=np.full(8, row, dtype=np.float16).tobytes() if row else None) for row, line in enumerate(lines)]
    every = [msgspec.structs.replace(line, embedding=np.full(8, row, dtype=np.float16).tobytes()) for row, line in enumerate(lines)]
    assert design(some).shape == plain.shape
    assert design(every).shape == (50, plain.shape[1] + 8)


def test_a_version_that_cannot_be_loaded_any_more_is_counted_and_not_replayed() -> None:
    logged = world(policy(EXPLORING), 1, 30)
    backtest = Backtest(logged.logging, threshold(0.5), {}, 0)
    for number, record in enumerate(logged.records):
        backtest.add(record, logged.logging if number % 3 else None)
    report = backtest.report()
    found = report.levels[0].figures
    assert isinstance(found, Replayed)
    assert (found.unreadable, found.replay.requests, found.replay.identical, found.changes.requests) == (10, 20, 20, 30)
    assert report.exact


def test_a_decision_that_does_not_come_out_as_it_was_logged_is_named() -> None:
    logged = world(policy(EXPLORING), 1, 30)
    backtest = Backtest(logged.logging, threshold(0.5), {}, 0)
    for record in logged.records:
        wrong = msgspec.structs.replace(record.decision, propensity=0.5) if record is logged.records[7] else record.decision
        backtest.add(msgspec.structs.replace(record, decision=wrong), logged.logging)
    report = backtest.report()
    found = report.levels[0].figures
    assert isinstance(found, Replayed)
    assert (found.replay.identical, report.exact) == (29, False)
    assert [(each.request_id, each.differences[0].field) for each in found.replay.changed] == [("req-1-7", "propensity")]


def test_an_empty_log_has_no_numbers_and_says_so() -> None:
    report = Backtest(policy(EXPLORING), threshold(0.5), {}, 2, curve=True).report()
    assert (report.requests, report.exact) == (0, True)
    assert [level.refused is not None for level in report.levels] == [False, True, True]
    assert report.no_curve is not None
