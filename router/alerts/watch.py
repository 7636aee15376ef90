"""What a worker does for alerts, every few seconds and away from every request: finds what there is to tell, and delivers what is due.

Each worker of each replica does; the rows in the database see to it that one of them tells a receiver a thing (`router.alerts.book`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeAlias

import structlog

from config.database import Database
from policies.load import Policy
from router.alerts import book
from router.alerts.events import Alert
from router.alerts.sending import TIMEOUT_S, Answer, send
from router.money.accounting import DAY_S, periods_of
from router.money.books import Short
from router.money.settlement import Counter
from router.telemetry import Metrics

log = structlog.get_logger("headgate.alerts")

LATE_S = 600.0
"""How long after its end a period is still looked at: requests that began in it are booked then."""

Background: TypeAlias = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class BudgetAlerts:
    """Alerts as one worker sees them. `policy` is asked for the one in force; `background` runs a delivery to its end, whatever becomes of the caller."""

    def __init__(
        self,
        database: Database,
        worker: str,
        policy: Callable[[], Policy],
        environ: Mapping[str, str],
        metrics: Metrics,
        background: Background = asyncio.create_task,
        *,
        clock: Callable[[], float] = time.time,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._database = database
        self._worker = worker
        self._policy = policy
        self._environ = environ
        self._metrics = metrics
        self._background = background
        self._clock = clock
        self._timeout_s = timeout_s
        self._refused: dict[Counter, Short] = {}

    def refused(self, short: Iterable[Short]) -> None:
        """Budgets did not hold what the policy chose for a request. Only remembered here; the next look writes it down, once for a period."""
        for each in short:
            self._refused.setdefault(each.counter, each)

    async def look(self) -> None:
        """Write down what there is to tell, then deliver what is due. Raises what the database raises."""
        policy = self._policy()
        refused, self._refused = self._refused, {}
        if policy.shares is None:
            return
        try:
            await self._find(policy, refused)
        except BaseException:
            self._refused = refused | self._refused
            raise
        await self._deliver(policy)

    async def _find(self, policy: Policy, refused: Mapping[Counter, Short]) -> None:
        now = self._clock()
        periods = {*periods_of(int(now // DAY_S)), *periods_of(int((now - LATE_S) // DAY_S))}
        new = await self._database.read(lambda connection: book.found(connection, policy, periods, refused, now))
        if new:
            await self._database.write(lambda connection: book.write_down(connection, new))

    async def _deliver(self, policy: Policy) -> None:
        alerts = await self._database.read(lambda connection: book.due(connection, self._clock()))
        if not alerts:
            return
        done, _ = await asyncio.wait([self._background(self._try(policy, alert)) for alert in alerts])
        for task in done:
            task.result()

    async def _try(self, policy: Policy, alert: Alert) -> None:
        claimed = await self._database.write(lambda connection: book.claim(connection, alert, self._worker, self._clock()))
        if claimed is None:
            return
        answer = await self._send(policy, claimed)
        about = {"alert": claimed.id, "type": claimed.type, "tenant": claimed.tenant, "receiver": claimed.receiver, "host": answer.host, "ms": answer.ms}
        if answer.error is None:
            await self._database.write(lambda connection: book.delivered(connection, claimed, self._clock()))
            self._metrics.alert("delivered")
            log.info("alert_delivered", **about)
            return
        error = answer.error
        await self._database.write(lambda connection: book.failed(connection, claimed, error, self._clock()))
        self._metrics.alert("failed")
        log.warning("alert_failed", **about, error=error, retry_in_s=book.pause_s(claimed.tries))

    async def _send(self, policy: Policy, alert: Alert) -> Answer:
        receiver = policy.receivers(alert.tenant).get(alert.receiver)
        if receiver is None:
            return Answer(host="", error="the policy in force names no such receiver")
        return await send(receiver, self._environ, alert.event(), self._timeout_s)

    async def sweep(self) -> None:
        """Give up what could not be delivered for a day."""
        given_up = await self._database.write(lambda connection: book.give_up(connection, self._clock()))
        if given_up:
            self._metrics.alert("given_up", given_up)
            log.error("alerts_given_up", count=given_up)
