"""The policy's own tests: `cases:` in the file, run against the same `decide` that serves requests."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from adapters.types import Capabilities
from policies.canary import ROLLED_BACK, canaries_of
from policies.decide import BackendState, Decision, State, decide, permitted
from policies.features import Features, highest
from policies.load import BUILT_IN, Policy
from policies.schema import Case

QUOTING = Capabilities(streaming=True, needs_context=True)
ABLE = Capabilities(
    streaming=True,
    tools=True,
    parallel_tools=True,
    vision=True,
    files=True,
    audio=True,
    json_schema="native",
    reasoning=True,
    logprobs=True,
    multiple_choices=True,
)


class CaseResult(Struct, frozen=True):
    """One case and what came out. `failures` are sentences; none means that the case holds."""

    name: str
    failures: tuple[str, ...]
    decision: Decision

    @property
    def ok(self) -> bool:
        return not self.failures


def run_cases(policy: Policy, capabilities: Mapping[str, Capabilities] | None = None) -> list[CaseResult]:
    """Run every case. `capabilities` says what the backends can do; one that is not in there can do everything, except `extractive`, which needs documents."""
    return [run_case(policy, case, case.name or f"case {index + 1}", capabilities or {}) for index, case in enumerate(policy.file.cases)]


def run_case(policy: Policy, case: Case, name: str, capabilities: Mapping[str, Capabilities]) -> CaseResult:
    given, expect = case.given, case.expect
    data_class = highest(policy.tenant(given.tenant).data_class, *([given.data_class] if given.data_class else []))
    features = Features(
        tenant=given.tenant,
        role=given.role,
        data_class=data_class,
        task=given.task,
        model=given.model,
        needs=given.needs,
        grounded=given.grounded,
        input_tokens=given.input_tokens,
        complexity=given.complexity,
    )
    state = _state(policy, given.unavailable, given.over_budget, capabilities)
    decision = decide(policy, features, state)
    failures = []
    first = decision.candidates[0] if decision.candidates else None
    if expect.backend is not None and first != expect.backend:
        failures.append(f"expected backend {expect.backend!r}, got {first!r}")
    if expect.candidates is not None and decision.candidates != expect.candidates:
        failures.append(f"expected candidates {list(expect.candidates)}, got {list(decision.candidates)}")
    if expect.rule is not None and decision.rule != expect.rule:
        failures.append(f"expected rule {expect.rule!r}, got {decision.rule!r}")
    if expect.error is not None and decision.outcome != expect.error:
        failures.append(f"expected {expect.error}, got {decision.outcome}")
    failures += [
        f"{backend!r} must never be a candidate, and is"
        for backend in expect.never
        if backend in (*decision.candidates, *_tried(policy, features, state, decision))
    ]
    if failures and decision.message:
        failures.append(decision.message)
    return CaseResult(name, tuple(failures), decision)


def _state(policy: Policy, unavailable: tuple[str, ...], over_budget: tuple[str, ...], capabilities: Mapping[str, Capabilities]) -> State:
    states = {
        name: BackendState(
            capabilities=capabilities.get(name, QUOTING if backend.spec.kind == BUILT_IN else ABLE),
            ready=name not in unavailable,
            reason="the case says so" if name in unavailable else "",
            upper_cost_usd=1.0 if name in over_budget else 0.0,
        )
        for name, backend in policy.backends.items()
    }
    drawn_never = dict.fromkeys(canaries_of(policy), ROLLED_BACK)  # a case is about what the rule itself says
    return State(backends=states, remaining_usd=0.0 if over_budget else None, canaries=drawn_never)


def _tried(policy: Policy, features: Features, state: State, decision: Decision) -> tuple[str, ...]:
    """What the canary of the rule that decided may put before its candidates."""
    rule = canaries_of(policy).get(decision.rule or "")
    return () if rule is None else tuple(name for name in rule[1].use if permitted(policy, features, state, name))
