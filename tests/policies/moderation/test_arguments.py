"""Tool calls' arguments: judged by what the JSON stands for, whatever its escaping and wherever it is cut."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.moderation import ArgumentsModerator, RuleSet, compile_rules, find, moderate
from policies.moderation.json_text import MAX_BARE

TERMS = ["Müller", "secret plan", "true", "4 5"]
RULES = compile_rules(["pii", "deny-list"], TERMS)
BLOCKING = compile_rules(["pii", "deny-list"], TERMS, per_rule={"card": "block", "deny-list": "block"})

words = st.sampled_from(
    ["Müller", "secret plan", "secret\nplan", "joe@example.com", "4111 1111 1111 1111", "😀", "x", " ", '"', "\\", "\t", "Mül", "\\u00fc", "ok", "/"]
)
strings = st.lists(words, max_size=5).map("".join)
numbers = st.sampled_from([0, -1, 4111111111111111, -4111111111111111, 1.5, 4, 5, 10**30, True, False, None])
values: st.SearchStrategy[Any] = st.recursive(
    strings | numbers, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3), max_leaves=8
)
cut_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=4)
broken = st.lists(
    st.sampled_from(['"', "\\", "\\u00", "fc", "{", "}", "[", ",", ":", " ", "\n", "Müller", "secret plan", "joe@example.com", "4111", "1", "t", "true", "-"]),
    max_size=14,
).map("".join)


def escaped(value: Any, chance: random.Random) -> str:
    """JSON in which any character of a string may be written as an escape."""
    match value:
        case str():
            units: list[str] = []
            for char in value:
                plain = json.dumps(char, ensure_ascii=False)[1:-1]
                coded = "".join(f"\\u{int.from_bytes(pair, 'big'):04{chance.choice('xX')}}" for pair in _pairs(char.encode("utf-16-be")))
                units.append(chance.choice([plain, coded]))
            return f'"{"".join(units)}"'
        case list():
            return "[" + chance.choice([",", ", ", "\n,"]).join(escaped(item, chance) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{escaped(key, chance)}:{escaped(item, chance)}" for key, item in value.items()) + "}"
        case _:
            return json.dumps(value)


def _pairs(data: bytes) -> list[bytes]:
    return [data[at : at + 2] for at in range(0, len(data), 2)]


def moderated(rules: RuleSet, text: str, cuts: list[int]) -> tuple[str, bool]:
    moderator = ArgumentsModerator(rules)
    out, at, turn, blocked = "", 0, 0, False
    while at < len(text):
        released = moderator.feed(text[at : at + cuts[turn % len(cuts)]])
        assert not (blocked and released.text)
        out, blocked = out + released.text, blocked or released.blocked
        at, turn = at + cuts[turn % len(cuts)], turn + 1
    released = moderator.finish()
    return out + released.text, blocked or released.blocked


def shown(value: Any) -> Any:
    """The value with each of its strings, keys, numbers and names moderated by itself; an object as its pairs."""
    match value:
        case list():
            return [shown(item) for item in value]
        case dict():
            return [(moderate(RULES, key).text, shown(item)) for key, item in value.items()]
        case str():
            return moderate(RULES, value).text
        case _:
            out = moderate(RULES, json.dumps(value)).text
            return value if out == json.dumps(value) else out


@settings(max_examples=300, deadline=None, derandomize=True)
@given(values, st.integers(0, 1000), cut_sizes)
def test_valid_json_stays_valid_with_each_value_moderated_whatever_its_escapes_and_cuts(value: Any, seed: int, cuts: list[int]) -> None:
    text = escaped(value, random.Random(seed))
    out, blocked = moderated(RULES, text, cuts)
    assert (out, blocked) == moderated(RULES, text, [len(text) + 1])
    assert not blocked
    assert json.loads(out, object_pairs_hook=list) == shown(value)
    if shown(value) == json.loads(text, object_pairs_hook=list):
        assert out == text


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.one_of(broken, st.tuples(values, st.integers(0, 99), broken).map(lambda it: escaped(it[0], random.Random(it[1])) + it[2])), cut_sizes, st.booleans())
def test_the_cuts_never_matter_and_text_that_is_not_json_is_still_matched(text: str, cuts: list[int], blocking: bool) -> None:
    rules = BLOCKING if blocking else RULES
    out, blocked = moderated(rules, text, cuts)
    assert (out, blocked) == moderated(rules, text, [len(text) + 1])
    assert not [match for match in find(rules, out) if match.rule in ("email", "card")]


@pytest.mark.parametrize(
    ("text", "out"),
    [
        (r'{"a":"M\u00fcller"}', '{"a":"[REDACTED]"}'),
        (r'{"m":"joe\u0040example.com","n":"a\/b"}', r'{"m":"[EMAIL]","n":"a\/b"}'),
        (r'{"a":"secret\nplan"}', '{"a":"[REDACTED]"}'),
        ('{"joe@example.com":4111111111111111}', '{"[EMAIL]":"[CARD]"}'),
        ("[-4111111111111111, true]", '["-[CARD]", "[REDACTED]"]'),
        ("write to joe@example.com", "write to [EMAIL]"),
        ("4111 1111 1111 1111", "[CARD]"),
        ('{"open": "Müller', '{"open": "[REDACTED]'),
    ],
)
def test_what_comes_out(text: str, out: str) -> None:
    assert moderated(RULES, text, [1]) == moderated(RULES, text, [len(text)]) == (out, False)


def test_a_match_across_values_ends_the_stream() -> None:
    rules = compile_rules(["deny-list"], ['plan", "b'])
    assert moderated(rules, '{"a": ["the plan", "b"]}', [1]) == ('{"a": ["the ', True)


def test_what_waits_is_bounded_however_long_a_number_or_a_token_grows() -> None:
    for text in ("7" * 50_000, '{"token": "eyJ' + "a" * 50_000 + '"}'):
        moderator = ArgumentsModerator(compile_rules(["pii", "secrets"]))
        for at in range(0, len(text), 10):
            moderator.feed(text[at : at + 10])
            assert sum(len(run.raw) for run in moderator._runs) <= 2 * MAX_BARE
            assert len(moderator._runs) <= MAX_BARE


def test_text_without_a_match_streams() -> None:
    moderator = ArgumentsModerator(RULES)
    assert moderator.feed('{"body": "a long letter, ').text == '{"body": "a long letter, '
    assert moderate(RULES, "Müller").text == "[REDACTED]"
