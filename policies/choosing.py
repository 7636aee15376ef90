"""In which order a rule's backends are tried: as listed, drawn by weight, by expected cost, or by measured speed; and how likely the first one was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from msgspec import Struct

from policies.decision import BackendState, Exclusion, State
from policies.features import Features
from policies.load import Policy
from policies.schema import Use


class Order(Struct, frozen=True, kw_only=True):
    """The permitted backends of a `use`, in order. `propensity` is how likely the first one was to come first; `reason` says how it was found."""

    names: tuple[str, ...]
    propensity: float = 1.0
    reason: str = ""
    capped: tuple[Exclusion, ...] = ()


def ordered(policy: Policy, use: tuple[str, ...] | Use, rule: str, permitted: Sequence[str], features: Features, state: State) -> Order:
    """The order of those backends of `use` that are permitted to this request."""
    if not isinstance(use, Use):
        return Order(names=tuple(name for name in use if name in permitted))
    capped = {name: cap for name in use.names if name in permitted and (cap := _cap(policy, use, name, features, state.backends[name])) is not None}
    left = [name for name in use.names if name in permitted and name not in capped]
    exclusions = tuple(capped.values())
    if not left:
        return Order(names=(), capped=exclusions)
    if use.weighted is not None:
        return _weighted(use, use.weighted, rule, left, exclusions, features, state)
    if use.cheapest is not None:
        return Order(names=_cheapest(left, state.backends), reason="cheapest", capped=exclusions)
    if use.fastest is not None:
        return _fastest(rule, left, exclusions, state)
    return Order(names=tuple(left), capped=exclusions)


def _cap(policy: Policy, use: Use, name: str, features: Features, now: BackendState) -> Exclusion | None:
    """The first of the rule's caps that this backend is beyond. A time that was not measured yet is beyond none: else it never would be."""
    if use.max_cost_usd is not None and (now.cost_usd is None or now.cost_usd > use.max_cost_usd):
        cost = "what it costs is not known" if now.cost_usd is None else f"it is expected to cost ${now.cost_usd:.6g}"
        return Exclusion(name, "too_dear", f"{cost}, and the rule allows ${use.max_cost_usd:.6g}")
    if use.max_latency_ms is not None and now.latency_ms is not None and now.latency_ms > use.max_latency_ms:
        return Exclusion(name, "too_slow", f"its first event took {now.latency_ms:.6g} ms of late, and the rule allows {use.max_latency_ms:.6g} ms")
    if use.min_quality is not None:
        quality = policy.backends[name].quality(features.task)
        if quality is None or quality < use.min_quality:
            found = "has none" if quality is None else f"is {quality:.6g}"
            return Exclusion(name, "low_quality", f"its quality {found}, and the rule asks for {use.min_quality:.6g}")
    return None


def _weighted(use: Use, weights: Mapping[str, float], rule: str, left: list[str], capped: tuple[Exclusion, ...], features: Features, state: State) -> Order:
    """Drawing without replacement and keeping what is permitted is the same as drawing among the permitted only."""
    names = tuple(name for name in draw(weights, _seed(use, features, state), rule) if name in left)
    if not names:
        return Order(names=(), capped=capped)
    propensity = weights[names[0]] / sum(weights[name] for name in sorted(names))
    return Order(names=names, propensity=propensity, reason="weighted", capped=capped)


def _seed(use: Use, features: Features, state: State) -> str:
    """The seed of a draw: that of the conversation or the user where the rule is sticky and the request has one."""
    holder = {"conversation": features.conversation, "user": features.user}[use.sticky] if use.sticky is not None else ""
    return f"{use.sticky}\n{features.tenant}\n{holder}" if holder else state.seed


def _cheapest(left: list[str], states: Mapping[str, BackendState]) -> tuple[str, ...]:
    """By expected cost; equal ones, and those whose cost is not known, in the rule's order."""
    costs = {name: states[name].cost_usd for name in left}
    return tuple(sorted(left, key=lambda name: (costs[name] is None, costs[name] or 0.0)))


def _fastest(rule: str, left: list[str], capped: tuple[Exclusion, ...], state: State) -> Order:
    """By measured time. The quickest that is known and each that was not measured yet come first equally often: so every one is measured soon."""
    times = {name: now for name in left if (now := state.backends[name].latency_ms) is not None}
    known = sorted(times, key=lambda name: times[name])
    new = [name for name in left if name not in times]
    pool = [*known[:1], *new]
    first = pool[int(unit(f"{state.seed}\n{rule}\nfastest") * len(pool))]
    names = (first, *(name for name in (*known, *new) if name != first))
    return Order(names=names, propensity=1 / len(pool), reason="fastest" if first in times else "measured_next", capped=capped)


def draw(weights: Mapping[str, float], seed: str, rule: str) -> tuple[str, ...]:
    """The names in a random order: drawn by weight, one after the other without replacement. A weight of 0 is never drawn.

    The order depends on the names, the weights, the seed and the rule only; a backend that goes away moves nobody else's first draw.
    """
    left = {name: weights[name] for name in sorted(weights) if weights[name] > 0}
    order = []
    for turn in range(len(left)):
        point = unit(f"{seed}\n{rule}\n{turn}") * sum(left.values())
        picked = ""
        for name, weight in left.items():
            picked = name
            point -= weight
            if point < 0:
                break
        order.append(picked)
        del left[picked]
    return tuple(order)


def unit(text: str) -> float:
    """A number in [0, 1) that is a pure function of the text: the first 53 bits of its SHA-256."""
    return (int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) >> 11) / (1 << 53)
