"""Bounds in time: for the first event, between two events, for the whole attempt, and the request's own deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from adapters.backend import Backend, BackendSpec
from adapters.errors import BackendTimeout
from adapters.types import AttemptRecord, Event, GenerateRequest
from adapters.wrappers.base import Wrapper


def with_timeouts(backend: Backend, spec: BackendSpec) -> Backend:
    """The backend, bounded by `spec.timeout_s`, `spec.total_s` and the request's deadline.

    Raises `BackendTimeout` when no event came for `timeout_s` (counted only while the consumer waits: a slow reader is no timeout), or when
    `total_s` or the deadline passed. By then the inner generator is closed.
    """
    return _Timed(backend, spec.timeout_s, spec.total_s)


class _Watchdog:
    """Cancels the waiting task when a wait lasts too long. One timer for many waits: a wait costs a timestamp, not a timer."""

    __slots__ = ("_cancelling", "_end", "_idle_s", "_loop", "_since", "_task", "_timer", "fired")

    def __init__(self, idle_s: float, end: float, loop: asyncio.AbstractEventLoop) -> None:
        self._idle_s = idle_s
        self._end = end
        self._loop = loop
        self._since = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer: asyncio.TimerHandle | None = None
        self.fired = False

    def begin(self) -> bool:
        """A wait begins in the running task. False when the time is over already."""
        self._since = now = self._loop.time()
        if now >= self._end:
            return False
        self._task = task = asyncio.current_task(self._loop)
        if task is not None:
            self._cancelling = task.cancelling()
        if self._timer is None:
            self._timer = self._loop.call_at(min(now + self._idle_s, self._end), self._look)
        return True

    def pause(self) -> None:
        """The wait is over; nothing can be cancelled until the next one."""
        self._task = None

    def stop(self) -> None:
        self._task = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._task is None:
            return
        due = min(self._since + self._idle_s, self._end)
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._look)
            return
        self.fired = True
        self._task.cancel()

    def took_back(self) -> bool:
        """Undo the cancel that `_look` asked for. False when somebody else cancelled the task too: then theirs goes on (as in `asyncio.timeout`)."""
        task = asyncio.current_task()
        return task is not None and task.uncancel() <= self._cancelling

    def error(self, backend: str) -> BackendTimeout:
        if self._loop.time() >= self._end:
            return BackendTimeout(f"backend {backend!r} did not finish in the time the request had", backend=backend)
        return BackendTimeout(f"no event came from backend {backend!r} for {self._idle_s:g} s", backend=backend)


class _Timed(Wrapper):
    def __init__(self, inner: Backend, timeout_s: float, total_s: float | None) -> None:
        super().__init__(inner)
        self._timeout_s = timeout_s
        self._total_s = total_s

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        left = float("inf") if self._total_s is None else self._total_s
        if request.deadline is not None:
            left = min(left, request.deadline - time.time())
        watchdog = _Watchdog(self._timeout_s, loop.time() + left, loop)
        if left <= 0:
            raise watchdog.error(self.name)
        try:
            async with aclosing(self.inner.generate(request, attempt)) as events:
                following = events.__anext__
                while True:
                    if not watchdog.begin():
                        raise watchdog.error(self.name)
                    try:
                        event = await following()
                    except StopAsyncIteration:
                        return
                    finally:
                        watchdog.pause()
                        if watchdog.fired and watchdog.took_back():
                            # Raised here, it replaces the CancelledError that carried it, or the event that came too late.
                            raise watchdog.error(self.name)
                    yield event
        finally:
            watchdog.stop()
