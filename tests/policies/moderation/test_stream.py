"""Moderating streams: blocking, flagging, bounds and the deny-list, by example."""

from __future__ import annotations

import pytest

from policies.moderation import Moderator, RuleError, RuleSet, compile_rules, find, moderate


def streamed(rules: RuleSet, text: str, size: int = 1) -> tuple[str, int, int]:
    """The output, the most characters held and the longest buffer, in pieces of `size`."""
    moderator = Moderator(rules)
    out, held, buffer = [], 0, 0
    for at in range(0, len(text), size):
        out.append(moderator.feed(text[at : at + size]).text)
        held = max(held, moderator.held)
        buffer = max(buffer, len(moderator._scanner.buffer))
    out.append(moderator.finish().text)
    return "".join(out), held, buffer


def test_a_block_lets_out_what_stands_before_it_and_nothing_ever_after() -> None:
    moderator = Moderator(compile_rules(["pii"], per_rule={"card": "block"}))
    assert moderator.feed("to a@b.cd with 4111 1111 ").text == "to [EMAIL] with "
    released = moderator.feed("1111 1111 and more")
    assert (released.text, released.blocked, [match.rule for match in released.matches]) == ("", True, ["card"])
    assert moderator.feed("more") == moderator.finish()
    assert (moderator.finish().text, moderator.finish().blocked) == ("", True)
    assert moderator.held == 0


def test_a_block_reports_nothing_that_stands_behind_it() -> None:
    released = moderate(compile_rules(["pii"], on_match="block"), "x a@b.cd and 460-89-9847")
    assert (released.text, released.blocked, [match.rule for match in released.matches]) == ("x ", True, ["email"])


def test_find_reports_everything_whatever_the_actions() -> None:
    rules = compile_rules(["pii"], on_match="block", per_rule={"ssn": "flag"})
    assert [match.rule for match in find(rules, "x a@b.cd and 460-89-9847")] == ["email", "ssn"]


def test_a_flag_neither_changes_nor_delays_the_text() -> None:
    moderator = Moderator(compile_rules(["pii", "secrets"], on_match="flag"))
    matches = []
    for char in "to a@b.cd ":
        released = moderator.feed(char)
        assert released.text == char
        matches += released.matches
    assert [(match.rule, match.start, match.end, match.action) for match in matches] == [("email", 3, 9, "flag")]


def test_overlapping_matches_become_one_placeholder_and_touching_ones_two() -> None:
    rules = compile_rules(["email", "deny-list"], ["jo", "example.com and"])
    assert moderate(rules, "jo@example.com and").text == "[REDACTED]"
    assert [match.rule for match in moderate(rules, "jo@example.com and").matches] == ["email", "deny-list", "deny-list"]
    assert moderate(compile_rules(["deny-list"], ["++", "--"]), "++--").text == "[REDACTED][REDACTED]"


def test_a_finished_moderator_takes_nothing_more() -> None:
    moderator = Moderator(compile_rules(["pii"]))
    assert moderator.feed("so").text == ""
    assert moderator.finish().text == "so"
    assert moderator.finish().text == ""
    with pytest.raises(ValueError, match="finished"):
        moderator.feed("x")


ALL = compile_rules(["pii", "secrets", "deny-list"], ["badger", "secret project"])


@pytest.mark.parametrize(
    "unit", ["a", "1", "1 ", "-", "=", "a@", "a.", "+1 2 ", "0123 ", "ab:12:", "sk-a", "xox", "b@c.d.", "字", "secret ", "4111 1", "\\n", "a1b2c3"]
)
def test_what_is_held_stays_within_the_bounds_however_long_the_text(unit: str) -> None:
    text = unit * (20_000 // len(unit))
    out, held, buffer = streamed(ALL, text, 7)
    assert out == moderate(ALL, text).text
    assert held <= max(ALL.bounds.values()) + 7
    assert buffer <= max(ALL.bounds.values()) + 7


@pytest.mark.parametrize(
    ("start", "grows", "placeholder"),
    [
        ("eyJhbGciOiJIUzI1NiJ9.", "eyJzdWIi", "[TOKEN]"),
        ("eyJ", "hbGci", "[TOKEN]"),
        ("-----BEGIN PRIVATE KEY-----", "\nMIIEowIBAAKCAQEAabcd", "[PRIVATE_KEY]"),
    ],
)
def test_a_key_without_end_is_removed_without_end_and_not_kept(start: str, grows: str, placeholder: str) -> None:
    text = start + grows * 5_000 + ", ok"
    out, _, buffer = streamed(ALL, text, 5)
    assert out == placeholder + ", ok"
    assert buffer <= max(ALL.bounds.values()) + 5


def test_the_tables_stop_growing() -> None:
    rules = compile_rules(["pii", "secrets"])
    moderate(rules, "".join(chr(code) for code in range(0x20, 0x10000) if not 0xD800 <= code < 0xE000))
    assert len(rules.alphabet) <= 16_384


def test_deny_list_terms_are_found_in_any_case_at_the_edges_of_words() -> None:
    rules = compile_rules(["deny-list"], ["Badger", "C++", "straße", "İstanbul", "北京", "top  secret"])
    for text in ("badger", "BADGER", "c++", "STRASSE", "straße", "istanbul", "İSTANBUL", "北京", "Top\tSecret"):
        assert moderate(rules, f"({text})").text == "([REDACTED])", text
        assert streamed(rules, f"a {text}, b")[0] == "a [REDACTED], b", text
    for text in ("badgers", "xbadger", "_badger", "badger1", "ac++", "topsecret"):
        assert moderate(rules, f"({text})").text == f"({text})"
    assert moderate(rules, "去北京吧").text == "去[REDACTED]吧"


def test_offsets_hold_where_folding_changes_lengths() -> None:
    rules = compile_rules(["deny-list"], ["badger"])
    (match,) = find(rules, "İİßﬃ badger")
    assert (match.start, match.end) == (5, 11)


def test_ten_thousand_terms_are_one_sort_and_all_found() -> None:
    terms = [f"term{n * 7919 % 100_000} x" for n in range(10_000)]
    rules = compile_rules(["deny-list"], terms)
    for term in terms[::997]:
        assert moderate(rules, f"a {term} b").text == "a [REDACTED] b"
    assert moderate(rules, "term100000 x").text == "term100000 x"


@pytest.mark.parametrize("term", ["", "  ", "x" * 201])
def test_an_empty_or_overlong_term_is_refused(term: str) -> None:
    with pytest.raises(RuleError, match="deny-list term"):
        compile_rules(["deny-list"], [term])


def test_deny_list_terms_count_only_when_enabled() -> None:
    assert moderate(compile_rules(["pii"], ["badger"]), "badger").text == "badger"


def test_offsets_inside_a_redaction_go_to_its_edges() -> None:
    moderator = Moderator(compile_rules(["email"]))
    assert moderator.feed("to jo@example.com, ").text == "to [EMAIL], "
    assert [moderator.to_released(offset) for offset in (0, 3, 5, 17, 18)] == [0, 3, 3, 10, 11]
    assert [moderator.to_released(offset, end=True) for offset in (3, 5, 17, 18)] == [3, 10, 10, 11]
    assert moderator.to_released(10_000) == 12
