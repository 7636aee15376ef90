from __future__ import annotations

from collections.abc import Callable

from adapters.types import Capabilities
from policies.cases import run_cases
from policies.load import Policy

TEXT = """version: 1
backends:
  local: {kind: llama, model: some/llama}
  mini: {kind: openai, model: gpt-5-mini}
rules:
  - {name: home, when: {data_class: restricted}, use: [local], lock: true}
  - {name: tools, when: {needs: tools}, use: [local, mini]}
default: mini
tenants: {bank: {data_class: restricted}}
cases:
  - {name: holds, given: {data_class: restricted}, expect: {backend: local, rule: home, never: [mini]}}
  - {name: the tenant raises the class, given: {tenant: bank, data_class: public}, expect: {candidates: [local]}}
  - {name: down, given: {unavailable: [mini]}, expect: {error: no_permitted_backend}}
  - {name: broke, given: {over_budget: [mini]}, expect: {error: budget_exceeded}}
  - {name: pinned, given: {model: mini, data_class: restricted}, expect: {error: not_permitted}}
  - {given: {task: code}, expect: {backend: local, rule: tools, never: [mini]}}
  - {given: {needs: [tools]}, expect: {backend: mini}}
"""


def test_cases_that_hold_have_no_failures_and_the_others_say_what_came_out(load: Callable[..., Policy]) -> None:
    results = run_cases(load(TEXT))
    assert [result.ok for result in results] == [True, True, True, True, True, False, False]
    assert results[5].name == "case 6"
    assert results[5].failures == ("expected backend 'local', got 'mini'", "expected rule 'tools', got None", "'mini' must never be a candidate, and is")
    assert results[6].failures == ("expected backend 'mini', got 'local'",)


def test_what_the_backends_can_do_is_taken_into_account(load: Callable[..., Policy]) -> None:
    results = run_cases(load(TEXT), {"local": Capabilities(streaming=True)})
    assert results[6].ok
