"""Level 0: logged requests decided again. Under the policy that decided them the answer is the logged one, bit for bit; under another one, what changes.

`policy diff` and the backtest share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from policies.decide import decide
from policies.decision import BackendState, Decision, State
from policies.load import Policy
from policies.record import Record
from policies.replaying import RATE_LIMIT, limited, passed_over

EXAMPLES = 3
"""Ids of requests that are named for each kind of change."""

_DRAWS = 64
"""Seeds tried where it is not known what else might have been drawn."""


class Change(Struct, frozen=True, kw_only=True):
    """A request that would go elsewhere. `before` and `after` are the first candidates, or `refused: CODE`; `why_…` the reason that decided each."""

    request_id: str
    tenant: str
    before: str
    after: str
    why_before: str
    why_after: str


class Move(Struct, frozen=True, kw_only=True):
    """All requests that change alike. `examples` are ids of some of them."""

    before: str
    after: str
    why_before: str
    why_after: str
    requests: int
    tenants: tuple[str, ...]
    examples: tuple[str, ...]


class Changes(Struct, frozen=True, kw_only=True):
    """What a policy changes: `same` decisions, `reordered` ones with another list of candidates behind the same first one, and the moves, most first."""

    requests: int
    same: int
    reordered: int
    changed: int
    moves: tuple[Move, ...]


def redecide(policy: Policy, record: Record, assumed: Mapping[str, BackendState] | None = None, *, kept: bool | None = None) -> Decision:
    """The decision for a logged request, from what it was decided from. Pure; raises nothing.

    `assumed` are states of backends that are new, or another model under an old name: without one, a new backend counts as not running. What was passed
    over then because its own rate limit was reached is passed over again. `kept`: the thresholds of complexity that were in force then hold for this
    policy too, as they do for one with the same table (default: for the very policy that decided).
    """
    return _decide(policy, record, _state(policy, record, assumed, kept))


def _decide(policy: Policy, record: Record, state: State) -> Decision:
    made = decide(policy, record.features, state)
    full = limited(record.decision)
    return passed_over(made, [name for name in full if name in made.candidates]) if full else made


def _state(policy: Policy, record: Record, assumed: Mapping[str, BackendState] | None, kept: bool | None, seed: str | None = None) -> State:
    state = record.state
    holds = policy.hash == record.policy_hash if kept is None else kept
    if not holds and getattr(state, "thresholds", None):
        state = msgspec.structs.replace(state, thresholds={})
    if assumed:
        state = msgspec.structs.replace(state, backends={**state.backends, **assumed})
    return state if seed is None else msgspec.structs.replace(state, seed=seed)


def target(decision: Decision) -> str:
    """Where a decision sends a request first, or `refused: CODE`."""
    return decision.candidates[0] if decision.candidates else f"refused: {RATE_LIMIT if decision.outcome == 'ok' else decision.outcome}"


def reason(decision: Decision) -> str:
    """The reason that decided, without the score: `rule:code`, `complexity:strong`, `explore:weak`, `pin:mini`, `default`."""
    first = decision.reasons[0] if decision.reasons else "nothing"
    if first.startswith("complexity:"):
        return next((each for each in decision.reasons if each.startswith("explore:")), f"complexity:{first.rpartition(':')[2]}")
    return first


def change(record: Record, after: Decision) -> Change | None:
    """What is different for a request, or None where it goes first to where it went (or is refused as it was)."""
    before = record.decision
    if target(before) == target(after):
        return None
    return Change(
        request_id=record.request_id,
        tenant=record.tenant,
        before=target(before),
        after=target(after),
        why_before=reason(before),
        why_after=_why(before, after),
    )


def _why(before: Decision, after: Decision) -> str:
    """The reason of the later decision; where the same one decided, what took the earlier target out of it."""
    if reason(before) != reason(after) or not before.candidates:
        return reason(after)
    out = next((exclusion.code for exclusion in after.excluded if exclusion.backend == before.candidates[0]), None)
    return reason(after) if out is None else f"{reason(after)}, {before.candidates[0]} excluded: {out}"


class Summary:
    """Collects changes one by one; memory grows with the kinds of change, not with the requests."""

    def __init__(self) -> None:
        self._requests = self._same = self._reordered = 0
        self._moves: Counter[tuple[str, str, str, str]] = Counter()
        self._tenants: dict[tuple[str, str, str, str], set[str]] = {}
        self._examples: dict[tuple[str, str, str, str], list[str]] = {}

    def add(self, record: Record, after: Decision) -> Change | None:
        self._requests += 1
        found = change(record, after)
        if found is None:
            if record.decision.candidates == after.candidates:
                self._same += 1
            else:
                self._reordered += 1
            return None
        kind = (found.before, found.after, found.why_before, found.why_after)
        self._moves[kind] += 1
        self._tenants.setdefault(kind, set()).add(found.tenant)
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(found.request_id)
        return found

    def result(self) -> Changes:
        moves = tuple(
            Move(
                before=kind[0],
                after=kind[1],
                why_before=kind[2],
                why_after=kind[3],
                requests=count,
                tenants=tuple(sorted(self._tenants[kind])),
                examples=tuple(self._examples[kind]),
            )
            for kind, count in sorted(self._moves.items(), key=lambda item: (-item[1], item[0]))
        )
        return Changes(requests=self._requests, same=self._same, reordered=self._reordered, changed=sum(self._moves.values()), moves=moves)


def summarise(policy: Policy, records: Iterable[Record], assumed: Mapping[str, BackendState] | None = None) -> Changes:
    """What changes for these requests under a policy."""
    summary = Summary()
    for record in records:
        summary.add(record, redecide(policy, record, assumed))
    return summary.result()


def distribution(
    policy: Policy, record: Record, first: Decision, assumed: Mapping[str, BackendState] | None = None, *, kept: bool | None = None
) -> dict[str, float]:
    """With which probability a policy sends a logged request to each backend first, over all seeds; `first` is its decision for the logged one.

    The logged draw must not count: it is what the logged choice hangs on too. Exact for weighted rules and for a draw between two backends; else what
    64 seeds of their own draw, each with the propensity its decision states.
    """
    if not first.candidates or first.propensity >= 1.0:
        return {target(first): 1.0}
    rule = next((rule for rule in policy.file.rules if rule.name == first.rule), None)
    weighted = None if rule is None or isinstance(rule.use, tuple) else rule.use.weighted
    if weighted and first.candidates[0] in weighted:
        weights = {name: weighted[name] for name in first.candidates if name in weighted}
        total = sum(weights.values())
        if total > 0 and abs(weights[first.candidates[0]] / total - first.propensity) < 1e-9:
            return {name: weight / total for name, weight in weights.items() if weight}
    found = {first.candidates[0]: first.propensity}
    if rule is None and policy.file.complexity is not None:
        pair = (policy.file.complexity.weak, policy.file.complexity.strong)
        if first.candidates[0] in pair and pair[0] != pair[1]:
            return {**found, pair[1] if first.candidates[0] == pair[0] else pair[0]: 1.0 - first.propensity}
    for number in range(_DRAWS):
        if sum(found.values()) > 1.0 - 1e-9:
            break
        drawn = _decide(policy, record, _state(policy, record, assumed, kept, f"{record.request_id}/{number}"))
        found[target(drawn)] = drawn.propensity
    total = sum(found.values())
    return {name: share / total for name, share in found.items()}
