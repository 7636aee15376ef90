from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.complexity import FEATURES, Pair, features_of, fit, score
from policies.complexity.answers import ANSWER_FEATURES, answer_features
from policies.complexity.gate import LEAST_HELD_OUT, calibrate, judge, judge_head
from policies.complexity.head import Head, HeadError, load
from policies.complexity.measures import apgr, bootstrap, cpt
from policies.complexity.rules import linear

SIZE = 16
TOPICS = {"tides": 0, "tax": 1, "birds": 2, "steel": 3}


def embed(texts: Sequence[str]) -> Any:
    """A stand-in of an embedder: a direction for each topic, and a little of its own for each text."""
    rows = []
    for text in texts:
        row = np.random.default_rng(sum(text.encode()) * 7919 + len(text)).normal(0, 0.08, SIZE)
        for topic, place in TOPICS.items():
            row[place] += topic in text
        rows.append(row / np.linalg.norm(row))
    return np.array(rows, dtype=np.float32)


def invented(count: int, seed: int, hard: Sequence[str], topics: Sequence[str] = tuple(TOPICS)) -> list[Pair]:
    """Questions of a domain in which the strong model gains on the hard topics, mostly."""
    random = np.random.default_rng(seed)
    rows = []
    for place in range(count):
        topic = topics[int(random.integers(len(topics)))]
        weak = float(random.random() < (0.25 if topic in hard else 0.8))
        rows.append(Pair(prompt=f"Tell me more about {topic}, part {seed} {place}, as it stands today.", weak=weak, strong=float(random.random() < 0.85)))
    return rows


@pytest.fixture(scope="module")
def head() -> Head:
    return fit(invented(300, 1, ("tides", "tax")), embed=embed)


def test_a_head_orders_unseen_questions_of_its_own_domain_better_than_the_rules(head: Head) -> None:
    unseen = invented(600, 2, ("tides", "tax"))
    gains = [pair.gain for pair in unseen]
    assert apgr(head.score([pair.prompt for pair in unseen]), gains) > 0.6 > apgr(score([pair.prompt for pair in unseen]), gains)


def test_scores_are_the_same_one_by_one_in_any_company_and_after_saving(head: Head, tmp_path: Path) -> None:
    prompts = [pair.prompt for pair in invented(40, 3, ())]
    again = load(head.save(tmp_path), embed)
    together = head.score(prompts)
    assert ((together >= 0) & (together <= 1)).all()
    assert again.hash == head.hash
    assert again.score(prompts[::-1]).tolist() == together[::-1].tolist()
    logged = [(features_of(prompt), row.astype(np.float16).tobytes()) for prompt, row in zip(prompts, embed(prompts), strict=True)]
    assert [again.of(*each) for each in logged] == together.tolist()


def test_the_same_pairs_make_the_same_head_and_others_another(head: Head) -> None:
    assert fit(invented(300, 1, ("tides", "tax")), embed=embed).hash == head.hash
    assert fit(invented(300, 4, ("tides", "tax")), embed=embed).hash != head.hash


def test_a_head_that_was_tampered_with_or_is_none_is_refused_in_words(head: Head, tmp_path: Path) -> None:
    path = head.save(tmp_path)
    whole = path.with_suffix(".npz").read_bytes()
    path.with_suffix(".npz").write_bytes(whole[:-200] + bytes(200))
    with pytest.raises(HeadError, match="its hash differs"):
        load(path)
    path.with_suffix(".npz").write_bytes(whole)
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"about": told["about"] | {"middle": 7.0}}))
    with pytest.raises(HeadError, match="its hash differs"):
        load(path)
    path.write_text(json.dumps(told | {"about": told["about"] | {"features": ["characters"]}}))
    with pytest.raises(HeadError, match="calibrate again"):
        load(path)
    path.write_text("[1]")
    with pytest.raises(HeadError, match="no head"):
        load(path)
    with pytest.raises(HeadError, match="cannot be read"):
        load(tmp_path / "none.json")


def test_arrays_that_need_pickle_are_refused(head: Head, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, centre=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"), np.load(path, allow_pickle=False) as file:
        file["centre"]
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        Head(head.about, head.arrays | {"reference": np.array([[None]], dtype=object)}).save(tmp_path)


def test_far_from_all_it_has_seen_a_head_leans_on_what_people_know(head: Head) -> None:
    foreign = np.zeros(SIZE, dtype=np.float16)
    foreign[9] = 1
    code, fact = "Write a python function that parses a list of strings and returns a dict.", "Who was born first?"
    assert head.one(code, foreign) > head.one(fact, foreign)
    assert head._novelty(foreign.astype(np.float64)) == 1.0


def test_a_head_that_saw_answers_looks_at_them_and_another_says_that_it_cannot(head: Head) -> None:
    random = np.random.default_rng(5)
    rows = []
    for place in range(200):
        wrong = bool(random.random() < 0.5)
        rows.append(
            Pair(prompt=f"What is {place} plus 2 for the tax?", weak=float(not wrong), strong=1.0, weak_answer=f"{place} + 2 = {place + (9 if wrong else 2)}.")
        )
    learnt = fit(rows, embed=embed)
    scores = learnt.score(["What is 5 plus 2 for the tax?"] * 2, ["5 + 2 = 7.", "5 + 2 = 14."])
    assert scores[0] < scores[1]
    with pytest.raises(ValueError, match="weak_answer"):
        head.score(["a"], ["b"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "weak": 0, "strong": 2}], "pair 0: 'weak' and 'strong' lie from 0 to 1"),
        ([{"prompt": "a", "weak": 0}], "pair 0: Object missing required field `strong`"),
        ([{"prompt": " ", "weak": 0, "strong": 1}], "pair 0: 'prompt' is empty"),
        ([{"prompt": "a", "weak": 0, "strong": 1}] * 10, "at least 40 pairs, found 10"),
        ([{"prompt": "a", "weak": 0, "strong": 1}] * 50, "nothing to tell questions apart"),
    ],
)
def test_pairs_that_nothing_can_be_learnt_from_are_refused_in_words(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(rows, embed=embed)


# --- the gate ------------------------------------------------------------------------------------------------------------------------


def _of_many_topics(count: int, seed: int, first: int) -> list[Pair]:
    """Questions of 200 topics, each with a direction and a hardness of its own: what another domain's head knows of them is nothing."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        topic = first + int(random.integers(200))
        own = np.random.default_rng(topic)
        vector, hardness = own.normal(0, 1, 64), own.random()
        vector += random.normal(0, 0.3, 64)
        prompt = f"Tell me more about topic {topic}, as it stands today."
        half = (vector / np.linalg.norm(vector)).astype(np.float16).tobytes()
        weak = float(random.random() > hardness)
        rows.append(Pair(prompt=prompt, weak=weak, strong=float(random.random() < 0.9), embedding=half, features=features_of("Tell me more about it.")))
    return rows


def test_the_gate_refuses_a_head_of_a_foreign_domain_in_95_of_100_draws() -> None:
    local = _of_many_topics(2000, 100, first=5000)
    gains, rules = np.array([pair.gain for pair in local]), np.array([linear(pair.features or ()) for pair in local])
    refused = 0
    for number in range(10):
        foreign = fit(_of_many_topics(300, number, first=1000 * (1 + number % 4)), embed=embed)
        scores = np.array([foreign.of(pair.features or (), pair.embedding or b"") for pair in local])
        for draw in range(10):
            rows = np.random.default_rng(10 * number + draw).integers(0, len(local), 300)
            refused += not judge(list(scores[rows]), list(rules[rows]), list(gains[rows])).promoted
    assert refused >= 95


def test_the_gate_refuses_a_head_that_learnt_the_contrary() -> None:
    contrary = fit(invented(300, 11, ("birds", "steel")), embed=embed)
    assert not judge_head(contrary, [_known(pair) for pair in invented(300, 100, ("tides", "tax"))]).promoted


def test_with_300_local_pairs_what_is_served_is_never_worse_than_the_rules_by_more_than_two_points() -> None:
    unseen = {hard: [_known(pair) for pair in invented(600, 9, hard)] for hard in (("tides", "tax"), ())}
    promoted = 0
    for draw in range(4):
        hard = ("tides", "tax") if draw % 2 else ()
        head, verdict = calibrate(invented(300, 200 + draw, hard), embed=embed)
        asked = unseen[hard]
        gains = [pair.gain for pair in asked]
        rules = [linear(pair.features or ()) for pair in asked]
        served = [head.of(pair.features or (), pair.embedding or b"") for pair in asked] if head is not None and verdict.promoted else rules
        promoted += verdict.promoted
        assert apgr(served, gains) >= apgr(rules, gains) - 0.02
    assert promoted >= 2, "a gate that promotes nothing passes any test of harm"


def test_a_head_is_judged_on_pairs_that_it_has_not_seen(head: Head) -> None:
    assert judge_head(head, [_known(pair) for pair in invented(300, 77, ("tides", "tax"))]).promoted
    assert not judge_head(head, [_known(pair) for pair in invented(100, 77, ("tides", "tax"))]).promoted


def _known(pair: Pair) -> Pair:
    return Pair(
        prompt=pair.prompt,
        weak=pair.weak,
        strong=pair.strong,
        embedding=embed([pair.prompt])[0].astype(np.float16).tobytes(),
        features=features_of(pair.prompt),
    )


def test_few_pairs_promote_nothing_however_good_the_head() -> None:
    gains = [1.0, 0.0] * ((LEAST_HELD_OUT - 2) // 2)
    assert not judge(gains, [0.0] * len(gains), gains).promoted
    gains += [1.0, 0.0]
    assert judge(gains, [0.0] * len(gains), gains).promoted
    head, verdict = calibrate(invented(100, 1, ("tax",)), embed=embed)
    assert head is None
    assert "fewer than 150" in verdict.reason


# --- measures, and numbers of texts ------------------------------------------------------------------------------------------------------


def test_apgr_and_cpt_of_known_orders() -> None:
    gains = [1.0, 1.0, 0.0, 0.0]
    assert apgr([4, 3, 2, 1], gains) == pytest.approx(0.75)
    assert apgr([1, 2, 3, 4], gains) == pytest.approx(0.25)
    assert apgr([1, 1, 1, 1], gains) == pytest.approx(0.5), "rows of one score have no order"
    assert (cpt([4, 3, 2, 1], gains, 0.5), cpt([4, 3, 2, 1], gains, 0.8), cpt([1, 2, 3, 4], gains, 0.5)) == (0.25, 0.5, 0.75)
    assert np.isnan(apgr([1, 2], [0.0, 0.0]))


def test_a_bootstrap_interval_holds_the_truth_mostly() -> None:
    covered = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        gains = (random.random(300) < 0.3).astype(float)
        found = bootstrap(apgr, random.random(300), gains, draws=150)
        covered += found.low <= 0.5 <= found.high
    assert covered >= 25


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_texts_have_finite_numbers(question: str, answer: str) -> None:
    features, answered = features_of(question), answer_features(question, answer)
    assert (len(features), len(answered)) == (len(FEATURES), len(ANSWER_FEATURES))
    assert np.isfinite(features).all()
    assert np.isfinite(answered).all()


@pytest.mark.parametrize(
    ("answer", "stated", "wrong"),
    [
        ("3 x 4 = 12", 1, 0),
        ("so <<3*4=13>>13", 1, 1),
        ("(2 + 3) * 4 = 20 and 10 / 4 = 2.5", 2, 0),
        ("10 / 3 = 3.33", 1, 0),
        ("x = 4", 0, 0),
        ("1 / 0 = 7", 0, 0),
        ("it costs 5 - 2 = $4", 1, 1),
    ],
)
def test_sums_in_an_answer_are_worked_out_again(answer: str, stated: int, wrong: int) -> None:
    numbers = dict(zip(ANSWER_FEATURES, answer_features("How many?", answer), strict=True))
    assert np.expm1(numbers["sums"]) == pytest.approx(stated)
    assert np.expm1(numbers["wrong_sums"]) == pytest.approx(wrong)
