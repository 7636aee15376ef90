"""Judges: what they are shown, how strictly they are read, and what counts as the expected answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Message
from policies.comparing import fair_scores, judge_request, matches_reference, number_of, read_scores

texts = st.text(max_size=200)
scores = st.tuples(st.integers(0, 10), st.integers(0, 10)).map(lambda pair: (pair[0] / 10, pair[1] / 10))


def shown(message: Message) -> str:
    return message.text


def test_a_judge_sees_both_answers_in_order_and_no_name() -> None:
    request = judge_request("user: What is 2 + 2?", "Four.", "Five.", "p")
    system, user = (shown(message) for message in request.messages)
    assert user.index("Four.") < user.index("Five.")
    assert "ANSWER A" in user.split("Four.")[0]
    assert (request.temperature, request.whole, request.partition) == (None, True, "p"), "models that think take no temperature"
    assert "mini" not in system + user


@given(texts, texts, texts)
def test_no_text_can_close_what_holds_it(conversation: str, first: str, second: str) -> None:
    user = shown(judge_request(conversation, first, second, "").messages[1])
    mark = user.split()[1]
    assert mark not in conversation + first + second
    assert user.count(f">>> {mark} ANSWER A") == user.count(f"<<< {mark} ANSWER A") == 1


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('{"a": 7, "b": 10}', (0.7, 1.0)),
        (' {"b": 0,"a": 3}\n', (0.3, 0.0)),
        ('```json\n{"a": 7, "b": 10}\n```', (0.7, 1.0)),
        ('{"a": 11, "b": 1}', None),
        ('{"a": -1, "b": 1}', None),
        ('{"a": 7}', None),
        ('{"a": "7", "b": 1}', None),
        ('{"a": 7.5, "b": 1}', None),
        ('{"a": 7, "b": 1, "c": 2}', None),
        ('{"a": 7, "b": 1} because A is better', None),
        ("A", None),
        ("", None),
        ('[{"a": 7, "b": 1}]', None),
        ('{"a": true, "b": 1}', None),
    ],
)
def test_only_the_line_that_was_asked_for_is_a_verdict(said: str, found: tuple[float, float] | None) -> None:
    assert read_scores(said) == found


@given(texts)
def test_reading_never_raises(said: str) -> None:
    assert read_scores(said) is None or said.strip()


@given(scores, scores)
def test_changing_the_answers_round_changes_nothing(forward: tuple[float, float], backward: tuple[float, float]) -> None:
    found, turned = fair_scores(forward, backward), fair_scores((backward[0], backward[1]), (forward[0], forward[1]))
    assert found is not None
    assert turned == (found[1], found[0])


def test_a_judge_that_always_prefers_the_first_calls_it_even() -> None:
    assert fair_scores((1.0, 0.0), (1.0, 0.0)) == (0.5, 0.5)
    assert fair_scores((1.0, 0.0), (0.0, 1.0)) == (1.0, 0.0)
    assert fair_scores(None, (0.0, 1.0)) is None


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ("The answer is 1,234.50 dollars.", "1234.5", 1.0),
        ("First 3, then 4. So 7", "7", 1.0),
        ("First 7, then 4", "7", 0.0),
        ("$42", "42", 1.0),
        ("It costs 42.", "$42", 1.0),
        ("No number here", "42", 0.0),
        ("-5", "-5", 1.0),
        ("5", "-5", 0.0),
        ("Paris", "paris.", 1.0),
        ("It is surely\nPARIS!", "paris", 1.0),
        ("The capital is Paris.", "Paris", 1.0),
        ("Paris is the capital.", "Paris", 0.0),
        ("I choose (B)", "B", 1.0),
        ("Either A or C", "B", 0.0),
        ("New York City", "new york city", 1.0),
        ("It is New York City", "new york city", 0.0),
        ("", "x", 0.0),
        ("x", "?!", 0.0),
        ("", "?!", 0.0),
    ],
)
def test_what_was_expected_is_recognised_whatever_its_dress(answer: str, reference: str, score: float) -> None:
    assert matches_reference(answer, reference) == score


@given(texts, texts)
def test_comparing_never_raises_and_a_text_matches_itself(answer: str, reference: str) -> None:
    assert matches_reference(answer, reference) in (0.0, 1.0)
    if number_of(answer, whole=True) is None and any(character.isalnum() for character in answer):
        assert matches_reference(answer, answer) == 1.0
