"""Which cascade or ensemble a decision sets up: only of backends that every constraint permits."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.backend import DATA_CLASSES, may_see
from adapters.types import Capabilities
from policies.cases import run_cases
from policies.decide import BackendState, Decision, State, decide
from policies.features import Features
from policies.load import Policy
from policies.matching import matches
from policies.several import CascadePlan, EnsemblePlan, told
from tests.policies.conftest import ABLE, price_of
from tests.policies.test_load import errors

Load = Callable[..., Policy]
MakeState = Callable[..., State]
BACKENDS = """version: 1
backends:
  local: {kind: llama, model: some/llama}
  mini: {kind: openai, model: gpt-5-mini, clearance: internal}
  claude: {kind: anthropic, model: claude-sonnet-4-5, clearance: confidential}
  gemini: {kind: gemini, model: gemini-2.5-pro, clearance: internal}
"""


def decided(load: Load, state: MakeState, text: str, features: Features | None = None, **rest: object) -> Decision:
    policy = load(BACKENDS + text)
    return decide(policy, features or Features(), state(policy, **rest))


@pytest.mark.parametrize(
    ("text", "to"),
    [
        ("cascade: {on: [local], to: claude}\ncomplexity: {weak: local, strong: gemini, threshold: 0.9}", ("claude",)),
        ("cascade: {on: [local], to: [claude, mini]}", ("claude", "mini")),
        ("cascade: {on: [local]}\ncomplexity: {weak: local, strong: gemini, threshold: 0.9}", ("gemini",)),
        ("cascade: {on: [local]}\nfallback: [mini, extractive]", ("mini",)),
        ("cascade: {on: [local, mini]}\nfallback: [mini, gemini]", ("gemini",)),
    ],
    ids=["to", "to, in order", "the complexity's strong one", "the next candidate", "none of those that are verified themselves"],
)
def test_the_next_stronger_one_is_what_the_policy_says_then_the_strong_one_then_the_next(load: Load, state: MakeState, text: str, to: tuple[str, ...]) -> None:
    decision = decided(load, state, text + "\ndefault: local", Features(complexity=0.1, grounded=True))
    assert decision.cascade is not None
    assert (decision.cascade.to, decision.cascade.live) == (to, True)


def test_the_example_of_the_documentation_is_a_cascade(load: Load, state: MakeState) -> None:
    text = "complexity: {weak: local, strong: claude, threshold: 0.5}\ndefault: mini\n"
    text += "cascade: {on: [local], verify: [citations, logprob, format], max_escalations: 1}"
    assert decided(load, state, text, Features(complexity=0.1)).cascade == CascadePlan(("local",), ("claude",))
    assert decided(load, state, text, Features(complexity=0.9)).cascade is None, "the strong one answers at once"
    assert decided(load, state, text, Features(model="local", complexity=0.1)).cascade is None, "who pins a backend wants its own answer"


def test_where_nobody_stronger_is_permitted_there_is_no_cascade_and_it_says_why(load: Load, state: MakeState) -> None:
    text = "cascade: {on: [local], to: [mini]}\ndefault: local\nrules: [{name: home, when: {tenant: home}, use: [local], lock: true}]"
    for features, rest, off in (
        (Features(data_class="restricted"), {}, "clearance"),
        (Features(tenant="home"), {}, "lock"),
        (Features(), {"down": ("mini",)}, "unavailable"),
        (Features(), {"costs": {"mini": 2.0}, "remaining_usd": 1.0}, "budget"),
        (Features(max_cost_usd=1.0), {"costs": {"mini": 2.0}}, "max_cost"),
        (Features(needs=("tools",)), {"able": {"mini": Capabilities()}}, "feature"),
        (Features(), {"allowed_models": ("local",)}, "not_allowed"),
    ):
        assert decided(load, state, text, features, **rest).cascade == CascadePlan(("local",), off=off), off


def test_with_no_escalations_answers_are_only_watched(load: Load, state: MakeState) -> None:
    assert decided(load, state, "cascade: {on: [local], max_escalations: 0}\ndefault: local").cascade == CascadePlan(("local",))


ENSEMBLE = "rules: [{name: hard, use: {best_of: [mini, claude, gemini], judge: claude}}]\n"


def test_an_ensembles_candidates_are_those_that_are_permitted_and_its_judge_must_be(load: Load, state: MakeState) -> None:
    decision = decided(load, state, ENSEMBLE)
    assert (decision.candidates, decision.rule) == (("mini", "claude", "gemini"), "hard")
    assert decision.ensemble == EnsemblePlan(("mini", "claude", "gemini"), "claude")
    assert decided(load, state, ENSEMBLE, down=("gemini",)).ensemble == EnsemblePlan(("mini", "claude"), "claude")
    assert decided(load, state, ENSEMBLE, down=("gemini", "mini")).ensemble == EnsemblePlan(("claude",), "claude", "candidates")
    judged = ENSEMBLE.replace("judge: claude", "judge: local")
    assert decided(load, state, judged, down=("local",)).ensemble == EnsemblePlan(("mini", "claude", "gemini"), "local", "judge:unavailable")
    assert decided(load, state, judged, allowed_models=("mini", "claude")).ensemble == EnsemblePlan(("mini", "claude"), "local", "judge:not_allowed")
    assert decided(load, state, ENSEMBLE, Features(model="mini")).ensemble is None


def test_a_judge_needs_nothing_that_the_request_needs(load: Load, state: MakeState) -> None:
    judged = ENSEMBLE.replace("judge: claude", "judge: local")
    decision = decided(load, state, judged, Features(needs=("vision",), input_tokens=10**6), able={"local": Capabilities(context_window=1000)})
    assert decision.ensemble is not None
    assert decision.ensemble.live


def test_what_an_ensemble_answers_is_not_verified_once_more(load: Load, state: MakeState) -> None:
    assert decided(load, state, ENSEMBLE + "cascade: {on: [mini], to: claude}").cascade is None


def test_a_decision_that_was_recorded_before_there_were_cascades_still_reads(load: Load, state: MakeState) -> None:
    decision = decided(load, state, "default: local\ncascade: {on: [local], to: mini}")
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision
    before = msgspec.to_builtins(decision)
    del before["cascade"], before["ensemble"]
    assert msgspec.convert(before, Decision).cascade is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cascade: {on: [local], to: [claude, mini]}", "cascade: an answer of local is verified; where it fails, claude or mini answers in its place"),
        ("cascade: {on: [local], max_escalations: 0}", "cascade: an answer of local is watched, and nothing is escalated"),
        ("cascade: {on: [local], to: gemini}", "cascade: none, for nobody stronger may answer (unavailable)"),
        (ENSEMBLE, "ensemble: mini, claude answer at the same time, and claude picks"),
        (ENSEMBLE.replace("judge: claude", "judge: gemini"), "ensemble: none (judge:unavailable); the candidates are tried one after the other"),
        ("", None),
    ],
)
def test_an_explanation_says_what_would_run_besides(load: Load, state: MakeState, text: str, said: str | None) -> None:
    assert told(decided(load, state, text + "\ndefault: local", down=("gemini",))) == (() if said is None else (said,))


# --- cases ---------------------------------------------------------------------------------------------------------------------------


def test_cases_say_whether_answers_are_verified_or_judged_and_who_may_never_have_a_part(load: Load) -> None:
    text = (
        BACKENDS
        + """
rules: [{name: hard, when: {task: math}, use: {best_of: [mini, claude], judge: gemini}}]
default: local
cascade: {on: [local], to: claude}
cases:
  - {given: {}, expect: {cascade: true, ensemble: false, backend: local}}
  - {given: {task: math}, expect: {ensemble: true, cascade: false}}
  - {given: {data_class: restricted}, expect: {cascade: false, never: [claude]}}
  - {given: {}, expect: {cascade: false}}
  - {given: {data_class: restricted}, expect: {cascade: true}}
  - {given: {}, expect: {never: [claude]}}
  - {given: {task: math}, expect: {never: [gemini]}}
"""
    )
    results = [result.failures for result in run_cases(load(text))]
    assert results[:3] == [(), (), ()]
    assert results[3:] == [
        ("expected no cascade, got one",),
        ("expected a cascade, got none (clearance)",),
        ("'claude' must never be called, and may answer where a cascade's check fails",),
        ("'gemini' must never be called, and judges an ensemble",),
    ]


# --- what is refused -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("cascade: {on: [locl]}", "policy.yaml:7:16: cascade.on[0]: there is no backend 'locl'; did you mean 'local'?"),
        ("cascade: {on: []}", "cascade.on: must not be empty"),
        ("cascade: {on: [local, local]}", "cascade.on[1]: 'local' stands in this list twice"),
        ("cascade: {on: [local], to: [claud]}", "cascade.to[0]: there is no backend 'claud'; did you mean 'claude'?"),
        ("cascade: {on: [local], to: local}", "cascade.to: 'local' stands in `on` too: a backend cannot answer in place of itself"),
        ("cascade: {on: [local], to: []}", "cascade.to: an empty list"),
        ("cascade: {on: [local], to: extractive}", "cascade.to: 'extractive' only quotes documents"),
        ("cascade: {on: [local], to: mini, max_escalations: 0}", "cascade.to: does nothing with max_escalations: 0"),
        ("cascade: {on: [local], max_escalations: 2}", "cascade.max_escalations: must be at most 1, found 2"),
        ("cascade: {on: [local], verify: [logprb]}", "cascade.verify[0]: expected one of logprob, length, hedging, refusal, citations, format, agreement"),
        ("cascade: {on: [local], verify: [length, length]}", "cascade.verify[1]: 'length' stands in this list twice"),
        (
            "cascade: {on: [local], verify: [length], stream: {first_tokens: 20}}",
            "cascade: stream: {first_tokens: …} needs a signal that the first tokens show",
        ),
        ("cascade: {on: [local], stream: {first_tokens: 0}}", "cascade.stream.first_tokens: must be at least 1, found 0"),
        ("cascade: {on: [local], stream: all}", "cascade.stream: expected"),
        ("cascade: {on: [local], min_characters: 9, max_characters: 3}", "min_characters (9) is more than max_characters (3)"),
        ("cascade: {on: [local], min_mean_logprob: 0.5}", "cascade.min_mean_logprob: must be at most 0, found 0.5"),
        ("rules: [{name: r, use: {best_of: [mini], judge: claude}}]", "rules[0].use: best_of has 1: with fewer than two backends there is nothing to judge"),
        ("rules: [{name: r, use: {best_of: [mini, local, claude, gemini, mini, local], judge: claude}}]", "at most 5 backends may answer at the same time"),
        ("rules: [{name: r, use: {best_of: [mini, mini], judge: claude}}]", "rules[0].use.best_of[1]: 'mini' stands in this list twice"),
        ("rules: [{name: r, use: {best_of: [mini, clade], judge: claude}}]", "rules[0].use.best_of[1]: there is no backend 'clade'; did you mean 'claude'?"),
        ("rules: [{name: r, use: {best_of: [mini, local], judge: clude}}]", "rules[0].use.judge: there is no backend 'clude'; did you mean 'claude'?"),
        ("rules: [{name: r, use: {best_of: [mini, local]}}]", "rules[0].use: best_of needs judge: the backend that picks one of the answers"),
        ("rules: [{name: r, use: {weighted: {mini: 1}, judge: claude}}]", "rules[0].use: judge does nothing without best_of"),
        ("rules: [{name: r, use: {best_of: [mini, local], judge: extractive}}]", "it cannot judge"),
        ("rules: [{name: r, use: {}}]", "rules[0].use: one of ordered, weighted, cheapest, fastest, best_of says which backends answer; found none of them"),
        (
            "rules: [{name: r, when: {data_class: confidential}, use: {best_of: [local, claude], judge: mini}, lock: true}]",
            "whose clearance is lower: 'mini' (internal)",
        ),
    ],
)
def test_a_cascade_or_an_ensemble_that_could_never_work_is_refused(load: Load, rest: str, message: str) -> None:
    found = errors(load, BACKENDS + rest + "\ndefault: mini")
    assert any(message in line for line in found), found


# --- locks, clearance, lists and budgets hold for every part ---------------------------------------------------------------------------

NAMES = ("local", "mini", "claude", "gemini")
some = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)


@st.composite
def policies(draw: st.DrawFn) -> str:
    lines = [BACKENDS, "default: [" + ", ".join(draw(some)) + "]", "fallback: [" + ", ".join(draw(some)) + "]"]
    on = draw(some)[:3]
    to = [name for name in draw(some) if name not in on]
    if draw(st.booleans()):
        lines.append(f"cascade: {{on: [{', '.join(on)}]" + (f", to: [{', '.join(to)}]" if to else "") + "}")
    if draw(st.booleans()):
        weak, strong = draw(st.permutations(NAMES))[:2]
        lines.append(f"complexity: {{weak: {weak}, strong: {strong}, threshold: 0.5}}")
    lines.append("rules:\n  - {name: home, when: {tenant: locked}, use: [" + ", ".join(draw(some)) + "], lock: true}")
    if len(best := draw(some)) > 1:
        lines.append(f"  - {{name: hard, when: {{task: math}}, use: {{best_of: [{', '.join(best)}], judge: {draw(st.sampled_from(NAMES))}}}}}")
    return "\n".join(lines)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    text=policies(),
    tenant=st.sampled_from(("locked", "free")),
    data_class=st.sampled_from(DATA_CLASSES),
    task=st.sampled_from(("math", "chat")),
    model=st.sampled_from(("auto", *NAMES)),
    complexity=st.sampled_from((None, 0.1, 0.9)),
    down=st.sets(st.sampled_from(NAMES)),
    allowed=st.none() | some,
    costs=st.fixed_dictionaries({name: st.sampled_from((0.0, 2.0)) for name in NAMES}),
    remaining=st.sampled_from((None, 1.0)),
)
def test_no_part_of_a_cascade_or_an_ensemble_is_ever_outside_of_what_is_permitted(
    text: str,
    tenant: str,
    data_class: str,
    task: str,
    model: str,
    complexity: float | None,
    down: set[str],
    allowed: list[str] | None,
    costs: dict[str, float],
    remaining: float | None,
) -> None:
    from policies.load import load_policy

    policy = load_policy(text, price_of=price_of)
    features = Features(tenant=tenant, data_class=data_class, task=task, model=model, complexity=complexity)  # type: ignore[arg-type]
    states = {name: BackendState(capabilities=ABLE, ready=name not in down, upper_cost_usd=costs.get(name, 0.0)) for name in policy.backends}
    state = State(backends=states, remaining_usd=remaining, allowed_models=None if allowed is None else tuple(allowed))
    decision = decide(policy, features, state)
    parts = set(decision.candidates)
    if decision.cascade is not None:
        parts |= {*decision.cascade.to, *decision.cascade.on}
        assert not set(decision.cascade.on) & set(decision.cascade.to)
        assert model == "auto"
    if decision.ensemble is not None and decision.ensemble.live:
        parts |= {decision.ensemble.judge, *decision.ensemble.candidates}
        assert model == "auto"
    locks = [rule for rule in policy.file.rules if rule.lock and matches(rule.when, features, state)]
    for name in parts:
        assert all(name in lock.backends for lock in locks)
        assert may_see(policy.backends[name].clearance, features.data_class)
        assert name not in down
        assert remaining is None or costs.get(name, 0.0) <= remaining
        assert allowed is None or name in allowed or policy.backends[name].spec.model in allowed
