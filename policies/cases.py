"""The policy's own tests: `cases:` in the file, run against the same `decide` that serves requests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct

from adapters.types import Capabilities
from policies.canary import ROLLED_BACK, canaries_of
from policies.decide import BackendState, Decision, State, decide, permitted
from policies.decision import CLASS_OF
from policies.features import Features, highest
from policies.load import BUILT_IN, Policy
from policies.schema import Case, ErrorClass, Given

QUOTING = Capabilities(streaming=True, needs_context=True)
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
"""When a case is asked that does not say when: on a Monday."""

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
        key=given.key,
        key_name=given.key,
        user=given.user,
        conversation=given.conversation,
        tags=given.tags,
        data_class=data_class,
        task=given.task,
        language=given.language or "",
        model=given.model,
        needs=given.needs,
        grounded=given.grounded,
        top_score=given.top_score,
        hits=given.hits if given.hits is not None else int(given.top_score is not None),
        context_tokens=given.context_tokens,
        input_tokens=given.input_tokens,
        output_tokens=given.output_tokens,
        turns=given.turns,
        complexity=given.complexity,
    )
    state = _state(policy, given, capabilities)
    decision = decide(policy, features, state)
    tried = after(decision, given.after)
    failures = []
    first = tried[0] if tried else None
    if expect.backend is not None and first != expect.backend:
        failures.append(f"expected backend {expect.backend!r}, got {first!r}")
    if expect.candidates is not None and tried != expect.candidates:
        failures.append(f"expected candidates {list(expect.candidates)}, got {list(tried)}")
    if expect.rule is not None and decision.rule != expect.rule:
        failures.append(f"expected rule {expect.rule!r}, got {decision.rule!r}")
    if expect.error is not None and decision.outcome != expect.error:
        failures.append(f"expected {expect.error}, got {decision.outcome}")
    cascade = decision.cascade is not None and decision.cascade.live
    ensemble = decision.ensemble is not None and decision.ensemble.live
    for word, wanted, found in (("cascade", expect.cascade, cascade), ("ensemble", expect.ensemble, ensemble)):
        if wanted is not None and wanted != found:
            failures.append(f"expected {'a' if wanted else 'no'} {word}, got {'one' if found else 'none'}{_off(decision)}")
    reachable = {*decision.candidates, *(name for names in decision.fallbacks.values() for name in names), *_drawn(policy, features, state, decision)}
    failures += [f"{backend!r} must never be a candidate, and is" for backend in expect.never if backend in reachable]
    failures += [f"{backend!r} must never be called, and {decision.part_of(backend)}" for backend in expect.never if decision.part_of(backend)]
    if failures and decision.message:
        failures.append(decision.message)
    return CaseResult(name, tuple(failures), decision)


def _off(decision: Decision) -> str:
    plan = decision.cascade or decision.ensemble
    return f" ({plan.off})" if plan is not None and plan.off else ""


def after(decision: Decision, failures: tuple[ErrorClass, ...]) -> tuple[str, ...]:
    """What is tried next when the first backend failed in the first of these ways, the next one in the second, and so on."""
    tried: list[str] = []
    codes: list[str] = []
    for error in failures:
        left = [name for name in decision.order(codes) if name not in tried]
        tried += left[:1]
        codes.append(next(code for code, found in CLASS_OF.items() if found == error))
    return tuple(name for name in decision.order(codes) if name not in tried)


def _state(policy: Policy, given: Given, capabilities: Mapping[str, Capabilities]) -> State:
    states = {
        name: BackendState(
            capabilities=capabilities.get(name, QUOTING if backend.spec.kind == BUILT_IN else ABLE),
            ready=name not in given.unavailable,
            reason="the case says so" if name in given.unavailable else "",
            upper_cost_usd=1.0 if name in given.over_budget else 0.0,
            cost_usd=given.cost_usd.get(name),
            latency_ms=given.latency_ms.get(name),
            queue_depth=given.queue.get(name, 0),
            wait_s=given.wait_s.get(name, 0.0),
        )
        for name, backend in policy.backends.items()
    }
    moment = datetime.fromisoformat(given.at).replace(tzinfo=UTC) if given.at is not None else NOON
    remaining = 0.0 if given.over_budget else None
    no_canary = dict.fromkeys(canaries_of(policy), ROLLED_BACK)  # a case is about what the rule itself says
    return State(backends=states, remaining_usd=remaining, seed=given.seed, now=moment.timestamp(), budget_left=given.budget_left, canaries=no_canary)


def _drawn(policy: Policy, features: Features, state: State, decision: Decision) -> tuple[str, ...]:
    """What the canary of the rule that decided may put before its candidates."""
    rule = canaries_of(policy).get(decision.rule or "")
    return () if rule is None else tuple(name for name in rule[1].use if permitted(policy, features, state, name))
