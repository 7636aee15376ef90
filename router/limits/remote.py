"""A store of limits at the other end of a connection: what waits together goes together.

One call is under way at a time. What is asked meanwhile makes up the next one, in the order in which it was asked, so under load a check costs a
fraction of a call, and without load it waits for nobody. Nothing is lent to a worker in advance: no request is refused for what another worker
holds idle.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from router.limits.values import Give, Operation, StoreAway, Take, Verdict, undone

log = structlog.get_logger("headgate.limits")

MOST_TOGETHER = 100
CALL_S = 1.0
"""How long a call may take before the store counts as away."""

PAUSE_S = 1.0
"""How long a store that was away is left alone."""


class Transport(Protocol):
    """Carries out operations, in their order, as if nobody else did. Any exception means that nobody knows whether it did."""

    name: str

    async def run(self, operations: Sequence[Operation], held: Mapping[str, int] | None) -> tuple[list[Verdict], int]:
        """`held`, where it is given, is what this worker holds of slots before the operations, by scope, and that it lives.

        The answers to the operations, and how many workers live (0: not asked).
        """
        ...

    async def aclose(self) -> None: ...


class Remote:
    """One worker's queue to the store."""

    def __init__(self, transport: Transport, clock: Callable[[], float] = time.monotonic) -> None:
        self._transport = transport
        self._clock = clock
        self._waiting: deque[tuple[Operation, asyncio.Future[Verdict] | None]] = deque()
        self._held: dict[str, int] = {}
        """What the store knows of this worker's slots, as far as this worker knows. None held, and yet here: the store may think otherwise."""
        self._beating: asyncio.Future[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._away_until = 0.0
        self._away = False
        self._closed = False
        self.name = transport.name
        self.shared_by = 1

    async def take(self, take: Take) -> Verdict:
        if self._closed or self._clock() < self._away_until:
            raise StoreAway(f"{self.name} is away")
        mine: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((take, mine))
        self._send()
        try:
            return await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and mine.exception() is None and mine.result().passed:  # it came in the same moment
                self.give(undone(take))
            raise

    def give(self, give: Give) -> None:
        if self._closed:
            return
        self._waiting.append((give, None))
        self._send()

    async def beat(self) -> None:
        """Say what this worker holds; mends whatever a failed call left unclear. Never raises."""
        if self._closed:
            return
        if self._beating is None:
            self._beating = asyncio.get_running_loop().create_future()
        beating = self._beating
        self._send()
        await asyncio.wait([beating])

    async def aclose(self) -> None:
        self._closed = True
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=2 * CALL_S)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        await self._transport.aclose()

    def _send(self) -> None:
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._waiting or self._beating is not None:
            together = [self._waiting.popleft() for _ in range(min(MOST_TOGETHER, len(self._waiting)))]
            beating, self._beating = self._beating, None
            held = None if beating is None else dict(self._held)
            operations = [operation for operation, _ in together]
            try:
                async with asyncio.timeout(CALL_S):
                    verdicts, workers = await self._transport.run(operations, held)
            except Exception as error:  # a driver's errors have many names; whatever it is, the store did not answer
                self._failed(together, error)
            else:
                self._answered(together, verdicts, held)
                self.shared_by = workers or self.shared_by
            finally:
                if beating is not None:
                    beating.set_result(None)

    def _answered(self, together: list[tuple[Operation, asyncio.Future[Verdict] | None]], verdicts: list[Verdict], held: dict[str, int] | None) -> None:
        if self._away:
            self._away = False
            log.warning("limits_back", store=self.name)
        for scope in [scope for scope, count in (held or {}).items() if not count and not self._held.get(scope)]:
            self._held.pop(scope, None)
        for (operation, mine), verdict in zip(together, verdicts, strict=True):
            if isinstance(operation, Give):
                self._count(operation, -1)
            elif verdict.passed:
                self._count(operation, 1)
            if mine is None:
                continue
            if not mine.done():
                mine.set_result(verdict)
            elif verdict.passed:
                self.give(undone(operation))  # whoever asked has gone

    def _failed(self, together: list[tuple[Operation, asyncio.Future[Verdict] | None]], error: Exception) -> None:
        """What was asked is refused; what was given is lost. Buckets recover by themselves, and the next heartbeat says what is held of slots."""
        self._away_until = self._clock() + PAUSE_S
        if not self._away:
            self._away = True
            log.error("limits_away", store=self.name, error=type(error).__name__)
        for operation, mine in together:
            self._count(operation, -1 if isinstance(operation, Give) else 0)
            if mine is not None and not mine.done():
                mine.set_exception(StoreAway(f"{self.name} is away"))
                mine.exception()

    def _count(self, operation: Operation, change: int) -> None:
        for scope in operation.slots:
            self._held[scope.id] = max(0, self._held.get(scope.id, 0) + change)
