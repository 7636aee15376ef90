"""What cannot work of canaries, shadows and pairs: backends that are not there, that a lock keeps out, or that nothing could be compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from config.prices import FREE, Price
from config.yamlfile import Path
from policies.schema import Complexity, PolicyFile, Rule, Tenant, Use
from policies.trials import REFERENCE, Canary, Pairs, Shadow

Found: TypeAlias = tuple[Path, str]
LONGEST_NAME = 57
"""Characters of the name of a rule with a shadow: its budget is kept under `shadow:NAME`."""


def trial_backends(file: PolicyFile, tenants: Mapping[Path, Tenant]) -> Iterator[tuple[str, Path]]:
    """Every name of a backend, with its place."""
    for index, rule in enumerate(file.rules):
        if rule.canary is not None:
            yield from ((name, ("rules", index, "canary", "use", place)) for place, name in enumerate(rule.canary.use))
        if rule.shadow is not None:
            yield from ((name, ("rules", index, "shadow", "to", place)) for place, name in enumerate(rule.shadow.to))
    if file.shadow is not None:
        yield from ((name, ("shadow", "to", place)) for place, name in enumerate(file.shadow.to))
    for path, complexity in _complexities(file, tenants):
        if complexity.pairs is not None and complexity.pairs.judge != REFERENCE:
            yield complexity.pairs.judge, (*path, "pairs", "judge")


def _complexities(file: PolicyFile, tenants: Mapping[Path, Tenant]) -> Iterator[tuple[Path, Complexity]]:
    """The policy's own, and the tenants'."""
    if file.complexity is not None:
        yield ("complexity",), file.complexity
    yield from (((*path, "complexity"), tenant.complexity) for path, tenant in tenants.items() if tenant.complexity is not None)


def trial_problems(file: PolicyFile, tenants: Mapping[Path, Tenant], prices: Mapping[str, Price]) -> Iterator[Found]:
    """`prices` of the backends that are known."""
    for index, rule in enumerate(file.rules):
        path: Path = ("rules", index)
        if rule.canary is not None:
            yield from _canary(rule, rule.canary, (*path, "canary"), prices)
        if rule.shadow is not None:
            yield from _shadow(rule.shadow, (*path, "shadow"))
            if len(rule.name) > LONGEST_NAME:
                yield (*path, "name"), f"a rule with a shadow has a name of at most {LONGEST_NAME} characters: its budget is kept under it"
            if rule.lock:
                yield from _locked_out(rule, rule.shadow.to, (*path, "shadow", "to"))
    if file.shadow is not None:
        yield from _shadow(file.shadow, ("shadow",))
    for path, complexity in _complexities(file, tenants):
        if complexity.pairs is not None:
            yield from _pairs(complexity.pairs, {complexity.weak, complexity.strong}, (*path, "pairs"))


def _canary(rule: Rule, canary: Canary, path: Path, prices: Mapping[str, Price]) -> Iterator[Found]:
    if not canary.use:
        yield (*path, "use"), "an empty list tries nothing"
    yield from _twice(canary.use, (*path, "use"))
    if "/" in rule.name:
        yield (*path[:-1], "name"), "a rule with a canary has no '/' in its name: POST /admin/canaries/NAME/resume names it"
    drawn = _first(rule)
    for place, name in enumerate(canary.use):
        if name in drawn:
            yield (*path, "use", place), f"the rule itself tries {name!r} first, so there is nothing to compare it with"
    if rule.lock:
        yield from _locked_out(rule, canary.use, (*path, "use"))
    known = all(name in prices for name in (*drawn, *canary.use))
    free = known and all(prices[name] == FREE for name in drawn)
    if canary.guard.cost_ratio is not None and free and any(prices[name] != FREE for name in canary.use):
        message = "cost_ratio would compare with backends that cost nothing, and roll back at once; write guard: {cost_ratio: null} to allow what it costs"
        yield path, message


def _first(rule: Rule) -> set[str]:
    """The backends that the rule itself may try first."""
    if not isinstance(rule.use, Use):
        return {*rule.use[:1]}
    if rule.use.weighted is not None:
        return {name for name, weight in rule.use.weighted.items() if weight > 0}
    return {*(rule.use.ordered[:1] if rule.use.ordered is not None else rule.use.names)}


def _shadow(shadow: Shadow, path: Path) -> Iterator[Found]:
    if not shadow.to:
        yield (*path, "to"), "an empty list sends nothing anywhere"
    yield from _twice(shadow.to, (*path, "to"))


def _pairs(pairs: Pairs, judged: set[str], path: Path) -> Iterator[Found]:
    if pairs.judge in judged:
        yield (*path, "judge"), f"{pairs.judge!r} would judge its own answers; name another backend, or {REFERENCE!r}"


def _locked_out(rule: Rule, names: Iterable[str], path: Path) -> Iterator[Found]:
    for place, name in enumerate(names):
        if name not in rule.backends:
            yield (*path, place), f"{name!r} would never be called: the rule locks its requests to {', '.join(rule.backends)}"


def _twice(names: tuple[str, ...], path: Path) -> Iterator[Found]:
    for place, name in enumerate(names):
        if name in names[:place]:
            yield (*path, place), f"{name!r} stands in this list twice"
