"""A backtest from end to end: records in, one after the other, and a report out in which every figure says how surely it is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from msgspec import Struct

from adapters.types import Capabilities
from config.prices import Price
from policies.backtest.costing import estimate_costs
from policies.backtest.curve import Curve, curve_of_log
from policies.backtest.lines import labels, line_of
from policies.backtest.pricing import PriceAt, prices_of
from policies.backtest.quality import Quality, Refusal, estimate_quality
from policies.backtest.redeciding import Changes, Summary, redecide
from policies.backtest.values import STRENGTHS, Costs, Line, Strength
from policies.complexity.playing import Played, under
from policies.decision import BackendState
from policies.load import Policy
from policies.record import Record
from policies.replaying import Changed, Level0, decide_again, differences

HIGHEST = 2

LISTED = 20
"""Requests whose replay came out different are listed up to here; all are counted."""


class Replayed(Struct, frozen=True, kw_only=True, tag="replay"):
    """Level 0. `replay`: every request decided once more by the version that decided it, which must find the same. `changes`: by the candidate.

    `unreadable` requests were decided by versions that cannot be loaded any more, and are not replayed. `assumed` backends are new, or another model under
    an old name, and taken to be ready. `unknown` requests are decided by complexity now and were logged without one.
    """

    replay: Level0
    unreadable: int
    changes: Changes
    assumed: tuple[str, ...]
    unknown: int


Figures: TypeAlias = Replayed | Costs | Quality


class Level(Struct, frozen=True, kw_only=True):
    """The figures of one level, and in a word how surely they are known; or why there are none."""

    level: int
    strength: Strength
    figures: Replayed | Costs | Quality | None = None
    refused: Refusal | None = None


class Report(Struct, frozen=True, kw_only=True):
    """What a policy would have done with `requests` requests. Levels that were not asked for are not there."""

    requests: int
    levels: tuple[Level, ...]
    curve: Curve | None = None
    no_curve: Refusal | None = None

    @property
    def exact(self) -> bool:
        """Whether replaying found every logged decision again."""
        found = self.levels[0].figures
        return isinstance(found, Replayed) and found.replay.identical == found.replay.requests

    def refused(self, level: int) -> Refusal | None:
        return next((each.refused for each in self.levels if each.level == level), None)


class Backtest:
    """Collects what the levels need. `reference` is the policy in force, whose names count; memory grows with the requests above level 0."""

    def __init__(self, reference: Policy, candidate: Policy, capabilities: Mapping[str, Capabilities], level: int = HIGHEST, *, curve: bool = False) -> None:
        self._reference, self._candidate, self._level, self._curve = reference, candidate, level, curve
        self._called = labels(reference, candidate)
        fresh = [name for name, label in self._called.items() if label != name or name not in reference.backends]
        self._assumed = {name: BackendState(capabilities=capabilities[name]) for name in fresh if name in capabilities}
        self._summary = Summary()
        self._replayed = self._unreadable = self._unknown = self._different = 0
        self._changed: list[Changed] = []
        self._lines: list[Line] = []
        self._played = Played(candidate)
        self._labels: dict[str, dict[str, str]] = {}

    def add(self, record: Record, decided_by: Policy | None) -> None:
        """A request, and the policy version that decided it (None: it cannot be loaded any more)."""
        if decided_by is None:
            self._unreadable += 1
        else:
            self._replay(record, decided_by)
        tenant = record.features.tenant
        if decided_by is None or decided_by.complexity(tenant) != self._candidate.complexity(tenant):
            record = under(record, self._played.thresholds(record))
        after = redecide(self._candidate, record, self._assumed, kept=True)
        self._played.decided(record, after)
        self._summary.add(record, after)
        self._unknown += self._candidate.asks_complexity and record.features.complexity is None
        if self._level or self._curve:
            logged = self._logged(decided_by)
            statistics = self._level > 1 or self._curve
            self._lines.append(line_of(record, after, self._candidate, self._called, self._assumed, logged, kept=True, statistics=statistics))

    def _replay(self, record: Record, decided_by: Policy) -> None:
        self._replayed += 1
        differ = differences(record.decision, decide_again(decided_by, record.decision, record.state))
        if differ:
            self._different += 1
            if len(self._changed) < LISTED:
                self._changed.append(Changed(record.request_id, differ))

    def _logged(self, decided_by: Policy | None) -> dict[str, str] | None:
        """The labels of an earlier version: a name may have meant another model then."""
        if decided_by is None or decided_by.hash == self._reference.hash:
            return None
        found = self._labels.get(decided_by.hash)
        if found is None:
            found = self._labels[decided_by.hash] = labels(self._reference, decided_by)
        return found

    def report(self) -> Report:
        replayed = Replayed(
            replay=Level0(self._replayed, self._replayed - self._different, tuple(self._changed)),
            unreadable=self._unreadable,
            changes=self._summary.result(),
            assumed=tuple(sorted(self._assumed)),
            unknown=self._unknown,
        )
        levels = [Level(level=0, strength=STRENGTHS[0], figures=replayed)]
        nothing = None if self._lines else Refusal(reason="no decided request is in the log", remedy="widen --since and --until, or wait for traffic")
        before, after = self._by_label(prices_of(self._reference), {}), self._by_label(prices_of(self._candidate), self._called)
        if self._level >= 1:
            costs = None if nothing else estimate_costs(self._lines, before, after)
            levels.append(Level(level=1, strength=STRENGTHS[1], figures=costs, refused=nothing))
        if self._level >= 2:
            quality = nothing or estimate_quality(self._lines)
            refused = quality if isinstance(quality, Refusal) else None
            levels.append(Level(level=2, strength=STRENGTHS[2], figures=None if isinstance(quality, Refusal) else quality, refused=refused))
        curve = None if not self._curve else nothing or curve_of_log(self._lines, self._candidate, self._called, before, after)
        return Report(
            requests=replayed.changes.requests,
            levels=tuple(levels),
            curve=curve if isinstance(curve, Curve) else None,
            no_curve=curve if isinstance(curve, Refusal) else None,
        )

    def _by_label(self, prices: PriceAt, called: Mapping[str, str]) -> PriceAt:
        """Prices by label. What a policy does not have is asked of the reference."""
        names = {label: name for name, label in called.items()}
        known = self._candidate.backends if called else self._reference.backends
        others = prices_of(self._reference) if called else prices_of(self._candidate)

        def price(label: str, at: float) -> Price:
            name = names.get(label, label)
            return prices(name, at) if name in known else others(name, at)

        return price
