"""What another policy would have done with recorded requests."""

from __future__ import annotations

import random

import msgspec
import pytest

from adapters.types import Capabilities
from config.prices import Price
from config.settings import Settings
from policies.decide import decide
from policies.decision import BackendState, State
from policies.diffing import EXAMPLES, Differ, PolicyDiff, text_diff
from policies.features import Features
from policies.load import Policy, load_policy
from policies.record import Record
from router.backends import load_kinds

OLD = """
version: 1
backends:
  mini: {kind: scripted, price: {input: 1, output: 4}}
  large: {kind: scripted, price: {input: 10, output: 40}}
rules:
  - {name: code, when: {task: code}, use: [large, mini]}
  - {name: fast, when: {model: fast}, use: [mini]}
default: mini
fallback: [large]
"""
ABLE = Capabilities(tools=True)


@pytest.fixture(scope="module", autouse=True)
def kinds() -> None:
    load_kinds(Settings())


def policy(text: str = OLD) -> Policy:
    return load_policy(text, price_of=lambda name, spec: Price(input=1, output=1))


def record(number: int, features: Features) -> Record:
    names = ("mini", "large", "extractive")
    seen = State(backends=dict.fromkeys(names, BackendState(capabilities=ABLE)), seed="s")
    decision = decide(policy(), features, seen)
    return Record(
        request_id=f"r{number}",
        tenant="acme",
        created_at=float(number),
        policy_version=1,
        policy_hash="",
        decision=decision,
        features=features,
        state=seen,
        backend=decision.candidates[0] if decision.candidates else "",
        input_tokens=1_000,
        output_tokens=100,
    )


def compared(new: str, *records: Record, able: dict[str, Capabilities] | None = None) -> PolicyDiff:
    differ = Differ(policy(), policy(new), able or {})
    for each in records:
        differ.add(each)
    return differ.result()


CODE, CHAT, FAST = Features(task="code"), Features(), Features(model="fast")


def test_the_same_policy_changes_nothing() -> None:
    found = compared(OLD + "# a comment\n", *(record(number, each) for number, each in enumerate((CODE, CHAT, FAST))))
    assert (found.requests, found.changed, found.groups) == (3, 0, ())


def test_changes_are_grouped_by_from_to_and_why_with_their_cost_and_examples() -> None:
    new = OLD.replace("use: [large, mini]", "use: [mini, large]")
    found = compared(new, *(record(number, CODE) for number in range(8)), record(9, CHAT))
    assert (found.requests, found.changed, found.priced) == (9, 8, 8)
    [group] = found.groups
    assert (group.kind, group.before, group.after, group.why, group.requests) == ("backend", "large", "mini", "rule:code", 8)
    assert group.examples == tuple(f"r{number}" for number in range(EXAMPLES))
    assert group.cost_before_usd == pytest.approx(8 * (1_000 * 10 + 100 * 40) / 1e6)
    assert group.cost_after_usd == pytest.approx(8 * (1_000 * 1 + 100 * 4) / 1e6)


def test_another_rule_with_the_same_backend_is_a_change_of_rule_only() -> None:
    new = OLD.replace("rules:\n", "rules:\n  - {name: programs, when: {task: code, role: member}, use: [large, mini]}\n")
    [group] = compared(new, record(1, CODE)).groups
    assert (group.kind, group.before, group.after, group.why) == ("rule", "large", "large", "rule:code -> rule:programs")


def test_a_request_that_nothing_answers_any_more_changes_its_outcome() -> None:
    new = OLD.replace("  - {name: fast, when: {model: fast}, use: [mini]}\n", "")
    [group] = compared(new, record(1, FAST)).groups
    assert (group.kind, group.before, group.after, group.why) == ("outcome", "mini", "model_not_found", "rule:fast -> pin:fast")
    assert group.priced == 0


def test_only_who_comes_after_the_first_is_a_change_of_the_fallback() -> None:
    [group] = compared(OLD.replace("fallback: [large]", "fallback: []"), record(1, CHAT)).groups
    assert (group.kind, group.before, group.after) == ("fallback", "mini", "mini")


def test_a_backend_that_the_state_does_not_know_is_taken_to_be_ready_and_counted() -> None:
    new = OLD.replace("default: mini", "default: fresh").replace("rules:\n", "  fresh: {kind: scripted, price: {input: 2, output: 2}}\nrules:\n")
    found = compared(new, record(1, CHAT), record(2, CODE), able={"fresh": ABLE, "mini": ABLE})
    assert (found.changed, found.assumed) == (1, 1)
    assert (found.groups[0].before, found.groups[0].after) == ("mini", "fresh")


def test_a_backend_that_is_another_one_under_its_old_name_counts_as_ready_and_as_able_as_it_is_now() -> None:
    asked = record(1, Features(needs=("vision",)))
    assert asked.decision.outcome == "unsupported_feature"
    new = OLD.replace("mini: {kind: scripted,", "mini: {kind: scripted, model: sees,")
    found = compared(new, asked, able={"mini": Capabilities(vision=True), "large": ABLE})
    [group] = found.groups
    assert (group.kind, group.before, group.after, found.assumed) == ("outcome", "unsupported_feature", "mini", 1)


def test_requests_recorded_without_a_complexity_are_told_where_the_new_policy_asks_for_it() -> None:
    new = OLD.replace("default: mini", "complexity: {weak: mini, strong: large, threshold: 0.5}\ndefault: mini")
    hard = [record(number, Features(complexity=0.5 + number / 100)) for number in range(10)]
    found = compared(new, record(99, CHAT), *hard)
    assert (found.requests, found.changed, found.unknown) == (11, 11 - 1, 1)
    [group] = found.groups
    assert (group.why, group.after, group.requests) == ("default -> complexity:strong", "large", 10), "one group, whatever the scores"


def test_the_texts_are_compared_too() -> None:
    shown = text_diff("a: 1\nb: 2\n", "a: 1\nb: 3\n", "version 1", "version 2")
    assert shown.splitlines()[:2] == ["--- version 1", "+++ version 2"]
    assert "-b: 2\n+b: 3" in shown
    assert text_diff("a: 1\n", "a: 1\n", "x", "y") == ""


def test_a_target_that_changes_moves_its_own_threshold_over_the_records() -> None:
    aimed = OLD + "complexity: {weak: mini, strong: large, target: {strong_share: %s}}\n"
    chance = random.Random(1)
    asked = [record(number, msgspec.structs.replace(CHAT, complexity=round(chance.random(), 4))) for number in range(1_000)]
    found = compared(aimed % 0.3, *asked)
    strong = sum(group.requests for group in found.groups if group.after == "large")
    assert abs(strong / len(asked) - 0.3) <= 0.03
