"""Deciding a logged request once more under the policy that decided it: level 0 of a backtest, which must find the same, bit for bit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Struct

from policies.decide import decide
from policies.decision import Decision, State
from policies.load import Policy
from policies.record import Record

RATE_LIMIT = "rate_limit"
"""Why a candidate was passed over after the decision: its own limit was reached."""


class Difference(Struct, frozen=True):
    """A field of a decision that came out different."""

    field: str
    recorded: Any
    replayed: Any


class Changed(Struct, frozen=True):
    """A request whose decision came out different, and in what."""

    request_id: str
    differences: tuple[Difference, ...]


class Level0(Struct, frozen=True):
    """What re-deciding found: of `requests` decided again, `identical` were the same. `changed` lists the first that were not."""

    requests: int
    identical: int
    changed: tuple[Changed, ...] = ()

    @property
    def share(self) -> float:
        """Of the identical ones; 1 where there was nothing to decide."""
        return self.identical / self.requests if self.requests else 1.0


def passed_over(decision: Decision, names: Collection[str]) -> Decision:
    """The decision without the candidates whose own rate limits are reached, and with the reasons that say so."""
    if not names:
        return decision
    left = tuple(name for name in decision.candidates if name not in names)
    return msgspec.structs.replace(decision, candidates=left, reasons=(*decision.reasons, *(f"excluded:{name}:{RATE_LIMIT}" for name in names)))


def limited(decision: Decision) -> tuple[str, ...]:
    """The candidates that were passed over for their limits, in the order in which they were."""
    end = f":{RATE_LIMIT}"
    return tuple(reason.removeprefix("excluded:").removesuffix(end) for reason in decision.reasons if reason.startswith("excluded:") and reason.endswith(end))


def decide_again(policy: Policy, was: Decision, state: State) -> Decision:
    """The decision made anew from the recorded features, state and seed. Limits are not asked again: what they passed over is passed over."""
    return passed_over(decide(policy, was.features, state), limited(was))


def differences(was: Decision, now: Decision) -> tuple[Difference, ...]:
    """The fields in which two decisions differ; none where they are the same."""
    if was == now:
        return ()
    pairs = ((name, getattr(was, name), getattr(now, name)) for name in Decision.__struct_fields__)
    return tuple(Difference(name, before, after) for name, before, after in pairs if before != after)


class Replayer:
    """Decides records again, one after the other, each under the policy that decided it. At most `most` of those that differ are listed; all are counted."""

    def __init__(self, most: int = 20) -> None:
        self._most = most
        self._requests = 0
        self._different = 0
        self._changed: list[Changed] = []

    def add(self, policy: Policy, record: Record) -> None:
        """`policy` must be the version that the record names."""
        self._requests += 1
        differ = differences(record.decision, decide_again(policy, record.decision, record.state))
        if differ:
            self._different += 1
            if len(self._changed) < self._most:
                self._changed.append(Changed(record.request_id, differ))

    def result(self) -> Level0:
        return Level0(self._requests, self._requests - self._different, tuple(self._changed))
