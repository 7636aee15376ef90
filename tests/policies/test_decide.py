from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from adapters.backend import DATA_CLASSES, BackendSpec, may_see
from adapters.types import Capabilities
from config.prices import Price
from policies.choosing import draw, unit
from policies.decide import BackendState, Decision, State, decide, model_names
from policies.decision import STATUS
from policies.features import Features
from policies.load import Policy, PolicyError, load_policy

Load = Callable[..., Policy]
MakeState = Callable[..., State]
BACKENDS = """version: 1
backends:
  local: {kind: llama, model: some/llama}
  mini: {kind: openai, model: gpt-5-mini}
  claude: {kind: anthropic, model: claude-sonnet-4-5}
  twin: {kind: openai, model: claude-sonnet-4-5, context_window: 1000}
"""
LADDER = (
    BACKENDS
    + """
rules:
  - {name: home, when: {data_class: [confidential, restricted]}, use: [local], lock: true}
  - {name: code, when: {task: code}, use: [claude, mini]}
  - {name: spread, when: {tenant: spread}, use: {weighted: {mini: 30, claude: 60, twin: 10, local: 0}}}
  - {name: fast, when: {model: fast}, use: [mini]}
  - {name: kind-pins, when: {tenant: kind}, use: [mini], pin_fallback: true}
complexity: {weak: mini, strong: claude, threshold: 0.5}
default: local
fallback: [mini, local, extractive]
tenants:
  poor: {on_budget_end: local}
"""
)


def test_the_first_matching_rule_decides_and_the_fallback_follows(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    decision = decide(policy, Features(task="code", grounded=True), state(policy))
    assert (decision.outcome, decision.status, decision.rule) == ("ok", 200, "code")
    assert decision.candidates == ("claude", "mini", "local", "extractive")
    assert decision.reasons == ("rule:code", "fallback:local", "fallback:extractive")
    assert (decision.policy_version, decision.propensity) == (policy.version, 1.0)


@pytest.mark.parametrize(("complexity", "first"), [(0.49, "mini"), (0.5, "claude"), (1.0, "claude"), (None, "local")])
def test_without_a_rule_complexity_decides_and_without_a_score_the_default(load: Load, state: MakeState, complexity: float | None, first: str) -> None:
    policy = load(LADDER)
    assert decide(policy, Features(complexity=complexity), state(policy)).candidates[0] == first


def test_an_empty_fallback_means_none_at_all(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "default: mini\nfallback: []")
    assert decide(policy, Features(grounded=True), state(policy)).candidates == ("mini",)
    refused = decide(policy, Features(grounded=True), state(policy, down=("mini",)))
    assert (refused.outcome, refused.status, refused.candidates) == ("no_permitted_backend", 503, ())
    assert "mini: down" in refused.message


def test_quoting_documents_is_the_last_rung_and_only_where_there_are_documents(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "default: mini")
    assert decide(policy, Features(grounded=True), state(policy)).candidates == ("mini", "extractive")
    assert decide(policy, Features(), state(policy)).candidates == ("mini",)
    assert decide(policy, Features(), state(policy, down=("mini",))).outcome == "no_permitted_backend"


def test_a_policy_that_names_the_quoting_backend_first_gets_its_plain_word_even_without_documents(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "default: [mini, extractive]")
    assert decide(policy, Features(), state(policy, down=("mini",))).candidates == ("extractive",)
    assert decide(policy, Features(), state(policy)).candidates == ("mini",)


def test_what_only_one_provider_has_goes_to_backends_that_take_it(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "default: local\nfallback: [mini, claude]")
    able = {"mini": Capabilities(provider_tools=("openai/web_*",)), "claude": Capabilities(opaque=("anthropic",))}
    searching = decide(policy, Features(provider_tools=("openai/web_search",)), state(policy, able=able))
    assert searching.candidates == ("mini",)
    keeping = decide(policy, Features(opaque_parts=("anthropic",)), state(policy, able=able))
    assert keeping.candidates == ("claude",)
    assert [each.detail for each in keeping.excluded if each.backend == "mini"] == ["it does not support parts of anthropic's own"]


def test_a_lock_holds_through_the_fallback(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    decision = decide(policy, Features(data_class="confidential", grounded=True), state(policy))
    assert decision.candidates == ("local",)
    assert "lock:home" in decision.reasons
    assert "excluded:extractive:lock" in decision.reasons


def test_a_lock_holds_although_an_earlier_rule_decides(load: Load, state: MakeState) -> None:
    policy = load(
        BACKENDS.replace("claude: {", "claude: {clearance: restricted, ")
        + "rules: [{name: code, when: {task: code}, use: [claude]}, {name: home, when: {data_class: restricted}, use: [local], lock: true}]\ndefault: mini"
    )
    decision = decide(policy, Features(task="code", data_class="restricted"), state(policy))
    assert decision.rule == "code"
    assert decision.candidates == ("local",)


def test_a_locked_request_refuses_a_pin_to_anything_else(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    decision = decide(policy, Features(model="claude", data_class="restricted", tenant="kind"), state(policy))
    assert (decision.outcome, decision.status, decision.param) == ("not_permitted", 403, "model")


def test_no_backend_sees_data_above_its_clearance(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "default: mini\nfallback: [claude, local]")
    decision = decide(policy, Features(data_class="confidential"), state(policy))
    assert decision.candidates == ("local",)
    assert [(exclusion.backend, exclusion.code) for exclusion in decision.excluded] == [("mini", "clearance"), ("claude", "clearance")]


@pytest.mark.parametrize(
    ("model", "candidates"), [("claude", ("claude",)), ("claude-sonnet-4-5", ("claude", "twin")), ("gpt-5-mini", ("mini",)), ("extractive", ("extractive",))]
)
def test_a_pin_is_by_backend_or_by_model_and_never_falls_back(load: Load, state: MakeState, model: str, candidates: tuple[str, ...]) -> None:
    policy = load(LADDER)
    assert decide(policy, Features(model=model, task="code"), state(policy)).candidates == candidates


def test_a_pin_to_a_backend_that_is_down_is_unavailable(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    assert decide(policy, Features(model="claude"), state(policy, down=("claude",))).status == 503


def test_a_pin_falls_back_where_its_rule_says_so(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    decision = decide(policy, Features(model="claude", tenant="kind"), state(policy))
    assert decision.candidates == ("claude", "mini", "local")
    assert decide(policy, Features(model="claude", tenant="kind"), state(policy, down=("claude",))).candidates == ("mini", "local")


@pytest.mark.parametrize("model", ["nope", "", "gpt-5", "AUTO", "slow"])
def test_an_unknown_model_is_not_found(load: Load, state: MakeState, model: str) -> None:
    policy = load(LADDER)
    decision = decide(policy, Features(model=model), state(policy))
    assert (decision.outcome, decision.status, decision.param) == ("model_not_found", 404, "model")


def test_a_name_that_a_rule_makes_up_can_be_asked_for(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    decision = decide(policy, Features(model="fast", complexity=0.9), state(policy))
    assert (decision.rule, decision.candidates) == ("fast", ("mini", "local"))
    assert "fast" in model_names(policy)
    assert model_names(policy)[0] == "auto"


def test_a_made_up_name_whose_rule_does_not_match_is_not_found(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "rules: [{name: fast, when: {model: fast, tenant: a}, use: [mini]}]\ndefault: claude")
    assert decide(policy, Features(model="fast", tenant="a"), state(policy)).candidates == ("mini",)
    assert decide(policy, Features(model="fast", tenant="b"), state(policy)).outcome == "model_not_found"


def test_a_key_uses_only_what_is_on_its_list(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    assert decide(policy, Features(task="code"), state(policy, allowed_models=("gpt-5-mini",))).candidates == ("mini",)
    assert decide(policy, Features(model="claude"), state(policy, allowed_models=("mini",))).outcome == "not_permitted"
    assert decide(policy, Features(task="code"), state(policy, allowed_models=("auto",))).candidates[0] == "claude"
    assert decide(policy, Features(model="claude"), state(policy, allowed_models=("auto",))).outcome == "not_permitted"
    assert decide(policy, Features(task="code"), state(policy, allowed_models=())).outcome == "no_permitted_backend"


def test_a_backend_without_a_needed_feature_is_passed_over(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    weak = {"claude": Capabilities(streaming=True)}
    assert decide(policy, Features(task="code", needs=("tools",)), state(policy, able=weak)).candidates[0] == "mini"
    pinned = decide(policy, Features(model="claude", needs=("vision", "tools")), state(policy, able=weak))
    assert (pinned.outcome, pinned.status) == ("unsupported_feature", 400)


def test_what_no_backend_can_do_is_the_requests_fault_and_what_one_may_do_later_is_not(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "default: mini\nfallback: [claude]")
    weak = {name: Capabilities(streaming=True) for name in ("mini", "claude")}
    for features, param in (
        (Features(needs=("json_schema",)), "response_format"),
        (Features(needs=("multiple_choices",)), "n"),
        (Features(provider_tools=("openai/teleport",)), "tools"),
        (Features(opaque_parts=("acme",)), "messages"),
    ):
        refused = decide(policy, features, state(policy, able=weak))
        assert (refused.outcome, refused.status, refused.param) == ("unsupported_feature", 400, param)
    later = decide(policy, Features(needs=("tools",)), state(policy, able={"mini": weak["mini"]}, down=("claude",)))
    assert (later.outcome, later.status) == ("no_permitted_backend", 503)


def test_a_request_that_fits_no_window_is_too_long(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "default: twin\nfallback: []")
    assert decide(policy, Features(input_tokens=900, output_tokens=100), state(policy)).outcome == "ok"
    long = decide(policy, Features(input_tokens=901, output_tokens=100), state(policy))
    assert (long.outcome, long.status, long.param) == ("context_length_exceeded", 400, "messages")


def test_a_budget_that_does_not_cover_any_backend_is_402(load: Load, state: MakeState) -> None:
    policy = load(BACKENDS + "default: claude\nfallback: [mini]")
    costs = {"claude": 0.5, "mini": 0.1}
    assert decide(policy, Features(), state(policy, costs=costs, remaining_usd=1.0)).candidates == ("claude", "mini")
    assert decide(policy, Features(), state(policy, costs=costs, remaining_usd=0.2)).candidates == ("mini",)
    spent = decide(policy, Features(), state(policy, costs=costs, remaining_usd=-0.01))
    assert (spent.outcome, spent.status) == ("budget_exceeded", 402)
    assert decide(policy, Features(max_cost_usd=0.05), state(policy, costs=costs)).outcome == "budget_exceeded"


def test_after_the_budget_the_tenants_own_backend_goes_on(load: Load, state: MakeState) -> None:
    policy = load(LADDER.replace("fallback: [mini, local, extractive]", "fallback: [mini, extractive]"))
    costs = {"claude": 0.5, "mini": 0.1}
    decision = decide(policy, Features(task="code", tenant="poor", grounded=True), state(policy, costs=costs, remaining_usd=0.0))
    assert decision.candidates == ("local", "extractive")
    assert "on_budget_end:local" in decision.reasons
    assert decide(policy, Features(task="code", tenant="rich"), state(policy, costs=costs, remaining_usd=0.0)).status == 402


def test_weights_are_kept_over_many_seeds_and_sticky_for_each(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    decisions = [decide(policy, Features(tenant="spread"), state(policy, seed=f"user-{n}")) for n in range(3000)]
    counts = Counter(decision.candidates[0] for decision in decisions)
    assert abs(counts["claude"] / 3000 - 0.6) < 0.03
    assert abs(counts["mini"] / 3000 - 0.3) < 0.03
    assert counts["local"] == 0
    assert {decision.candidates[0]: decision.propensity for decision in decisions} == {"claude": 0.6, "mini": 0.3, "twin": 0.1}
    assert decide(policy, Features(tenant="spread"), state(policy, seed="user-7")).candidates == decisions[7].candidates


def test_a_backend_that_goes_down_moves_only_those_who_had_it(load: Load, state: MakeState) -> None:
    policy = load(LADDER)
    for n in range(300):
        before = decide(policy, Features(tenant="spread"), state(policy, seed=str(n)))
        after = decide(policy, Features(tenant="spread"), state(policy, seed=str(n), down=("mini",)))
        if before.candidates[0] != "mini":
            assert after.candidates[0] == before.candidates[0]
        assert after.propensity == pytest.approx({"claude": 60 / 70, "twin": 10 / 70}[after.candidates[0]])


def test_the_draw_does_not_depend_on_the_order_of_the_table() -> None:
    assert draw({"a": 1, "b": 2, "c": 3}, "seed", "rule") == draw({"c": 3, "a": 1, "b": 2}, "seed", "rule")
    assert all(0 <= unit(str(n)) < 1 for n in range(1000))
    assert unit("a") == 0.7913742705223815


def test_every_outcome_has_a_status() -> None:
    assert sorted(STATUS.values()) == [200, 400, 400, 402, 403, 404, 503]


# Properties, over random policies, requests and states.

NAMES = ("a", "b", "c", "d")
TEXTS = st.sampled_from(("code", "math", "chat"))


def _load(text: str) -> Policy:
    def price_of(name: str, spec: BackendSpec) -> Price | None:
        return Price(input=1.0, output=1.0)

    return load_policy(text, price_of=price_of)


@st.composite
def policies(draw_: st.DrawFn) -> Policy:
    clearances = draw_(st.lists(st.sampled_from(DATA_CLASSES), min_size=4, max_size=4))
    lines = ["version: 1", "backends:"]
    lines += [f"  {name}: {{kind: scripted, clearance: {clearance}}}" for name, clearance in zip(NAMES, clearances, strict=True)]
    lines.append("rules:")
    for index in range(draw_(st.integers(1, 3))):
        use = draw_(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
        weighted = "{weighted: {" + ", ".join(f"{name}: {draw_(st.integers(1, 9))}" for name in use) + "}}"
        written = draw_(st.sampled_from((f"[{', '.join(use)}]", weighted)))
        flags = f"lock: {str(draw_(st.booleans())).lower()}, pin_fallback: {str(draw_(st.booleans())).lower()}"
        lines.append(f"  - {{name: r{index}, when: {{task: {draw_(TEXTS)}}}, use: {written}, {flags}}}")
    lines.append(f"default: {draw_(st.sampled_from(NAMES))}")
    lines.append(f"fallback: [{', '.join(draw_(st.lists(st.sampled_from((*NAMES, 'extractive')), unique=True)))}]")
    try:
        return _load("\n".join(lines))
    except PolicyError as error:  # a rule that could never decide
        assume("never decide" not in str(error))
        raise


REQUESTS = st.builds(
    Features,
    task=TEXTS,
    data_class=st.sampled_from(DATA_CLASSES),
    model=st.sampled_from(("auto", "auto", *NAMES, "nope", "scripted")),
    needs=st.sampled_from(((), ("tools",))),
    grounded=st.booleans(),
    complexity=st.none() | st.floats(0, 1),
)
STATES = st.builds(
    State,
    backends=st.fixed_dictionaries(
        {
            name: st.builds(BackendState, capabilities=st.builds(Capabilities, tools=st.booleans()), ready=st.booleans(), upper_cost_usd=st.floats(0, 2))
            for name in (*NAMES, "extractive")
        }
    ),
    remaining_usd=st.none() | st.floats(-1, 2),
    allowed_models=st.none() | st.lists(st.sampled_from((*NAMES, "auto"))).map(tuple),
    seed=st.text(max_size=4),
)
RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@RELAXED
@given(policies(), REQUESTS, STATES)
def test_a_decision_keeps_every_constraint(policy: Policy, features: Features, state: State) -> None:
    decision = decide(policy, features, state)
    assert (decision.outcome == "ok") == bool(decision.candidates)
    assert len(set(decision.candidates)) == len(decision.candidates)
    assert not set(decision.candidates) & {exclusion.backend for exclusion in decision.excluded}
    locks = [rule for rule in policy.file.rules if rule.lock and rule.when.task == features.task]
    for name in decision.candidates:
        now = state.backends[name]
        assert may_see(policy.backends[name].clearance, features.data_class)
        assert all(name in lock.backends for lock in locks)
        assert now.ready
        assert all(getattr(now.capabilities, need) for need in features.needs)
        assert state.remaining_usd is None or now.upper_cost_usd <= max(state.remaining_usd, 0)
    assert 0 < decision.propensity <= 1
    if features.model in NAMES and decision.candidates and not any(rule.pin_fallback for rule in policy.file.rules):
        assert decision.candidates == (features.model,)


@RELAXED
@given(policies(), REQUESTS, STATES)
def test_equal_inputs_give_equal_decisions_bit_for_bit(policy: Policy, features: Features, state: State) -> None:
    turned = msgspec.structs.replace(state, backends=dict(reversed(list(state.backends.items()))))
    encode = msgspec.json.encode
    first = encode(decide(policy, features, state))
    assert first == encode(decide(policy, features, turned))
    again = msgspec.json.decode(first, type=Decision)
    assert encode(decide(policy, again.features, msgspec.structs.replace(state, seed=again.seed))) == first
