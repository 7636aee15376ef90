"""The policy language by its own means: a policy with every condition and its cases, and what cases cannot show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.cases import run_cases
from policies.conditions import contradictions, facts, implies, may_follow, mentioned
from policies.decide import Decision, State, decide
from policies.features import Features
from policies.load import Policy
from policies.matching import matches
from policies.schema import Fallback, Given, TimeOfDay, Use, When

Load = Callable[..., Policy]
MakeState = Callable[..., State]
FILES = Path(__file__).parent / "files"
TEXT = (FILES / "conditions.yaml").read_text()
NOON = 1_796_040_000.0
BACKENDS = """version: 1
backends:
  local: {kind: llama, model: some/llama, quality: 0.4}
  mini: {kind: openai, model: gpt-5-mini, quality: 0.6}
  claude: {kind: anthropic, model: claude-sonnet-4-5, quality: 0.9}
default: mini
fallback: []
"""


def test_every_condition_does_what_its_cases_say(load: Load) -> None:
    results = run_cases(load(TEXT))
    assert len(results) > 50
    assert [(result.name, result.failures) for result in results if not result.ok] == []


def test_the_cases_use_every_condition_every_choice_and_every_class_of_error(load: Load) -> None:
    policy = load(TEXT)
    parts = [part for rule in policy.file.rules for part in rule.when.parts()]
    unused = [name for name in When.__struct_fields__ if all(getattr(part, name) is None for part in parts)]
    assert unused == []
    uses = [rule.use for rule in policy.file.rules if isinstance(rule.use, Use)]
    assert [name for name in Use.__struct_fields__ if all(getattr(use, name) is None for use in uses)] == ["best_of", "judge"], "see test_several"
    lists = [policy.file.fallback, *(rule.fallback for rule in policy.file.rules)]
    assert [name for name in Fallback.__struct_fields__ if all(getattr(each, name, None) is None for each in lists)] == []
    plain = Given()
    assert [name for name in Given.__struct_fields__ if all(getattr(case.given, name) == getattr(plain, name) for case in policy.file.cases)] == ["over_budget"]


def with_state(state: State, **backends: dict[str, object]) -> State:
    """The state in which some backends are otherwise."""
    changed = {name: msgspec.structs.replace(now, **backends.get(name, {})) for name, now in state.backends.items()}
    return msgspec.structs.replace(state, backends=changed)


def test_a_sticky_rule_draws_once_for_a_conversation_and_by_the_weights_over_many(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "rules: [{name: split, use: {weighted: {mini: 3, claude: 1}, sticky: conversation}}]")
    first: Counter[str] = Counter()
    for number in range(400):
        asked = Features(tenant="acme", conversation=f"c{number}")
        found = {decide(policy, asked, state(policy, seed=str(seed))).candidates[0] for seed in range(3)}
        assert len(found) == 1
        first.update(found)
    assert 260 <= first["mini"] <= 340
    other = {decide(policy, Features(tenant=f"t{n}", conversation="c0"), state(policy)).candidates[0] for n in range(20)}
    assert other == {"mini", "claude"}  # a conversation of another tenant is another one
    none = {decide(policy, Features(), state(policy, seed=str(seed))).candidates[0] for seed in range(30)}
    assert none == {"mini", "claude"}  # without a conversation there is nothing to stick to


def test_the_fastest_is_the_one_that_was_measured_so_and_new_ones_get_their_turn(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "rules: [{name: quick, use: {fastest: [local, mini, claude]}}]")
    known = with_state(state(policy), local={"latency_ms": 900.0}, mini={"latency_ms": 300.0}, claude={"latency_ms": 500.0})
    decision = decide(policy, Features(), known)
    assert (decision.candidates, decision.propensity) == (("mini", "claude", "local"), 1.0)
    assert "fastest:mini" in decision.reasons
    one_new = with_state(known, claude={"latency_ms": None})
    first: Counter[str] = Counter()
    for seed in range(600):
        decision = decide(policy, Features(), msgspec.structs.replace(one_new, seed=str(seed)))
        first[decision.candidates[0]] += 1
        assert decision.propensity == 0.5
    assert set(first) == {"mini", "claude"}
    assert 240 <= first["claude"] <= 360


def test_caps_take_backends_out_of_a_rule_and_say_why(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "rules: [{name: capped, use: {ordered: [mini, claude], max_cost_usd: 0.1, max_latency_ms: 500}}]")
    now = with_state(state(policy), mini={"cost_usd": 0.2}, claude={"cost_usd": 0.05, "latency_ms": 501.0})
    decision = decide(policy, Features(), now)
    assert (decision.outcome, decision.status) == ("no_permitted_backend", 503)
    assert [(each.backend, each.code) for each in decision.excluded] == [("mini", "too_dear"), ("claude", "too_slow")]
    assert "mini: it is expected to cost $0.2, and the rule allows $0.1" in decision.message
    unmeasured = with_state(now, claude={"latency_ms": None})
    assert decide(policy, Features(), unmeasured).candidates == ("claude",)
    unknown = with_state(state(policy), mini={"cost_usd": None}, claude={"cost_usd": None})
    assert {each.detail for each in decide(policy, Features(), unknown).excluded} == {"what it costs is not known, and the rule allows $0.1"}


def test_a_capped_backend_may_still_be_a_fallback_and_the_reasons_say_both(load: Load, state: MakeState) -> None:
    text = BACKENDS.replace("fallback: []", "fallback: [mini]") + "rules: [{name: capped, use: {cheapest: [mini, claude], max_cost_usd: 0.1}}]"
    policy = load(text)
    decision = decide(policy, Features(), with_state(state(policy), mini={"cost_usd": 0.2}, claude={"cost_usd": 0.05}))
    assert decision.candidates == ("claude", "mini")
    assert decision.reasons == ("rule:capped", "cheapest:claude", "capped:mini:too_dear", "fallback:mini")
    assert decision.excluded == ()


def test_exploration_sees_both_sides_of_every_score_as_often_as_it_says(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "complexity: {weak: mini, strong: claude, threshold: 0.5, explore: 0.2}")
    for score, usual, other in ((0.1, "mini", "claude"), (0.9, "claude", "mini")):
        seen: list[Decision] = [decide(policy, Features(complexity=score), state(policy, seed=str(seed))) for seed in range(3000)]
        first = Counter(decision.candidates[0] for decision in seen)
        assert 0.08 <= first[other] / 3000 <= 0.12
        assert {decision.candidates[0]: decision.propensity for decision in seen} == {usual: 0.9, other: 0.1}
        assert sum(1 / decision.propensity for decision in seen if decision.candidates[0] == other) / 3000 == pytest.approx(1, abs=0.2)


def test_nothing_is_explored_where_only_one_of_the_two_is_permitted(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "complexity: {weak: mini, strong: claude, threshold: 0.5, explore: 1}")
    for seed in range(50):
        decision = decide(policy, Features(complexity=0.1), state(policy, seed=str(seed), down=("claude",)))
        assert (decision.candidates, decision.propensity) == (("mini",), 1.0)


def test_a_threshold_in_force_goes_before_the_policys(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "complexity: {weak: mini, strong: claude, threshold: 0.5}")
    moved = state(policy, thresholds={"acme": 0.3})
    assert decide(policy, Features(tenant="acme", complexity=0.4), moved).candidates == ("claude",)
    assert decide(policy, Features(tenant="other", complexity=0.4), moved).candidates == ("mini",)
    assert decide(policy, Features(tenant="acme", complexity=0.4), moved).reasons == ("complexity:0.4>=0.3:strong",)


def test_what_holds_for_every_tenant_holds_where_its_own_table_says_nothing_else(load: Load) -> None:
    policy = load(
        BACKENDS
        + "tenant_defaults: {data_class: confidential, budget_wait_s: 3, budget_usd: {day: 5}}\n"
        + "tenants: {open: {data_class: internal}, rich: {budget_usd: {day: 500}}}\n"
    )
    assert policy.tenant("anybody").data_class == "confidential"
    assert (policy.tenant("open").data_class, policy.tenant("open").budget_wait_s) == ("internal", 3)  # written, though it is the default's word
    assert (policy.tenant("rich").data_class, policy.tenant("rich").budget_usd.day) == ("confidential", 500)


def test_a_time_that_ends_at_midnight_and_one_that_runs_over_it() -> None:
    from policies.matching import within

    evening, night = TimeOfDay(start="20:00", to="24:00"), TimeOfDay(start="23:00", to="01:00", days=("mon",))
    day = 1_796_000_000.0 // 86400 * 86400  # midnight, UTC, of a Monday
    assert [within(evening, day + hour * 3600) for hour in (0, 19.99, 20, 23.99)] == [False, False, True, True]
    assert [within(night, day + hour * 3600) for hour in (0.5, 22.9, 23, 24.5, 25, 47.5)] == [False, False, True, True, False, False]


# What is proved of conditions, over random ones

TENANTS, TASKS = ("a", "b"), ("code", "math")
ATOMS = st.fixed_dictionaries(
    {},
    optional={
        "tenant": st.sampled_from((*TENANTS, TENANTS)),
        "task": st.sampled_from((*TASKS, TASKS)),
        "tags": st.sampled_from(("x", "y", ("x", "y"))),
        "grounded": st.booleans(),
        "min_hits": st.integers(0, 2),
        "max_hits": st.integers(0, 2),
        "min_complexity": st.sampled_from((0.0, 0.5)),
        "max_complexity": st.sampled_from((0.4, 1.0)),
        "max_budget_left": st.sampled_from((0.5, 1.0)),
    },
).map(lambda parts: When(**parts))
WHENS = st.recursive(
    ATOMS,
    lambda inner: st.fixed_dictionaries(
        {}, optional={"all": st.lists(inner, min_size=1, max_size=2).map(tuple), "any": st.lists(inner, min_size=1, max_size=2).map(tuple), "none": inner}
    ).map(lambda parts: When(**parts)),
    max_leaves=4,
)
WORLD = [
    (Features(tenant=tenant, task=task, tags=tags, grounded=hits is not None, hits=hits or 0, complexity=complexity), State(backends={}, budget_left=left))
    for tenant in (*TENANTS, "c")
    for task in (*TASKS, "chat")
    for tags in ((), ("x",), ("x", "y"), ("z",))
    for hits in (None, 0, 1, 2)
    for complexity in (None, 0.4, 0.5)
    for left in (None, 0.2)
]
"""Every request that these conditions tell apart, and some more."""


@settings(max_examples=150, deadline=None)
@given(WHENS, WHENS)
def test_what_is_said_to_imply_holds_in_every_world(first: When, second: When) -> None:
    if implies(first, second):
        assert may_follow(mentioned(first), second) or facts(first).impossible()
        assert all(matches(second, *world) for world in WORLD if matches(first, *world))


@settings(max_examples=150, deadline=None)
@given(WHENS)
def test_what_is_said_to_be_impossible_holds_in_no_world(when: When) -> None:
    whole = facts(when).impossible() or any("any" not in place and "not" not in place[:-1] for place, _ in contradictions(when, ()))
    if whole:
        assert not any(matches(when, *world) for world in WORLD)


@given(ATOMS, ATOMS)
def test_a_condition_implies_itself_and_each_of_its_parts(first: When, second: When) -> None:
    both = When(all=(first, second))
    assert implies(first, first)
    assert implies(both, first)
    assert implies(both, second)
    assert implies(first, When(any=(second, first)))
    assert implies(When(none=first), When(none=When(all=(first, second))))
