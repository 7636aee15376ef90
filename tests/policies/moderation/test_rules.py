"""What can be enabled, what a rule may look like, and what the shipped rules find."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from policies.moderation import Moderator, RuleError, compile_rules, find, moderate
from policies.moderation.automaton import Alphabet, PatternAutomaton
from policies.moderation.pattern import parse
from policies.moderation.rules import RULES


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"a.b", "'.' is refused"),
        (r"^a", "anchors are refused"),
        (r"a$", "anchors are refused"),
        (r"\bword", "boundaries inside a pattern are refused"),
        (r"(a)\1", "back-references are refused"),
        (r"(?=a)b", "look-around"),
        (r"(?<!a)b", "look-around"),
        (r"(?P<n>a)", "named groups"),
        (r"(?i:a)", "flags"),
        (r"a+?", "lazy"),
        (r"a++", "possessive"),
        (r"*a", "nothing to repeat"),
        (r"a{2,1}", "not possible"),
        (r"a{99999}", "not possible"),
        (r"[a", "not closed"),
        (r"[z-a]", "not valid"),
        (r"(a", "not closed"),
        (r"a)", "unbalanced"),
        (r"\pL", "refused"),
        ("a\\", "lone backslash"),
    ],
)
def test_a_pattern_outside_the_language_is_refused_with_the_reason(pattern: str, reason: str) -> None:
    with pytest.raises(RuleError, match="at "):
        parse(pattern)
    with pytest.raises(RuleError) as caught:
        parse(pattern)
    assert reason in str(caught.value)


def automaton(*, open: bool) -> PatternAutomaton:
    return PatternAutomaton(Alphabet(), holds=True, open=open)


def test_a_repeat_without_end_is_refused_where_it_could_hold_text_without_end() -> None:
    with pytest.raises(RuleError, match="without end"):
        automaton(open=False).add(0, parse("ab+"), "", "c")
    with pytest.raises(RuleError, match="without end"):
        automaton(open=True).add(0, parse("ab+c"), "", "")
    with pytest.raises(RuleError, match="without end"):
        automaton(open=True).add(0, parse("a(?:b|b*c)"), "", "")
    assert automaton(open=True).add(0, parse("ab{3}b*"), "", "") == 4


def test_a_pattern_that_matches_the_empty_text_and_one_that_explodes_are_refused() -> None:
    with pytest.raises(RuleError, match="empty"):
        automaton(open=True).add(0, parse("a*"), "", "")
    with pytest.raises(RuleError, match="too large"):
        automaton(open=False).add(0, parse("(?:a{1000}){1000}"), "", "")


def test_the_bound_is_the_longest_match() -> None:
    assert automaton(open=False).add(0, parse("a{2,5}(?:b|cde)?f"), "", "") == 9


def test_an_unknown_name_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean 'email'"):
        compile_rules(["emial"])
    with pytest.raises(RuleError, match="did you mean 'secrets'"):
        compile_rules(["pii"], per_rule={"secret": "block"})
    with pytest.raises(RuleError, match="did you mean 'redact'"):
        compile_rules(["pii"], on_match="redacts")  # type: ignore[arg-type]
    with pytest.raises(RuleError, match="no effect"):
        compile_rules(["pii"], per_rule={"jwt": "block"})


def test_a_rules_own_action_wins_over_its_categorys_and_that_over_the_default() -> None:
    rules = compile_rules(["pii", "secrets", "deny-list"], ["badger"], "flag", {"pii": "redact", "ssn": "block"})
    found = find(rules, "a@b.cd 460-89-9847 AKIAQ6MBUSKRN3QMHX5M badger")
    assert [(match.rule, match.action) for match in found] == [("email", "redact"), ("ssn", "block"), ("aws-key", "flag"), ("deny-list", "flag")]


def test_the_version_names_the_rules_and_nothing_else() -> None:
    rules = compile_rules(["secrets", "pii", "deny-list"], ["b", "A"])
    same = compile_rules(["pii", "deny-list", "secrets", "email"], ["a", "B", "b"])
    assert rules.version == same.version
    assert rules == same
    assert hash(rules) == hash(same)
    others = [compile_rules(["pii"]), compile_rules(["pii"], on_match="block"), compile_rules(["pii", "deny-list"], ["a"]), compile_rules(["secrets"])]
    assert len({other.version for other in others} | {rules.version}) == 5
    find(rules, "whatever it has scanned, a@b.cd")
    assert rules.version == same.version


def test_no_rules_pass_everything_at_once() -> None:
    released = Moderator(compile_rules([])).feed("a@b.cd")
    assert (released.text, released.matches, released.blocked) == ("a@b.cd", (), False)


def test_phonenumbers_is_imported_only_when_the_phone_rule_is_compiled() -> None:
    script = (
        "import sys; from policies.moderation import compile_rules; compile_rules(['secrets', 'email']);"
        "assert 'phonenumbers' not in sys.modules; compile_rules(['phone']); assert 'phonenumbers' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_one_rule_set_serves_many_threads() -> None:
    rules = compile_rules(["pii", "secrets", "deny-list"], [f"term{n}" for n in range(500)])
    text = "a@b.cd term7 term499 4111 1111 1111 1111 ghp_16C7e42F292c6912E7710c838347Ae178B4a ünïcödé 字 " * 5
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: moderate(rules, text), range(32)))
    assert len(results[0].matches) == 25
    assert all(result == results[0] for result in results)


EVERYTHING = compile_rules(["pii", "secrets", "deny-list"])


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("to jo.bloggs@example.co.uk.", "to [EMAIL]."),
        ("<mailto:o'brien@b.example>", "<mailto:[EMAIL]>"),
        (r'{"to": "x\njo@example.com"}', r'{"to": "x\n[EMAIL]"}'),
        ("@decorator.name and user@host", "@decorator.name and user@host"),
        ("(415) 555-2671, 415-555-2671, 1-415-555-2671, +14155552671", "[PHONE], [PHONE], [PHONE], [PHONE]"),
        ("ring 020 7946 0958 or 0044 20 7946 0958 or 01 42 68 53 00", "ring [PHONE] or [PHONE] or [PHONE]"),
        (
            "2023-01-02, 01-02-2023 10:30, 3.14.15, 1,000,000, 1700000000000, 0.123 456",
            "2023-01-02, 01-02-2023 10:30, 3.14.15, 1,000,000, 1700000000000, 0.123 456",
        ),
        ("4111111111111111 4111-1111-1111-1111", "[CARD] [CARD]"),
        ("4111111111111112 41111111111111111111 4111-1111 1111-1111", "4111111111111112 41111111111111111111 4111-1111 1111-1111"),
        ("9999 4111 1111 1111 1111", "9999 [CARD]"),
        ("DE89 3704 0044 0532 0130 00, gb29nwbk60161331926819!", "[IBAN], [IBAN]!"),
        ("GB29 NWBK 6016 1331 9268 18, ZZ29 NWBK 6016 1331", "GB29 NWBK 6016 1331 9268 18, ZZ29 NWBK 6016 1331"),
        ("460-89-9847 460 89 9847 000-89-9847 900-89-9847", "[SSN] [SSN] 000-89-9847 900-89-9847"),
        ("10.1.2.3, 192.168.1.1. v1.2.3.4 256.1.1.1 127.0.0.1 2001:db8::8a2e:370:7334", "[IP], [IP]. v1.2.3.4 256.1.1.1 127.0.0.1 [IP]"),
        ("std::vector a[1::2] 12:30:45 fe::be", "std::vector a[1::2] 12:30:45 fe::be"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3.", "[TOKEN]."),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\nabc=\n-----END OPENSSH PRIVATE KEY-----\nbye", "[PRIVATE_KEY]\nbye"),
        ("-----BEGIN PUBLIC KEY-----\nb3BlbnNzaC1rZXktdjEA", "-----BEGIN PUBLIC KEY-----\nb3BlbnNzaC1rZXktdjEA"),
        ("scikit: sk-learn-pipelines-for-beginners", "scikit: sk-learn-pipelines-for-beginners"),
        ("AKIAXXXXXXXXXXXXXXXX ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "AKIAXXXXXXXXXXXXXXXX ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        ("hg-abcdefghij0123456789ABCD", "[API_KEY]"),
    ],
)
def test_the_shipped_rules_find_what_they_name_and_leave_what_only_looks_like_it(text: str, redacted: str) -> None:
    assert moderate(EVERYTHING, text).text == redacted


@pytest.mark.parametrize(
    ("rule", "secret"),
    [
        ("openai-key", "sk-abcdefghijklmnopqrstT3BlbkFJabcdefghijklmnopqrst"),
        ("openai-key", "sk-proj-a1B2c3D4e5F6g7H8i9J0_k-l"),
        ("anthropic-key", "sk-ant-api03-a1B2c3D4e5F6g7H8i9J0"),
        ("aws-key", "ASIAQ6MBUSKRN3QMHX5M"),
        ("github-token", "gho_16C7e42F292c6912E7710c838347Ae178B4a"),
        ("github-token", "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz0123"),
        ("gitlab-token", "glpat-abcDEF1234567890_xyz"),
        ("slack-token", "xoxp-123456789012-123456789012-abcdefGHIJKL"),
        ("google-key", "AIzaSyA1234567890abcdefghijklmnopqrstuv"),
        ("stripe-key", "rk_live_abcdef1234567890ABCD"),
        ("sendgrid-key", "SG.abcdefghijklmnopqrstuv.abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"),
        ("npm-token", "npm_abcdefghijklmnopqrstuvwxyz0123456789"),
        ("pypi-token", "pypi-AgEIcHlwaS5vcmcCJDEyMzQ1Njc4LTEyMzQtMTIzNC0xMjM0LTEyMzQ1Njc4"),
        ("huggingface-token", "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"),
        ("headgate-key", "hg-a1B2c3D4e5F6g7H8i9J0"),
    ],
)
def test_each_kind_of_key_is_found_whole_also_behind_a_json_escape(rule: str, secret: str) -> None:
    for prefix in ("", " ", "=", '"', "\\n"):
        (match,) = find(EVERYTHING, f"{prefix}{secret} ")
        assert (match.rule, match.category, match.start, match.end) == (rule, "secrets", len(prefix), len(prefix) + len(secret))


def test_every_shipped_rule_has_a_small_bound() -> None:
    assert set(EVERYTHING.bounds) == {rule.name for rule in RULES}
    assert max(EVERYTHING.bounds.values()) < 1200
