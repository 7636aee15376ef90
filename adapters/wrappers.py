"""Wrappers: backends around a backend, with the same interface. `guarded(with_timeouts(backend, spec))` is what the router calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from adapters.backend import Backend, BackendSpec, estimate_output_tokens
from adapters.errors import BackendError, BackendTimeout, ProviderFault, StreamBroken
from adapters.types import (
    AttemptRecord,
    BackendHealth,
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    TokenCount,
    ToolCallDelta,
    Usage,
    UsageReported,
)


class Wrapper:
    """Passes everything on; subclasses change `generate`."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.name = inner.name
        self.provider = inner.provider
        self.model = inner.model
        self.capabilities = inner.capabilities

    def count(self, request: GenerateRequest, /) -> TokenCount:
        return self.inner.count(request)

    async def health(self) -> BackendHealth:
        return await self.inner.health()

    async def aclose(self) -> None:
        await self.inner.aclose()


def with_timeouts(backend: Backend, spec: BackendSpec) -> Backend:
    """The backend, bounded by `spec.timeout_s`, `spec.total_s` and the request's deadline.

    Raises `BackendTimeout` when no event came for `timeout_s` (counted only while the consumer waits: a slow reader is no timeout), or when
    `total_s` or the deadline passed. By then the inner generator is closed.
    """
    return _Timed(backend, spec.timeout_s, spec.total_s)


def guarded(backend: Backend) -> Backend:
    """The backend, held to its contract.

    Only `BackendError`s leave it: any other exception becomes a `ProviderFault` with the original in `__cause__`, and a stream that ends
    without a `Finished` for every choice a `StreamBroken`. The `AttemptRecord` has its times, counts, outcome and usage on every exit; where the
    backend reported no usage, or the stream broke off after more output than it had reported, the usage is an estimate that covers at least
    what was delivered.
    """
    return _Guarded(backend)


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


class _Guarded(Wrapper):
    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        attempt.started_at = time.time()
        seen = _Seen()
        error: BackendError | None = None
        try:
            async with aclosing(self.inner.generate(request, attempt)) as events:
                async for event in events:
                    seen.note(event, attempt)
                    if not seen.reported and isinstance(event, Finished):
                        attempt.usage = self._covering(attempt.usage, request, attempt)
                        yield UsageReported(attempt.usage)
                    yield event
            if len(seen.finished) < request.n:
                raise StreamBroken(f"backend {self.name!r} ended its stream without a finish", backend=self.name)
        except BackendError as failure:
            error = failure
            error.backend = error.backend or self.name
            raise
        except Exception as failure:
            error = ProviderFault(f"backend {self.name!r} failed: {type(failure).__name__}", backend=self.name)
            raise error from failure
        finally:
            complete = error is None and len(seen.finished) >= request.n
            if seen.unreported and not complete and _may_be_billed(attempt, error):
                attempt.usage = self._covering(attempt.usage, request, attempt)
            attempt.outcome = "ok" if complete else "cancelled" if error is None else "error"
            attempt.error = None if error is None else error.code
            attempt.ended_at = time.time()

    def _covering(self, usage: Usage | None, request: GenerateRequest, attempt: AttemptRecord) -> Usage:
        """The usage so far, at least what was delivered. A backend that counts its own tokens as it goes is believed."""
        delivered = estimate_output_tokens(attempt.delivered_characters)
        if usage is None:
            return Usage(input_tokens=self.inner.count(request).n, output_tokens=delivered, source="estimated")
        if usage.source == "counted":
            return usage
        return msgspec.structs.replace(usage, output_tokens=max(usage.output_tokens, delivered), source="estimated")


class _Seen:
    """What went by: the choices that finished, whether any usage was reported, and whether output came after the last report."""

    __slots__ = ("finished", "reported", "unreported")

    def __init__(self) -> None:
        self.finished: set[int] = set()
        self.reported = False
        self.unreported = True

    def note(self, event: Event, attempt: AttemptRecord) -> None:
        attempt.events += 1
        if attempt.first_event_at is None:
            attempt.first_event_at = time.time()
        match event:
            case TextDelta() | ReasoningDelta() | RefusalDelta():
                attempt.delivered_characters += len(event.text)
                self.unreported = True
            case ToolCallDelta():
                attempt.delivered_characters += len(event.name or "") + len(event.arguments)
                self.unreported = True
            case UsageReported():
                attempt.usage = event.usage
                self.reported, self.unreported = True, False
            case ResponseStarted():
                attempt.called = True
                attempt.model = event.model or attempt.model
                attempt.provider_request_id = event.provider_request_id or attempt.provider_request_id
            case Finished():
                self.finished.add(event.choice)
            case ProviderItem() | CitationAdded():
                pass


def _may_be_billed(attempt: AttemptRecord, error: BackendError | None) -> bool:
    """Whether the provider may bill an attempt that did not end well: it worked, or it was left while it may have been working.

    An error answered before any event (a refused connection, a 429) costs nothing.
    """
    return attempt.events > 0 or (attempt.called and (error is None or isinstance(error, BackendTimeout | StreamBroken)))
