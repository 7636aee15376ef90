"""Bounds in time: for the first event, between two events, for the whole attempt, and the request's own deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from adapters.backend import Backend, BackendSpec
from adapters.errors import BackendTimeout, DeadlinePassed
from adapters.types import AttemptRecord, Event, GenerateRequest
from adapters.wrappers.base import Wrapper


def with_timeouts(backend: Backend, spec: BackendSpec) -> Backend:
    """The backend, bounded by `spec.first_event_s`, `spec.timeout_s`, `spec.total_s` and the request's deadline.

    Raises `BackendTimeout` when the first event did not come within `first_event_s`, or no further one for `timeout_s` (counted only while the
    consumer waits: a slow reader is no timeout), or when `total_s` passed; `DeadlinePassed` when the deadline did. By then the inner generator
    is closed.
    """
    return _Timed(backend, spec)


class _Watchdog:
    """Cancels the waiting task when a wait lasts too long. One timer for many waits: a wait costs a timestamp, not a timer."""

    __slots__ = ("_cancelling", "_end", "_idle_s", "_loop", "_since", "_task", "_timer", "fired")

    def __init__(self, first_s: float, end: float, loop: asyncio.AbstractEventLoop) -> None:
        self._idle_s = first_s
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

    def after_first(self, idle_s: float) -> None:
        """The first event has come: from now on a wait may last so long."""
        self._idle_s = idle_s
        if self._timer is not None:  # it was set for the first event
            self._timer.cancel()
            self._timer = None

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

    @property
    def over(self) -> bool:
        return self._loop.time() >= self._end

    def error(self, backend: str) -> BackendTimeout:
        return BackendTimeout(f"no event came from backend {backend!r} for {self._idle_s:g} s", backend=backend)


class _Timed(Wrapper):
    def __init__(self, inner: Backend, spec: BackendSpec) -> None:
        super().__init__(inner)
        self._first_s = spec.timeout_s if spec.first_event_s is None else spec.first_event_s
        self._idle_s = spec.timeout_s
        self._total_s = spec.total_s

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        loop = asyncio.get_running_loop()
        left = float("inf") if self._total_s is None else self._total_s
        own = request.deadline is not None and request.deadline - time.time() < left
        if own and request.deadline is not None:
            left = request.deadline - time.time()
        watchdog = _Watchdog(self._first_s, loop.time() + left, loop)
        first = self._first_s != self._idle_s
        try:
            async with aclosing(self.inner.generate(request, attempt)) as events:
                following = events.__anext__
                while True:
                    if not watchdog.begin():
                        raise self._late(watchdog, own)
                    try:
                        event = await following()
                    except StopAsyncIteration:
                        return
                    finally:
                        watchdog.pause()
                        if watchdog.fired and watchdog.took_back():
                            # Raised here, it replaces the CancelledError that carried it, or the event that came too late.
                            raise self._late(watchdog, own)
                    if first:
                        first = False
                        watchdog.after_first(self._idle_s)
                    yield event
        finally:
            watchdog.stop()

    def _late(self, watchdog: _Watchdog, own: bool) -> BackendTimeout:
        """`own`: the request's deadline comes before the end of `total_s`."""
        if not watchdog.over:
            return watchdog.error(self.name)
        if own:
            return DeadlinePassed(f"backend {self.name!r} did not finish in the time the request had", backend=self.name)
        return BackendTimeout(f"backend {self.name!r} did not finish in the time its total_s allows", backend=self.name)
