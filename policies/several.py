"""Answers that more than one backend has a part in: which cascade or ensemble a decision sets up. Pure.

Both name only backends that every constraint permits to the request: what a lock, a clearance, the key's list or a budget leaves out of the
candidates is left out here by the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Struct

from policies.verification.spec import Cascade

if TYPE_CHECKING:
    from policies.decision import Decision, Exclusion, State
    from policies.features import Features
    from policies.load import Policy
    from policies.schema import Rule

Why: TypeAlias = str
"""The code of the constraint that leaves a backend out, empty where none does."""

MOST_CANDIDATES = 5
"""Of an ensemble: each needs a purpose of its own in the books."""


class CascadePlan(Struct, frozen=True):
    """Answers of the backends `on` are verified; the first of `to` that can answers in place of one that fails. `off` says why there is no cascade."""

    on: tuple[str, ...]
    to: tuple[str, ...] = ()
    off: str = ""

    @property
    def live(self) -> bool:
        return not self.off


class EnsemblePlan(Struct, frozen=True):
    """These candidates answer at the same time, and `judge` picks. `off` says why they are tried one after the other instead."""

    candidates: tuple[str, ...]
    judge: str
    off: str = ""

    @property
    def live(self) -> bool:
        return not self.off


def cascade_of(
    spec: Cascade | None,
    strong: str | None,
    candidates: Iterable[str],
    quoting: Iterable[str],
    excluded: Mapping[str, Why],
    forbids: Callable[[str], Why],
) -> CascadePlan | None:
    """The cascade of a decision with these `candidates`; None where the policy has none for them.

    `strong` is the policy's `complexity.strong`. `quoting` backends only quote documents:
    none of them is stronger than another. `excluded` are the decision's, with their codes; `forbids` gives the code of the constraint that keeps
    a backend from this request.
    """
    candidates = tuple(candidates)
    on = tuple(name for name in candidates if spec is not None and name in spec.on)
    if spec is None or not on:
        return None
    if spec.max_escalations == 0:
        return CascadePlan(on)
    named: tuple[str, ...] = spec.stronger or ((strong,) if strong is not None and strong not in spec.on else ())
    named = named or tuple(name for name in candidates[candidates.index(on[0]) + 1 :] if name not in quoting)
    named = tuple(name for name in named if name not in spec.on)
    codes = {name: forbids(name) for name in named}
    to = tuple(name for name in named if not codes[name])
    if to:
        return CascadePlan(on, to)
    codes = codes or {name: code for name, code in excluded.items() if name not in spec.on and name not in quoting}
    return CascadePlan(on, off=next(iter(codes.values()), "no_stronger"))


def ensemble_of(best_of: tuple[str, ...], judge: str, candidates: Iterable[str], forbids: Callable[[str], Why]) -> EnsemblePlan:
    """The ensemble of those of `best_of` that are among the decision's candidates. `forbids` is asked of the judge."""
    permitted = set(candidates)
    able = tuple(name for name in best_of if name in permitted)
    if len(able) < 2:
        return EnsemblePlan(able, judge, "candidates")
    code = forbids(judge)
    return EnsemblePlan(able, judge, f"judge:{code}" if code else "")


def with_others(
    decision: Decision, policy: Policy, state: State, rule: Rule | None, pinned: bool, constraint: Callable[[str, Features], Exclusion | None]
) -> Decision:
    """The decision with its cascade or its ensemble. `constraint` is the first one that forbids a backend to a request with these features."""

    def forbids(name: str, features: Features) -> Why:
        exclusion = constraint(name, features)
        return "" if exclusion is None else exclusion.code

    if decision.outcome != "ok":
        return decision
    features, candidates = decision.features, decision.candidates
    use = None if rule is None or pinned or isinstance(rule.use, tuple) else rule.use
    if use is not None and use.best_of is not None and use.judge is not None:
        ensemble = ensemble_of(use.best_of, use.judge, candidates, lambda name: forbids(name, helping(features)))
        return msgspec.structs.replace(decision, ensemble=ensemble)
    if pinned:  # whoever pins a backend asked for that one's own answer
        return decision
    strong = None if (complexity := policy.complexity(decision.features.tenant)) is None else complexity.strong
    quoting = {name for name, backend in state.backends.items() if backend.capabilities.needs_context}
    excluded = {exclusion.backend: exclusion.code for exclusion in decision.excluded}
    cascade = cascade_of(policy.file.cascade, strong, candidates, quoting, excluded, lambda name: forbids(name, features))
    return decision if cascade is None else msgspec.structs.replace(decision, cascade=cascade)


def helping(features: Features) -> Features:
    """What constraints may ask of a backend that only helps: the same tenant, role and data, none of the request's own needs or sizes."""
    return msgspec.structs.replace(
        features, needs=(), provider_tools=(), opaque_parts=(), grounded=False, input_tokens=0, output_tokens=None, max_cost_usd=None
    )


def told(decision: Decision) -> tuple[str, ...]:
    """What a decision sets up besides its candidates, in sentences."""
    lines = []
    if (cascade := decision.cascade) is not None:
        on = ", ".join(cascade.on)
        if cascade.off:
            lines.append(f"cascade: none, for nobody stronger may answer ({cascade.off})")
        elif cascade.to:
            lines.append(f"cascade: an answer of {on} is verified; where it fails, {' or '.join(cascade.to)} answers in its place")
        else:
            lines.append(f"cascade: an answer of {on} is watched, and nothing is escalated")
    if (ensemble := decision.ensemble) is not None:
        if ensemble.off:
            lines.append(f"ensemble: none ({ensemble.off}); the candidates are tried one after the other")
        else:
            lines.append(f"ensemble: {', '.join(ensemble.candidates)} answer at the same time, and {ensemble.judge} picks")
    return tuple(lines)
