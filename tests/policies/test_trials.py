"""Canaries, shadows and pairs as the policy has them: what is drawn, for whom, and what cannot work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backend import DATA_CLASSES
from policies.canary import ROLLED_BACK, side_of
from policies.cases import run_cases
from policies.decide import BackendState, State, decide
from policies.features import Features
from policies.load import Policy, PolicyError, load_policy
from tests.policies.conftest import ABLE, price_of

Load = Callable[..., Policy]
MakeState = Callable[..., State]

BACKENDS = """version: 1
backends:
  local: {kind: llama, model: some/llama}
  mini: {kind: openai, model: gpt-5-mini}
  claude: {kind: anthropic, model: claude-sonnet-4-5, clearance: confidential}
default: mini
fallback: [mini]
"""
CANARY = BACKENDS + "rules:\n  - {name: all, use: [mini], canary: {use: [claude], share: 0.2, sticky: request}}\n"
STICKY = CANARY.replace("sticky: request", "sticky: conversation")


def sides(policy: Policy, states: list[State], features: Features | None = None) -> list[str]:
    decisions = [decide(policy, features or Features(), state) for state in states]
    for decision in decisions:
        first = decision.candidates[0]
        assert {"candidate": "claude", "baseline": "mini"}.get((side_of(decision) or ("", ""))[1], "mini") == first
    return [(side_of(decision) or ("", "neither"))[1] for decision in decisions]


def test_a_share_of_the_requests_is_tried_with_the_candidate_first(load: Load, state: MakeState) -> None:
    policy = load(CANARY)
    drawn = sides(policy, [state(policy, seed=f"request {number}") for number in range(5_000)])
    assert 0.18 < drawn.count("candidate") / 5_000 < 0.22
    assert set(drawn) == {"candidate", "baseline"}
    decision = next(decision for number in range(50) if (decision := decide(policy, Features(), state(policy, seed=str(number)))).candidates[0] == "claude")
    assert (decision.candidates, decision.rule, decision.propensity) == (("claude", "mini"), "all", 0.2)
    assert decision.reasons == ("rule:all", "canary:all:candidate")


def test_the_propensities_of_both_sides_are_those_of_the_draw(load: Load, state: MakeState) -> None:
    weighted = load(BACKENDS + "rules: [{name: all, use: {weighted: {mini: 3, local: 1}}, canary: {use: [claude], share: 0.2, sticky: request}}]\n")
    seen: dict[str, list[float]] = {}
    for number in range(8_000):
        decision = decide(weighted, Features(), state(weighted, seed=str(number)))
        seen.setdefault(decision.candidates[0], []).append(decision.propensity)
    assert {name: round(found[0], 6) for name, found in seen.items()} == {"claude": 0.2, "mini": 0.6, "local": 0.2}
    for found in seen.values():
        assert len(set(found)) == 1
        assert abs(len(found) / 8_000 - found[0]) < 0.02


def test_a_canary_that_is_rolled_back_gets_nothing(load: Load, state: MakeState) -> None:
    policy = load(CANARY)
    states = [state(policy, seed=str(number), canaries={"all": ROLLED_BACK}) for number in range(200)]
    assert set(sides(policy, states)) == {"neither"}
    assert decide(policy, Features(), states[0]).reasons == ("rule:all", "canary:all:rolled_back")
    assert set(sides(policy, [state(policy, seed=str(number), canaries={"another": ROLLED_BACK}) for number in range(200)])) == {"candidate", "baseline"}


def test_a_conversation_or_a_user_stays_on_its_side(load: Load, state: MakeState) -> None:
    for text, holder in ((STICKY, "conversation"), (STICKY.replace("sticky: conversation", "sticky: user"), "user")):
        policy = load(text)
        for number in range(40):
            states = [state(policy, seed=f"{number}.{turn}") for turn in range(5)]
            assert len(set(sides(policy, states, Features(**{holder: f"one {number}"})))) == 1  # type: ignore[arg-type]
        assert set(sides(policy, [state(policy, seed=str(number)) for number in range(40)])) == {"candidate", "baseline"}, "what is not known draws alone"


@pytest.mark.parametrize(
    ("features", "options"),
    [
        (Features(data_class="restricted"), {}),
        (Features(), {"down": ("claude",)}),
        (Features(), {"allowed_models": ("mini", "local")}),
        (Features(), {"costs": {"claude": 2.0}, "remaining_usd": 1.0}),
    ],
)
def test_a_request_that_the_candidate_may_not_answer_is_on_neither_side(load: Load, state: MakeState, features: Features, options: dict[str, Any]) -> None:
    policy = load(CANARY.replace("use: [mini]", "use: [mini, local]"))
    for number in range(50):
        decision = decide(policy, features, state(policy, seed=str(number), **options))
        assert side_of(decision) is None
        assert "claude" not in decision.candidates
        assert decision.propensity == 1.0


def test_a_pin_and_another_rule_know_nothing_of_the_canary(load: Load, state: MakeState) -> None:
    policy = load(CANARY.replace("{name: all,", "{name: all, when: {tenant: acme}, pin_fallback: true,"))
    for number in range(30):
        assert side_of(decide(policy, Features(tenant="acme", model="mini"), state(policy, seed=str(number)))) is None
        assert side_of(decide(policy, Features(tenant="globex"), state(policy, seed=str(number)))) is None


LOCKED = (
    BACKENDS
    + """rules:
  - {name: secret, when: {data_class: [confidential, restricted]}, use: [local], lock: true}
  - {name: all, use: [mini, local], canary: {use: [claude, local], share: 0.9, sticky: request}}
  - {name: own, when: {tenant: acme}, use: [local, mini], lock: true}
"""
)
LOCKED_POLICY = load_policy(LOCKED, "policy.yaml", price_of=price_of)


def test_when_the_candidate_fails_in_a_way_that_has_a_fallback_of_its_own_the_rules_own_backend_comes_first(load: Load, state: MakeState) -> None:
    policy = load(CANARY.replace("fallback: [mini]", "fallback: {default: [mini], unavailable: [local]}").replace("share: 0.2", "share: 1.0"))
    decision = decide(policy, Features(), state(policy))
    assert decision.candidates[:2] == ("claude", "mini")
    assert decision.order(["backend_overloaded"]) == ("mini", "local")


@given(st.sampled_from(DATA_CLASSES), st.sampled_from(["acme", "globex"]), st.text(max_size=8), st.sets(st.sampled_from(["local", "mini", "claude"])))
def test_no_lock_is_undone_by_a_canary(data_class: Any, tenant: str, seed: str, down: set[str]) -> None:
    states = {name: BackendState(capabilities=ABLE, ready=name not in down) for name in ("local", "mini", "claude")}
    decision = decide(LOCKED_POLICY, Features(data_class=data_class, tenant=tenant), State(backends=states, seed=seed))
    permitted = {"local"} if data_class in ("confidential", "restricted") else {"local", "mini"} if tenant == "acme" else {"local", "mini", "claude"}
    assert set(decision.candidates) <= permitted - down
    assert len(set(decision.candidates)) == len(decision.candidates)


def test_cases_are_about_the_rule_itself_and_never_covers_its_canary(load: Load) -> None:
    case = "cases:\n  - {given: {}, expect: {backend: mini}}\n  - {given: {}, expect: {never: [claude]}}\n  - {given: {}, expect: {never: [local]}}\n"
    results = run_cases(load(CANARY.replace("share: 0.2", "share: 1.0") + case))
    assert [result.ok for result in results] == [True, False, True]
    assert results[1].failures[0] == "'claude' must never be a candidate, and is"


PROBLEMS = [
    ("rules: [{name: a, use: [mini], canary: {use: [claud], share: 0.1}}]", "there is no backend 'claud'"),
    ("rules: [{name: a, use: [mini], canary: {use: [], share: 0.1}}]", "an empty list tries nothing"),
    ("rules: [{name: a, use: [mini], canary: {use: [mini], share: 0.1}}]", "the rule itself tries 'mini' first"),
    ("rules: [{name: a, use: {weighted: {mini: 1, claude: 1}}, canary: {use: [claude], share: 0.1}}]", "the rule itself tries 'claude' first"),
    ("rules: [{name: a, use: [mini], canary: {use: [claude, claude], share: 0.1}}]", "'claude' stands in this list twice"),
    ("rules: [{name: a/b, use: [mini], canary: {use: [claude], share: 0.1}}]", "has no '/' in its name"),
    ("rules: [{name: a, use: [mini], lock: true, canary: {use: [claude], share: 0.1}}]", "the rule locks its requests to mini"),
    ("rules: [{name: a, use: [local], canary: {use: [claude], share: 0.1}}]", "cost_ratio would compare with backends that cost nothing"),
    ("rules: [{name: a, use: [mini], canary: {use: [claude], share: 0}}]", "must be more than 0"),
    ("rules: [{name: a, use: [mini], canary: {use: [claude]}}]", "share"),
    ("rules: [{name: a, use: [mini], canary: {use: [claude], share: 0.1, guard: {latency_ratio: 0.5}}}]", "must be at least 1"),
    ("rules: [{name: a, use: [mini], canary: {use: [claude], share: 0.1, guard: {error_rat: 0.5}}}]", "error_rate"),
    (
        "rules: [{name: a, use: [mini], canary: {use: [claude], share: 0.1, guard: {error_rate_over: ~, latency_ratio: ~, cost_ratio: ~, score_drop: ~}}}]",
        "this guard watches nothing",
    ),
    ("shadow: {to: [nobody], share: 0.1, budget_usd: {day: 1}}", "there is no backend 'nobody'"),
    ("shadow: {to: [mini], share: 0.1, budget_usd: {}}", "needs a bound"),
    ("shadow: {to: [mini], share: 0.1}", "budget_usd"),
    ("shadow: {to: [], share: 0.1, budget_usd: {day: 1}}", "sends nothing anywhere"),
    ("rules: [{name: a, use: [mini], lock: true, shadow: {to: [claude], share: 0.1, budget_usd: {day: 1}}}]", "'claude' would never be called"),
    (f"rules: [{{name: {'a' * 58}, use: [mini], shadow: {{to: [claude], share: 0.1, budget_usd: {{day: 1}}}}}}]", "at most 57 characters"),
    ("complexity: {weak: mini, strong: claude, threshold: 0.5, pairs: {share: 0.1, budget_usd: {day: 1}, judge: claude}}", "would judge its own answers"),
    ("complexity: {weak: mini, strong: claude, threshold: 0.5, pairs: {share: 0.1, budget_usd: {day: 1}, judge: judy}}", "there is no backend 'judy'"),
]


@pytest.mark.parametrize(("table", "problem"), PROBLEMS, ids=[problem for _, problem in PROBLEMS])
def test_what_cannot_work_is_said_with_its_line(load: Load, table: str, problem: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load(BACKENDS + table + "\n")
    lines = str(caught.value).splitlines()
    assert any(problem in line and line.startswith("policy.yaml:8:") for line in lines), lines


def test_a_reference_is_no_backend_and_a_free_canary_of_a_free_rule_needs_no_word(load: Load) -> None:
    load(BACKENDS + "complexity: {weak: mini, strong: claude, threshold: 0.5, pairs: {share: 0.1, budget_usd: {day: 1}, judge: reference}}\n")
    load(BACKENDS + "rules: [{name: a, use: [local], canary: {use: [claude], share: 0.1, guard: {cost_ratio: null}}}]\n")
    load(BACKENDS.replace("default", "  other: {kind: llama, model: b}\ndefault", 1) + "rules: [{name: a, use: [local], canary: {use: [other], share: 0.1}}]\n")
