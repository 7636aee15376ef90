"""The guarantees of moderation against an independent, naive reference: every substring of the whole text is tried with plain `re`."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.moderation import Match, Moderator, RuleSet, compile_rules, find, moderate
from policies.moderation.rules import RULES, Rule

ACTIONS = ("redact", "block", "flag")
NAMES = sorted({rule.name for rule in RULES})
TERMS = ["badger", "project x", "C++", "Straße", "İzmir", "北京", "ab", "abba", "n-word"]

REAL = [
    "jo.bloggs@example.co.uk",
    "a@b.cd",
    "josé+tag@müller.example",
    "x" * 70 + "@long.example",
    "(415) 555-2671",
    "415-555-2671 x12",
    "+44 20 7946 0958",
    "020 7946 0958",
    "(08) 8747 6301",
    "4111 1111 1111 1111",
    "4007070753690781",
    "3782-822463-10005",
    "GB29 NWBK 6016 1331 9268 19",
    "de89370400440532013000",
    "460-89-9847",
    "10.1.2.3",
    "2001:db8::1",
    "fe80::12:fe",
    "sk-proj-abcDEF123456789012345678",
    "sk-ant-api03-abc123xyz-456def789ghij-klmno",
    "AKIAQ6MBUSKRN3QMHX5M",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz0123",
    "glpat-abcDEF1234567890_xyz",
    "xoxb-123456789012-123456789012-abcdefGHIJKL",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "sk_live_abcdef1234567890ABCD",
    "SG.abcdefghijklmnopqrstuv.abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG",
    "npm_abcdefghijklmnopqrstuvwxyz0123456789",
    "pypi-AgEIcHlwaS5vcmcCJDEyMzQ1Njc4LTEyMzQtMTIzNC0xMjM0LTEyMzQ1Njc4",
    "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "hg-abcdefghij0123456789ABCD",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "eyJ" + "hbGc" * 140,
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nMIIEowIBAAKCAQEAabcdefghijkl\nMIIEowIBAAKCAQEAabcdefghijkl\nabc=\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\\nMIIEowIBAAKCAQEAabcdefghijkl\\nabc=",
    "Badger",
    "STRASSE",
    "project\nX",
    "abba",
    "İZMIR",
]
NEARLY = [
    "jo.bloggs@example",
    "@example.com",
    "..@b.cd",
    "4111 1111 1111 1112",
    "41111111111111111111",
    "GB29 NWBK 6016 1331 9268 18",
    "666-89-9847",
    "10.1.2.345.6",
    "1.2.3",
    "std::vector",
    "12:30:45",
    "127.0.0.1",
    "sk-learn-pipelines-for-beginners",
    "AKIAXXXXXXXXXXXXXXXX",
    "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "eyJhbGciOiJIUzI1NiJ9 eyJ",
    "-----BEGIN PUBLIC KEY-----",
    "-----BEGIN PRIVATE KEY----- is how one begins",
    "2023-01-02 10:30",
    "01-02-2023 10:30",
    "badgers",
    "abbab",
]
GLUE = ["", " ", ".", ",", "-", "\\n", "\\", "\n", ":", "@", "+", "(", "n", "0", "1", "x", "_", "é", "字", "and the "]

fragments = st.one_of(
    st.sampled_from(REAL),
    st.sampled_from(REAL).flatmap(lambda real: st.integers(1, len(real)).map(lambda cut: real[:cut])),
    st.sampled_from(NEARLY),
    st.sampled_from(GLUE),
    st.text("ab@.-+0123456789 :(AKsghp_eyJ\\nx", max_size=24),
    st.text(max_size=6),
)
texts = st.lists(st.tuples(fragments, st.sampled_from(GLUE)).map("".join), max_size=7).map("".join)
choices = st.dictionaries(st.sampled_from([*NAMES, "deny-list"]), st.sampled_from(ACTIONS), min_size=1, max_size=6)
everything = st.just(dict.fromkeys([*NAMES, "deny-list"], "redact"))
rule_choices = st.one_of(everything, choices)
cut_sizes = st.one_of(st.just([1]), st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any))


@functools.cache
def _rules(chosen: tuple[tuple[str, str], ...]) -> RuleSet:
    return compile_rules([name for name, _ in chosen], TERMS, per_rule=dict(chosen))  # type: ignore[arg-type]


def rules_of(chosen: dict[str, str]) -> RuleSet:
    return _rules(tuple(sorted(chosen.items())))


# ---- the reference ---------------------------------------------------------------------------------------------------------------------------------------


class Expected(NamedTuple):
    text: str
    blocked: bool
    matches: list[tuple[str, int, int]]
    covered: set[int]


def escape_at(text: str, at: int) -> bool:
    return at >= 1 and text[at] in "nrtbf" and text[at - 1] == "\\"


def char_before(text: str, at: int) -> str:
    return "\n" if at and escape_at(text, at - 1) else text[at - 1 : at]


def spans_of(rule: Rule, text: str) -> list[tuple[int, int]]:
    pattern = re.compile(rule.pattern)
    spans = []
    for start in range(len(text)):
        if pattern.match(text, start) is None or (rule.not_before and re.match(rule.not_before, char_before(text, start))):
            continue
        for end in range(len(text), start, -1):
            if not pattern.fullmatch(text, start, end) or (rule.not_after and re.match(rule.not_after, text[end:])):
                continue
            if rule.validate is None or rule.validate(text[start:end]):
                spans.append((start, end))
                break
    if rule.head:
        spans = [(head, end) for start, end in spans if (head := head_of(rule, text, start)) < start]
    return spans


def head_of(rule: Rule, text: str, at: int) -> int:
    run = at
    while run and re.fullmatch(rule.head, text[run - 1]) and not escape_at(text, run - 1):
        run -= 1
    while run < at and not re.fullmatch(rule.head_first, text[run]):
        run += 1
    return max(run, at - rule.head_max)


def folded(text: str) -> str:
    return "".join("i" if char == "İ" else " " if char.isspace() else char.casefold() for char in text)


def deny_spans(text: str) -> list[tuple[int, int]]:
    def bounded(edge: str, neighbour: str) -> bool:
        return re.match(r"\w", edge) is None or edge == "北" or edge == "京" or re.match(r"\w", neighbour) is None

    spans = []
    for start in range(len(text)):
        ends = []
        for end in range(start + 1, min(len(text), start + 12) + 1):
            part = folded(text[start:end])
            if part in {folded(term) for term in TERMS} and bounded(part[0], char_before(text, start)) and bounded(part[-1], text[end : end + 1]):
                ends.append(end)
        if ends:
            spans.append((start, max(ends)))
    return spans


def expected(chosen: dict[str, str], text: str) -> Expected:
    found: list[tuple[int, int, str, str, str]] = []  # start, end, name, placeholder, action
    for rule in RULES:
        if rule.name in chosen:
            found += [(start, end, rule.name, rule.placeholder, chosen[rule.name]) for start, end in spans_of(rule, text)]
    if "deny-list" in chosen:
        found += [(start, end, "deny-list", "[REDACTED]", chosen["deny-list"]) for start, end in deny_spans(text)]
    removed = [entry for entry in found if entry[4] != "flag"]
    covered = {at for start, end, *_ in removed for at in range(start, end)}
    # two matches are of one span when they share a character, directly or through others
    inner = {at for start, end, *_ in removed for at in range(start + 1, end)}
    out: list[str] = []
    blocked = False
    at = 0
    while at < len(text):
        if at not in covered:
            out.append(text[at])
            at += 1
            continue
        end = at + 1
        while end in inner:
            end += 1
        members = [entry for entry in removed if at <= entry[0] < end]
        if any(entry[4] == "block" for entry in members):
            blocked = True
            break
        out.append(min(members, key=lambda entry: (entry[0] - entry[1], entry[0]))[3])
        at = end
    widest = {
        (name, start, end)
        for start, end, name, _, _ in found
        if not any(other[2] == name and other[0] <= start and end <= other[1] and (other[0], other[1]) != (start, end) for other in found)
    }
    return Expected("".join(out), blocked, sorted(widest, key=lambda match: match[1:]), covered)


# ---- the properties --------------------------------------------------------------------------------------------------------------------------------------


def stream(moderator: Moderator, text: str, cuts: list[int]) -> tuple[str, list[Match], bool]:
    out, matches, blocked, at, turn = "", [], False, 0, 0
    while at < len(text):
        size = cuts[turn % len(cuts)]
        released = moderator.feed(text[at : at + size])
        assert not (blocked and released.text), "nothing may come out once blocked"
        at, turn = at + size, turn + 1
        out, blocked = out + released.text, blocked or released.blocked
        matches += released.matches
    released = moderator.finish()
    return out + released.text, [*matches, *released.matches], blocked or released.blocked


def check(chosen: dict[str, str], text: str, cuts: list[int], moderator: type[Moderator] = Moderator) -> None:
    rules = rules_of(chosen)
    want = expected(chosen, text)
    out, matches, blocked = stream(moderator(rules), text, cuts)
    assert (out, blocked) == (want.text, want.blocked)
    whole = moderate(rules, text)
    assert (whole.text, whole.blocked) == (out, blocked)
    if not blocked:
        assert tuple(matches) == whole.matches
        assert sorted(((m.rule, m.start, m.end) for m in matches), key=lambda match: match[1:]) == want.matches
    assert sorted(((m.rule, m.start, m.end) for m in find(rules, text)), key=lambda match: match[1:]) == want.matches


thorough = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], derandomize=True)


@thorough
@given(rule_choices, texts, cut_sizes)
def test_every_cut_gives_what_the_naive_reference_gives(chosen: dict[str, str], text: str, cuts: list[int]) -> None:
    check(chosen, text, cuts)


@pytest.mark.parametrize("text", [*REAL, *NEARLY])
@pytest.mark.parametrize("around", ["", " ", "x", "1", ".", "-", "\\n", "@"])
def test_each_sample_character_by_character_between_each_neighbour_gives_what_the_reference_gives(text: str, around: str) -> None:
    check(dict.fromkeys([*NAMES, "deny-list"], "redact"), f"so {around}{text}{around} it", [1])


class HoldsNothing(Moderator):
    def _hold_from(self) -> int:
        return self._scanner.at


@pytest.mark.parametrize("text", ["write to jo@example.com now", "call +44 20 7946 0958 now", "AKIAQ6MBUSKRN3QMHX5M", "a badger"])
def test_without_holding_back_the_guarantee_fails(text: str) -> None:
    chosen = dict.fromkeys([*NAMES, "deny-list"], "redact")
    check(chosen, text, [1])
    with pytest.raises(AssertionError):
        check(chosen, text, [1], HoldsNothing)


@thorough
@given(st.text("bcd ,;!?éß字\n", max_size=200), cut_sizes)
def test_text_without_a_candidate_comes_out_unchanged(text: str, cuts: list[int]) -> None:
    out, matches, blocked = stream(Moderator(rules_of(dict.fromkeys([*NAMES, "deny-list"], "redact"))), text, cuts)
    assert (out, matches, blocked) == (text, [], False)


@thorough
@given(choices, texts, cut_sizes)
def test_no_character_comes_out_before_it_is_known_to_be_clear_of_every_match(chosen: dict[str, str], text: str, cuts: list[int]) -> None:
    chosen = {name: "redact" if action == "block" else action for name, action in chosen.items()}
    want = expected(chosen, text)
    moderator = Moderator(rules_of(chosen))
    out, at, turn = "", 0, 0
    while at < len(text):
        size = cuts[turn % len(cuts)]
        out += moderator.feed(text[at : at + size]).text
        at, turn = at + size, turn + 1
        assert want.text.startswith(out)


@thorough
@given(choices, texts, cut_sizes)
def test_offsets_follow_the_redactions(chosen: dict[str, str], text: str, cuts: list[int]) -> None:
    chosen = {name: "redact" if action == "block" else action for name, action in chosen.items()}
    moderator = Moderator(rules_of(chosen))
    out, _, _ = stream(moderator, text, cuts)
    covered = expected(chosen, text).covered
    for offset, char in enumerate(text):
        if offset not in covered:
            assert out[moderator.to_released(offset)] == char
        else:
            assert out[moderator.to_released(offset)] == "["
            assert out[moderator.to_released(offset + 1, end=True) - 1] == "]"
    assert moderator.to_released(len(text)) == moderator.to_released(len(text), end=True) == len(out)
