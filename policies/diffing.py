"""What another policy would have done with recorded requests: which go elsewhere, why, and what that would have cost. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from adapters.cost import cost, usd_float
from adapters.types import Capabilities, Usage
from policies.complexity.playing import Played, under
from policies.decide import decide
from policies.decision import BackendState, Decision, State
from policies.load import Policy
from policies.record import Record

EXAMPLES = 5
"""Requests that are named for each group of changes."""

Kind: TypeAlias = Literal["backend", "outcome", "rule", "fallback"]


class ChangeGroup(Struct, frozen=True, kw_only=True):
    """Requests that change in the same way. `before` and `after` are the first candidate, or the code with which the request is refused.

    `kind` says what changes: whether it is answered at all (`outcome`), by whom (`backend`), only by which rule (`rule`), or only who comes after
    the first (`fallback`). Costs are those of the `priced` requests: their recorded tokens at both backends' prices.
    """

    kind: Kind
    before: str
    after: str
    why: str
    requests: int
    priced: int
    cost_before_usd: float
    cost_after_usd: float
    examples: tuple[str, ...]


class PolicyDiff(Struct, frozen=True, kw_only=True):
    """What changes between two policies over recorded requests, the most frequent change first.

    `assumed` counts changed requests that go to a backend of which nothing was recorded then: it is taken to be ready. `unknown` counts requests that the
    new policy decides by their complexity, and that were recorded without one. `text` is the difference of the two texts.
    """

    requests: int
    changed: int
    assumed: int
    unknown: int
    priced: int
    cost_before_usd: float
    cost_after_usd: float
    groups: tuple[ChangeGroup, ...]
    text: str = ""


class _Sum:
    def __init__(self) -> None:
        self.requests = self.priced = self.before = self.after = 0
        self.examples: list[str] = []


class Differ:
    """Decides records under both policies. `capabilities` says what the new policy's backends can do."""

    def __init__(self, old: Policy, new: Policy, capabilities: Mapping[str, Capabilities]) -> None:
        self._old, self._new = old, new
        self._able = capabilities
        self._played = Played(new)
        self._fresh = tuple(
            name for name, backend in new.backends.items() if name in capabilities and (name not in old.backends or old.backends[name].spec != backend.spec)
        )
        self._by_complexity = new.asks_complexity
        self._requests = self._changed = self._assumed = self._unknown = 0
        self._groups: dict[tuple[Kind, str, str, str], _Sum] = {}

    def add(self, record: Record) -> None:
        """Count one request."""
        self._requests += 1
        if self._by_complexity and record.features.complexity is None:
            self._unknown += 1
        before = decide(self._old, record.features, record.state)
        tenant = record.features.tenant
        if self._old.complexity(tenant) != self._new.complexity(tenant):
            record = under(record, self._played.thresholds(record))
        after = decide(self._new, record.features, self._state(record.state))
        self._played.decided(record, after)
        kind = kind_of(before, after)
        if kind is None:
            return
        self._changed += 1
        if after.candidates and after.candidates[0] in self._fresh:
            self._assumed += 1
        group = self._groups.setdefault((kind, _first(before), _first(after), why(before, after)), _Sum())
        group.requests += 1
        if len(group.examples) < EXAMPLES:
            group.examples.append(record.request_id)
        if record.backend and record.input_tokens and before.candidates and after.candidates:
            group.priced += 1
            group.before += self._cost(self._old, before.candidates[0], record)
            group.after += self._cost(self._new, after.candidates[0], record)

    def _state(self, state: State) -> State:
        """The state as the new policy would have seen it: a backend that is new, or is another one under its old name, is taken to be ready."""
        if not self._fresh:
            return state
        fresh = {name: BackendState(capabilities=self._able[name]) for name in self._fresh}
        return msgspec.structs.replace(state, backends={**state.backends, **fresh})

    def _cost(self, policy: Policy, name: str, record: Record) -> int:
        used = Usage(
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            cache_read_input_tokens=record.cache_read_input_tokens,
            cache_creation_input_tokens=record.cache_creation_input_tokens,
        )
        return cost(used, policy.backends[name].price)

    def result(self, text: str = "") -> PolicyDiff:
        groups = [
            ChangeGroup(
                kind=kind,
                before=before,
                after=after,
                why=reason,
                requests=each.requests,
                priced=each.priced,
                cost_before_usd=usd_float(each.before),
                cost_after_usd=usd_float(each.after),
                examples=tuple(each.examples),
            )
            for (kind, before, after, reason), each in self._groups.items()
        ]
        every = self._groups.values()
        return PolicyDiff(
            requests=self._requests,
            changed=self._changed,
            assumed=self._assumed,
            unknown=self._unknown,
            priced=sum(each.priced for each in every),
            cost_before_usd=usd_float(sum(each.before for each in every)),
            cost_after_usd=usd_float(sum(each.after for each in every)),
            groups=tuple(sorted(groups, key=lambda group: (-group.requests, group.before, group.after, group.why))),
            text=text,
        )


def kind_of(before: Decision, after: Decision) -> Kind | None:
    """What changes between two decisions, the most important first; None where nothing does."""
    if before.outcome != after.outcome:
        return "outcome"
    if before.candidates[:1] != after.candidates[:1]:
        return "backend"
    if before.rule != after.rule or _source(before) != _source(after):
        return "rule"
    return "fallback" if before.candidates != after.candidates else None


def why(before: Decision, after: Decision) -> str:
    """The reason codes that tell the two apart: what decided then and what decides now, or why the first candidate is left out now."""
    was, now = _reason(before), _reason(after)
    if was != now:
        return f"{was} -> {now}"
    left_out = next((f"excluded:{each.backend}:{each.code}" for each in after.excluded if each.backend in before.candidates[:1]), None)
    let_in = next((f"no longer excluded:{each.backend}:{each.code}" for each in before.excluded if each.backend in after.candidates[:1]), None)
    return "; ".join([was, *(reason for reason in (left_out, let_in) if reason is not None)])


def _reason(decision: Decision) -> str:
    """The first reason code, without what differs between two requests that are decided alike."""
    reason = decision.reasons[0] if decision.reasons else decision.outcome
    source, _, rest = reason.partition(":")
    return f"{source}:{rest.rpartition(':')[2]}" if source == "complexity" else reason


def _source(decision: Decision) -> str:
    """What decided, without the numbers: `rule`, `pin`, `complexity`, `default`."""
    return _reason(decision).partition(":")[0]


def _first(decision: Decision) -> str:
    return decision.candidates[0] if decision.candidates else decision.outcome


def text_diff(old: str, new: str, before: str, after: str) -> str:
    """The difference of two policies' texts, as `diff -u` shows it."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), before, after, lineterm="")
    return "\n".join(lines)
