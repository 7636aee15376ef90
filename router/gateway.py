"""What one worker holds: the database, the active policy with its backends, the books, the keys, the compute process, the metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy import Connection, delete, insert, update
from sqlalchemy.exc import SQLAlchemyError

from adapters.backend import BackendContext, LocalCompute
from adapters.errors import BackendError
from config.database import Database
from config.networks import parse_networks
from config.settings import Settings
from policies.access import Principal
from retrieval.store import Documents
from retrieval.values import NotFound, SearchRequest, SearchResult
from router.alerts.watch import BudgetAlerts
from router.audit.changes import recorded_documents
from router.audit.erasing import Leftovers
from router.audit.feedback import Feedback
from router.audit.log import Actor, AuditLog
from router.audit.reading import head
from router.audit.recording import DAY_S, Recorder
from router.conversing import ConversationIds
from router.credentials.door import Door
from router.heads import Heads
from router.http.errors import ApiError
from router.identity.authenticator import Authenticator
from router.identity.reach import documents_reach
from router.kept.conversations import Conversations
from router.kept.idempotency import Idempotency
from router.kept.remembering import RememberedParts
from router.kept.sealing import Sealer
from router.kept.turns import Turns
from router.launch import installed, open_limits
from router.limits.limiter import Limiter
from router.money.accounting import Accounting
from router.money.insisting import insist
from router.money.sealing import SealKey
from router.money.settlement import Booking, Settlement, unmeasured
from router.policy_file import read_status
from router.policy_in_force import REFRESH_S, PolicyHolder
from router.scoring import Thresholds
from router.tables import workers
from router.telemetry import Metrics
from router.trials.canaries import BEAT_S as CANARY_S
from router.trials.canaries import Canaries
from router.trials.pairs import PairSweep
from router.trials.shadows import Shadows

T = TypeVar("T")
log = structlog.get_logger("headgate.gateway")

SHUTTING_DOWN = "shutting_down"
"""The error code of a request that the stop of the service ended."""

BOOKING_S = 5.0
"""How long the end of an answer waits for a database that does not take its booking; it is booked all the same, as soon as that is back."""

BEAT_S = 2.0
ALERTS_S = 5.0
SWEEP_S = 60.0
"""How often what has expired is deleted."""


class Compute(LocalCompute, Protocol):
    """The compute process: local models and search."""

    async def search(self, request: SearchRequest) -> SearchResult: ...

    async def aclose(self) -> None: ...


class Gateway:
    """One worker's services. Open with `start`, close with `stop`."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        secret: bytes,
        worker: str,
        instance: str,
        documents: Documents,
        compute: Compute | None,
        source: str,
        environ: Mapping[str, str],
    ) -> None:
        self.settings = settings
        self.database = database
        self.secret = secret
        self.documents = documents
        self.compute = compute
        self.metrics = Metrics()
        self.limits = Limiter(lambda: open_limits(settings, database, worker), settings.limits_when_away, self.metrics)
        self.sealer = Sealer(secret)
        self.conversation_ids = ConversationIds(secret)
        self.auth = Authenticator(database, secret)
        self.trusted_proxies = parse_networks(settings.trusted_proxies)
        self.audit = AuditLog(database, secret)
        self.leftovers = Leftovers(database)
        self.recorder = Recorder(database, secret, self.sealer, settings.decisions_days, self.metrics.decisions_dropped)
        self.feedback = Feedback(self.sealer, settings.decisions_days * DAY_S)
        self.accounting = Accounting(database, worker, SealKey(secret))
        self.idempotency = Idempotency(database, self.sealer, worker, settings.idempotency_s)
        self.remembered = RememberedParts(database, self.sealer, settings.tool_memory_s)
        self.turns = Turns(database, self.sealer, settings.retention_s)
        self.conversations = Conversations(database, self.sealer, settings.retention_s)
        self.policy = PolicyHolder(database, settings, BackendContext(environ=dict(environ), compute=compute), source, self.metrics.circuit)
        self.door = Door(
            keys=self.auth.principal,
            database=database,
            secret=secret,
            settings=settings,
            identity=lambda: self.policy.current.policy.file.identity,
            metrics=self.metrics,
        )
        self.heads = Heads(database, settings.home)
        self.thresholds = Thresholds(settings.home)
        self.alerts = BudgetAlerts(database, worker, lambda: self.policy.current.policy, self.policy.environ, self.metrics, self.background)
        self.canaries = Canaries(database, lambda: self.policy.current, self.audit, self.metrics)
        self.shadows = Shadows(self)
        self.pair_sweep = PairSweep(database)
        self._worker = worker
        self._instance = instance
        self._tasks: set[asyncio.Task[Any]] = set()
        self._running: set[asyncio.Timeout] = set()
        self._stopping = False
        self._shown_head = ""
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.policy.refresh()
        await self.heads.refresh()
        await self._tell_policy()
        await self.database.write(lambda connection: _register(connection, self._worker, self._instance))
        work = (
            (REFRESH_S, self.policy.refresh),
            (REFRESH_S, self.heads.refresh),
            (BEAT_S, self._beat),
            (BEAT_S, self.limits.beat),
            (BEAT_S, self._look),
            (BEAT_S, self._tell_policy),
            (BEAT_S, self.accounting.write_head),
            (SWEEP_S, self._sweep),
            (ALERTS_S, self.alerts.look),
            (CANARY_S, self.canaries.beat),
        )
        self._loops = [asyncio.create_task(self._every(seconds, each)) for seconds, each in work]
        self._loops.append(asyncio.create_task(self.recorder.run()))

    async def stop(self) -> None:
        """End what still runs, wait for every settlement, then close."""
        for loop in self._loops:
            loop.cancel()
        self.shadows.stop()
        self.interrupt()
        while self._tasks or self._running:
            await (asyncio.wait(set(self._tasks)) if self._tasks else asyncio.sleep(0.01))
        await self._record_the_last()
        await self._count_the_last()
        await self._seal_the_last()
        await self.door.aclose()
        await self.policy.current.aclose()
        await self.limits.aclose()
        self.thresholds.close()
        if self.compute is not None:
            await self.compute.aclose()
        await self.database.write(lambda connection: connection.execute(delete(workers).where(workers.c.id == self._worker)))
        await self.database.aclose()

    def interrupt(self) -> None:
        """End every running request with an error (the service stops), so that no stream ends silently. None begins after it."""
        self._stopping = True
        self.shadows.stop()
        for scope in self._running:
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def interruptible(self) -> AsyncGenerator[None, None]:
        """What runs inside is ended by `interrupt`, and then `ApiError` 503 is raised; so it is at once where that came before."""
        stopped = ApiError(503, SHUTTING_DOWN, "The service is stopping; send the request again.", headers={"retry-after": "2"})
        if self._stopping:  # a request with a key may begin to run without a client
            raise stopped
        try:
            async with asyncio.timeout(None) as scope:
                self._running.add(scope)
                try:
                    yield
                finally:
                    self._running.discard(scope)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise stopped from error

    def background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run to the end whatever happens to the caller."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits it sees it; without this, an unawaited one would be reported a second time

    async def settle(self, booking: Booking, settlement: Settlement) -> None:
        """Settle, again and again while the database is away: money that was spent is booked, at what was reserved where it must."""
        await insist(
            lambda: self.accounting.settle(booking, settlement),
            booking.request_id,
            otherwise=lambda: self.accounting.settle(booking, unmeasured(booking, settlement)),
        )

    async def booked(self, settling: asyncio.Task[None]) -> None:
        """Wait for a settlement in the background, for as long as an answer may wait for it."""
        await asyncio.wait([settling], timeout=BOOKING_S)
        if settling.done():
            settling.result()

    async def release(self, booking: Booking) -> None:
        """Undo a reservation that may have been made, again and again while the database is away."""
        await insist(lambda: self.accounting.release(booking), booking.request_id)

    async def search(self, request: SearchRequest) -> SearchResult:
        """Passages for a question. Raises `ApiError` 503 where search is not available."""
        if self.compute is None:
            raise ApiError(503, "documents_unavailable", "Documents cannot be searched here: install headgate[documents] and restart.")
        try:
            return await self.compute.search(request)
        except BackendError as error:
            raise ApiError(503, "documents_unavailable", f"Documents cannot be searched now: {error.message}", headers={"retry-after": "2"}) from error

    def documents_for(self, actor: Actor) -> Documents:
        """The documents, to be changed: what this actor changes is recorded in the same transaction."""
        return recorded_documents(self.documents, self.audit, actor)

    def require_indexing(self) -> None:
        """Raises `ApiError` 503 where nobody would ever index a file: without the extra, on a database that no other host shares."""
        if (self.compute is None or not installed("faiss")) and self.database.dialect == "sqlite":
            raise ApiError(503, "documents_unavailable", "Documents cannot be indexed here: install headgate[documents] and restart.")

    async def require_stores(self, principal: Principal, stores: tuple[str, ...], param: str) -> None:
        """Raises `ApiError` 404 for a store that is missing, another tenant's or out of the key's reach, in the same words."""
        try:
            await self.documents.use_stores(principal.tenant, tuple(dict.fromkeys(stores)), reach=documents_reach(principal))
        except NotFound as error:
            raise ApiError(404, "vector_store_not_found", f"{error} List yours with GET /v1/vector_stores.", param=param) from error

    async def database_problem(self) -> str | None:
        """Why the database does not answer, or None."""
        try:
            async with asyncio.timeout(2):
                await self.database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
        except TimeoutError:
            return "the database does not answer within 2 s"
        except (SQLAlchemyError, OSError) as error:
            return f"the database fails: {type(error).__name__}"
        return None

    async def _every(self, seconds: float, work: Any) -> None:
        pause = seconds
        while True:
            await asyncio.sleep(pause)
            try:
                await work()
            except Exception:
                pause = min(2 * pause, 4 * seconds)  # a heartbeat that comes back late must still be taken for a living worker's
                log.exception("background_work_failed", work=getattr(work, "__name__", ""), retry_in_s=pause)
            else:
                pause = seconds

    async def _beat(self) -> None:
        await self.database.write(lambda connection: _count_beat(connection, self._worker, self._instance))

    async def _sweep(self) -> None:
        for each in (self.idempotency, self.remembered, self.turns, self.conversations, self.alerts, self.recorder, self.leftovers, self.pair_sweep):
            await each.sweep()
        await self._show_head()

    async def _show_head(self) -> None:
        """Where the audit log ends, for the logs that are kept elsewhere: whoever removes entries with their head cannot remove it there."""
        found = await self.database.read(head)
        if str(found) != self._shown_head:
            self._shown_head = str(found)
            log.info("audit_head", head=self._shown_head)

    async def _record_the_last(self) -> None:
        try:
            async with asyncio.timeout(BOOKING_S):
                await self.recorder.flush()
        except (TimeoutError, SQLAlchemyError, OSError) as error:
            log.error("decisions_not_written", error=type(error).__name__)

    async def _count_the_last(self) -> None:
        try:
            async with asyncio.timeout(BOOKING_S):
                await self.canaries.beat()
        except (TimeoutError, SQLAlchemyError, OSError) as error:
            log.error("canaries_not_counted", error=type(error).__name__)

    async def _seal_the_last(self) -> None:
        try:
            async with asyncio.timeout(BOOKING_S):
                await self.accounting.write_head()
        except (TimeoutError, SQLAlchemyError, OSError) as error:
            log.error("ledger_head_not_written", error=type(error).__name__)

    async def _look(self) -> None:
        """Apart from the heartbeat, which must not wait for a backend."""
        await self.policy.current.check_health()

    async def _tell_policy(self) -> None:
        """Which policy this worker serves by, and whether the file that its host watches is another one, for the metrics."""
        status = await asyncio.to_thread(read_status, self.settings.home)
        self.metrics.policy(self.policy.current.version, status is None or status.valid)


def _count_beat(connection: Connection, worker: str, instance: str) -> None:
    """One heartbeat. A worker that stood still and was given up is registered again: what it reserves from now on can be recovered."""
    if not connection.execute(update(workers).where(workers.c.id == worker).values(beat=workers.c.beat + 1)).rowcount:
        _register(connection, worker, instance)


def _register(connection: Connection, worker: str, instance: str) -> None:
    connection.execute(insert(workers), {"id": worker, "instance": instance, "beat": 0, "started_at": time.time()})
