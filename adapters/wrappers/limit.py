"""The concurrency limit: so many attempts at once on this host, a bounded wait in a queue for the others."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable

import msgspec

from adapters.backend import Backend
from adapters.errors import DeadlinePassed, QueueFull
from adapters.slots import Slots
from adapters.types import AttemptRecord, BackendHealth, Event, GenerateRequest
from adapters.wrappers.base import Wrapper

LOOK_S = 0.02
"""How often a worker with waiting requests looks for a slot that another worker gave back."""

LEASE_S = 1.0
"""So long a worker may hand a slot from one of its requests to the next before the other workers get a chance at it."""


class Limiter:
    """First come, first served among one worker's requests; between workers every slot is up for grabs at least once a `LEASE_S`."""

    def __init__(self, slots: Slots, queue_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = slots
        self._queue_s = queue_s
        self._clock = clock
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._leased: dict[int, float] = {}
        self._looking: asyncio.Task[None] | None = None
        self._usual_s = 0.0
        """How long an attempt usually takes, later ones weighing more."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def estimated_wait_s(self) -> float:
        """What a request that came now could expect, by how long attempts usually take."""
        return self._usual_s * (len(self._waiting) + 1) / self._slots.count if self._waiting else 0.0

    async def acquire(self, patience_s: float | None = None) -> int:
        """A slot, at the latest after `queue_s` (or `patience_s`, where that is less). Raises `QueueFull`."""
        if not self._waiting and (slot := self._take()) is not None:
            return slot
        longest = self._queue_s if patience_s is None else min(self._queue_s, patience_s)
        if longest <= 0:
            raise self._full()
        mine: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(longest):
                return await mine
        except BaseException as error:
            if mine.done() and not mine.cancelled():  # it came in the same moment
                self.release(mine.result(), 0.0)
            else:
                mine.cancel()
                with contextlib.suppress(ValueError):
                    self._waiting.remove(mine)
            if isinstance(error, TimeoutError):
                raise self._full() from None
            raise

    def release(self, slot: int, took_s: float) -> None:
        """Give a slot back that was held for `took_s`: to the next in the queue, unless other workers have waited for long enough."""
        if took_s:
            self._usual_s = took_s if not self._usual_s else 0.8 * self._usual_s + 0.2 * took_s
        if self._clock() - self._leased[slot] >= LEASE_S or not self._hand(slot):
            del self._leased[slot]
            self._slots.give(slot)

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._slots.close()

    def _take(self) -> int | None:
        slot = self._slots.take()
        if slot is not None:
            self._leased[slot] = self._clock()
        return slot

    async def _look(self) -> None:
        while self._waiting:
            slot = self._take()
            if slot is None:
                await asyncio.sleep(LOOK_S)
            elif not self._hand(slot):
                self.release(slot, 0.0)

    def _hand(self, slot: int) -> bool:
        """Give it to the first in the queue; False where nobody waits any more."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():  # a cancelled one has not been taken out yet
                first.set_result(slot)
                return True
        return False

    def _full(self) -> QueueFull:
        wait = min(60.0, max(1.0, self._usual_s * (len(self._waiting) + 1) / self._slots.count))
        return QueueFull(f"{self._slots.count} requests run at this backend, which is all that its max_concurrency allows", retry_after=wait)


def with_limit(backend: Backend, limiter: Limiter) -> Backend:
    """The backend behind its limit. A request that waits longer than its deadline is ended with `DeadlinePassed`."""
    return _Limited(backend, limiter)


class _Limited(Wrapper):
    def __init__(self, inner: Backend, limiter: Limiter) -> None:
        super().__init__(inner)
        self._limiter = limiter

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        slot = await self._slot(request)
        began = time.monotonic()
        try:
            async with contextlib.aclosing(self.inner.generate(request, attempt)) as events:
                async for event in events:
                    yield event
        finally:
            self._limiter.release(slot, time.monotonic() - began)

    async def _slot(self, request: GenerateRequest) -> int:
        left = None if request.deadline is None else request.deadline - time.time()
        try:
            return await self._limiter.acquire(left)
        except QueueFull as error:
            if request.deadline is not None and time.time() >= request.deadline:
                raise DeadlinePassed(f"the request's time was over before backend {self.name!r} had room for it") from error
            raise

    async def health(self) -> BackendHealth:
        health = await self.inner.health()
        return msgspec.structs.replace(
            health,
            queue_depth=health.queue_depth + self._limiter.waiting,
            estimated_wait_s=health.estimated_wait_s + self._limiter.estimated_wait_s,
        )

    async def aclose(self) -> None:
        await self._limiter.aclose()
        await super().aclose()
