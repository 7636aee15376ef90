"""The policy's own tests: `cases:` in the file, run against the same `decide` that serves requests."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from adapters.types import Capabilities
from policies.decide import BackendState, Decision, State, decide
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
    decision = decide(policy, features, _state(policy, given.unavailable, given.over_budget, capabilities))
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
    cascade = decision.cascade is not None and decision.cascade.live
    ensemble = decision.ensemble is not None and decision.ensemble.live
    for word, wanted, found in (("cascade", expect.cascade, cascade), ("ensemble", expect.ensemble, ensemble)):
        if wanted is not None and wanted != found:
            failures.append(f"expected {'a' if wanted else 'no'} {word}, got {'one' if found else 'none'}{_off(decision)}")
    failures += [f"{backend!r} must never be a candidate, and is" for backend in expect.never if backend in decision.candidates]
    failures += [f"{backend!r} must never be called, and {decision.part_of(backend)}" for backend in expect.never if decision.part_of(backend)]
    if failures and decision.message:
        failures.append(decision.message)
    return CaseResult(name, tuple(failures), decision)


def _off(decision: Decision) -> str:
    plan = decision.cascade or decision.ensemble
    return f" ({plan.off})" if plan is not None and plan.off else ""


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
    return State(backends=states, remaining_usd=0.0 if over_budget else None)
