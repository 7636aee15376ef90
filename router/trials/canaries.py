"""Canaries as one worker sees them: what its requests came to, added up in the database every moment, and which canaries run.

Each worker of each replica does; whichever adds the sums that leave no doubt rolls the canary back, in the transaction of the audit entry. All others
read it within `BEAT_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import Connection

from adapters.cost import usd_float
from adapters.errors import ContentRefused, DeadlinePassed, InvalidRequest, UnsupportedFeature
from config.database import Database
from policies.canary import ROLLED_BACK, Side, canaries_of
from policies.guard import Arm, outcome
from policies.load import Policy
from router.alerts import book as alert_book
from router.alerts.events import Alert
from router.audit.log import SYSTEM, AuditLog, Entry, Subject
from router.ids import fresh_id
from router.telemetry import Metrics
from router.trials import store
from router.trials.shown import figures
from router.trials.store import CanaryRow, Sides

if TYPE_CHECKING:
    from router.attempts.loop import Attempts
    from router.policy_in_force import ActivePolicy

log = structlog.get_logger("headgate.canaries")

BEAT_S = 0.4
"""Between the looks of a worker: what rolls a canary back reaches every worker within two of them."""

LOOK_AT_SCORES_S = 2.0
"""How often a worker looks at feedback while no request ends."""

CLIENTS_OWN = (UnsupportedFeature, InvalidRequest, ContentRefused, DeadlinePassed)
"""Errors that are the request's own fault: they say nothing about either side."""


class Canaries:
    """`note` what a request came to; `beat` adds up, judges, and reads which canaries run."""

    def __init__(
        self, database: Database, policy: Callable[[], ActivePolicy], audit: AuditLog, metrics: Metrics, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._policy = policy
        self._audit = audit
        self._metrics = metrics
        self._clock = clock
        self._sums: dict[tuple[int, str], tuple[ActivePolicy, Sides]] = {}
        self._scores_at = 0.0

    def note(self, active: ActivePolicy, rule: str, side: Side, sums: Arm) -> None:
        """One request of a canary's rule has ended. Never waits."""
        known = self._sums.get((active.version, rule), (active, Sides()))[1]
        self._sums[active.version, rule] = (active, known.with_outcome(side, sums))
        self._metrics.canary_request(rule, side, "error" if sums.errors else "ok")

    async def beat(self) -> None:
        """Raises what the database raises; then what was noted is still there."""
        active = self._policy()
        wanted, self._sums = self._sums, {}
        now = self._clock()
        if now - self._scores_at >= LOOK_AT_SCORES_S:
            self._scores_at = now
            for rule, (_, canary) in canaries_of(active.policy).items():
                if canary.guard.score_drop is not None and active.canaries.get(rule) != ROLLED_BACK:
                    wanted.setdefault((active.version, rule), (active, Sides()))
        if wanted:
            try:
                rolled_back = await self._database.write(self._audit.recorded(lambda connection: self._add(connection, wanted, now)))
            except BaseException:
                self._put_back(wanted)
                raise
            for row in rolled_back:
                self._metrics.canary_rolled_back(row.rule)
                log.warning("canary_rolled_back", rule=row.rule, policy_version=row.policy_version, **figures(row))
        await self.read(active)

    async def read(self, active: ActivePolicy) -> None:
        """Which canaries of this policy run, as the database has it now."""
        names = canaries_of(active.policy)
        if names:
            active.canaries = await self._database.read(lambda connection: store.states(connection, active.version))
        for rule in names:
            self._metrics.canary_state(rule, rolled_back=active.canaries.get(rule) == ROLLED_BACK)

    def _add(self, connection: Connection, wanted: dict[tuple[int, str], Any], now: float) -> tuple[list[CanaryRow], Sequence[Entry]]:
        rolled_back: list[CanaryRow] = []
        entries, alerts = [], []
        for version, rule in sorted(wanted):
            active, sums = wanted[version, rule]
            canary = canaries_of(active.policy)[rule][1]
            row = store.add(connection, version, active.policy.hash, rule, canary, sums, now)
            if row is not None:
                rolled_back.append(row)
                entries.append(Entry(SYSTEM, "policy.canary_rolled_back", Subject("rule", rule, "", {"policy_version": version, **figures(row)})))
                alerts += _alerts(active.policy, row, now)
        if alerts:
            alert_book.write_down(connection, alerts)
        return rolled_back, entries

    def _put_back(self, wanted: dict[tuple[int, str], tuple[ActivePolicy, Sides]]) -> None:
        for key, (active, sums) in wanted.items():
            since = self._sums.get(key, (active, Sides()))[1]
            self._sums[key] = (active, Sides(since.candidate + sums.candidate, since.baseline + sums.baseline))


def _alerts(policy: Policy, row: CanaryRow, now: float) -> list[Alert]:
    """What the policy's own receiver is told: that a canary was rolled back, once each time."""
    blank = {"tenant": "", "share": 0.0, "spent": 0, "reserved": 0, "cap": 0, "state": "pending", "tries": 0, "worker": "", "error": None, "delivered_at": None}
    about = {"type": "canary.rolled_back", "scope": f"rule:{row.rule}", "period": f"policy:{row.policy_version}.{row.window}"[:16]}
    return [Alert(**blank, **about, id=fresh_id(), receiver=name, next_try_at=now, created_at=now) for name in policy.receivers("")]  # type: ignore[arg-type]


def came_to(attempts: Attempts, first: str, failure: BaseException | None, ended: float, cost: int) -> Arm | None:
    """What a request says about the backend that its side tried first; None where it says nothing: the client left or is at fault, or it was not tried.

    `ended` is by `time.perf_counter()`; `cost` in picodollars. A retry that answers is no failure, an answer by another backend is one.
    """
    errors = [error for name, error in attempts.failed if name == first]
    current = attempts.current
    if current is None or any(isinstance(error, CLIENTS_OWN) for error in errors):
        return None
    if not errors and current.plan.backend != first and current.plan.purpose == "answer":  # passed over: a limit of its own, or its circuit
        return None
    if errors and (failure is not None or current.plan.backend != first):
        return outcome(failed=True)
    if failure is not None:
        return None
    return outcome(failed=False, ms=1000 * max(0.0, ended - (current.began - attempts.upstream_s)), cost_usd=usd_float(cost))
