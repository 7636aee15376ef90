"""From a logged request and the candidate's decision to the line that the estimates are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import get_args

from policies.backtest.redeciding import distribution, target
from policies.backtest.values import Line
from policies.decision import BackendState, Decision
from policies.features import Features
from policies.load import ConfiguredBackend, Policy
from policies.record import Record
from policies.replaying import limited
from policies.schema import Task

TASKS: tuple[str, ...] = get_args(Task)
_REFUSED = "refused: "


def labels(reference: Policy, candidate: Policy) -> dict[str, str]:
    """What the candidate's backends are called in the log: by the same name where it is the same model of the same server, whatever it is called.

    A name behind which the candidate puts another model is `NAME (MODEL)`: nothing that was logged under the name is about it.
    """
    known = {_identity(backend): name for name, backend in reversed(reference.backends.items())}
    found: dict[str, str] = {}
    for name, backend in candidate.backends.items():
        before = reference.backends.get(name)
        if before is None:
            found[name] = known.get(_identity(backend), name)
        else:
            found[name] = name if _identity(before) == _identity(backend) else f"{name} ({backend.model})"
    return found


def _identity(backend: ConfiguredBackend) -> tuple[str, str, str]:
    return backend.spec.kind, backend.model, str(getattr(backend.spec, "base_url", None) or "")


def line_of(
    record: Record,
    after: Decision,
    candidate: Policy,
    called: Mapping[str, str],
    assumed: Mapping[str, BackendState] | None = None,
    logged: Mapping[str, str] | None = None,
    *,
    kept: bool | None = None,
    statistics: bool = True,
) -> Line:
    """The line of a request. `called` are the candidate's `labels`, `logged` those of the policy that decided then (default: its own), `kept` is `redecide`'s.

    With `statistics` also over which backends the candidate draws it, which costs further decisions where it does.
    """
    was = logged or {}
    before = record.decision
    shares = distribution(candidate, record, after, assumed, kept=kept) if statistics else {target(after): 1.0}
    merged: dict[str, float] = {}
    for name, share in shares.items():
        label = called.get(name, name)
        merged[label] = merged.get(label, 0.0) + share
    embedding = record.embedding if statistics else None
    return Line(
        request_id=record.request_id,
        tenant=record.tenant,
        created_at=record.created_at,
        kind=(record.policy_version, _kind(before)),
        rule=after.rule or _kind(after),
        before=was.get(target(before), target(before)),
        after=called.get(target(after), target(after)),
        shares=tuple(merged.items()),
        propensity=before.propensity,
        drawn=before.seed == record.request_id and not limited(before),
        by_complexity=_kind(after) == "complexity",
        complexity=record.features.complexity,
        task=record.features.task,
        numbers=_numbers(record.features),
        embedding=embedding,
        counts=tuple((was.get(name, name), state.input_tokens) for name, state in record.state.backends.items() if state.input_tokens is not None),
        answered=record.backend == target(before) and record.output_tokens > 0,
        input_tokens=record.input_tokens or record.features.input_tokens,
        output_tokens=record.output_tokens,
        cache_read=record.cache_read_input_tokens,
        cache_written=record.cache_creation_input_tokens,
        cost=record.cost,
        milliseconds=record.latency_ms,
        most_output=record.features.output_tokens,
        success=record.outcome == "ok",
        score=record.score,
    )


def _kind(decision: Decision) -> str:
    """What decided, without which of its backends it chose."""
    if not decision.candidates:
        return _REFUSED + decision.outcome
    if decision.rule is not None:
        return f"rule:{decision.rule}"
    first = decision.reasons[0] if decision.reasons else "nothing"
    return first if first.startswith("pin:") else first.partition(":")[0]


def _numbers(features: Features) -> tuple[float, ...]:
    """The features as numbers of about the same size, for the direct model."""
    complexity = features.complexity
    return (
        0.5 if complexity is None else complexity,
        float(complexity is None),
        math.log1p(features.input_tokens) / 10,
        math.log1p(features.output_tokens or 0) / 10,
        float(features.output_tokens is None),
        math.log1p(features.turns),
        float(features.grounded),
        float(len(features.needs)),
        *(float(features.task == task) for task in TASKS),
    )
