"""The circuit breaker: a backend that is ill is left alone for a while, then tried with one request."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Literal, TypeAlias

from adapters.backend import Backend
from adapters.errors import (
    BackendError,
    BreakerOpen,
    ContentRefused,
    ContextTooLong,
    DeadlinePassed,
    InvalidRequest,
    QueueFull,
    RateLimited,
    UnsupportedFeature,
)
from adapters.resilience import BreakerSpec
from adapters.types import AttemptRecord, BackendHealth, Event, GenerateRequest
from adapters.wrappers.base import Wrapper

Circuit: TypeAlias = Literal["closed", "half_open", "open"]

LONGEST_OPEN_S = 3600.0
"""However long a provider asks to be left alone, one request an hour looks whether it still means it."""

_THE_REQUESTS_OWN = (UnsupportedFeature, InvalidRequest, ContextTooLong, ContentRefused)
"""Errors by which a backend that is well refuses a request."""


class Breaker:
    """The state of one backend's circuit in this process. Not thread-safe: it belongs to one event loop.

    Closed: all requests pass. `failures` in a row within `window_s` open it for `open_s`; so does, for as long as it asks, a second rate limit
    in a row that comes with a `Retry-After`. Then it is half open: one request passes, and its first event closes the circuit, its failure
    opens it again. What says nothing about the backend's health (a client that left, a deadline) changes nothing.

    `changed` is told every new state but the step from open to half open, which only time makes.
    """

    def __init__(self, spec: BreakerSpec, clock: Callable[[], float] = time.monotonic, changed: Callable[[Circuit], None] | None = None) -> None:
        self._spec = spec
        self._clock = clock
        self._changed = changed
        self._failures: deque[float] = deque(maxlen=spec.failures)
        self._last: BackendError | Exception | None = None
        self._until: float | None = None
        self._probing = False
        self._era = 0

    @property
    def state(self) -> Circuit:
        if self._until is None:
            return "closed"
        return "open" if self._clock() < self._until else "half_open"

    @property
    def opens_in_s(self) -> float:
        """Seconds until it lets a request through again; 0 where it does."""
        return 0.0 if self._until is None else max(0.0, self._until - self._clock())

    def problem(self) -> str | None:
        """Why a request would be refused now, or None."""
        match self.state:
            case "closed":
                return None
            case "half_open":
                return "its circuit breaker waits for the one request that tries whether it is well again" if self._probing else None
            case "open":
                why = self._last.code if isinstance(self._last, BackendError) else type(self._last).__name__
                return f"its circuit breaker is open for {math.ceil(self.opens_in_s)} s more, after {why}"

    def admit(self) -> int:
        """Let a request through: its ticket. Raises `BreakerOpen` with the wait in `retry_after`."""
        if (problem := self.problem()) is not None:
            raise BreakerOpen(problem, retry_after=self.opens_in_s or None)
        if self.state == "half_open":
            self._probing = True
            self._turn("half_open")
        return self._era

    def heard(self, ticket: int) -> int:
        """The first event has come. Returns the ticket with which the request goes on: the one that closes the circuit is one of the closed circuit."""
        if ticket != self._era or not self._probing:
            return ticket
        self._close()
        return self._era

    def succeeded(self, ticket: int) -> None:
        """The request was answered, or refused for its own fault."""
        if ticket == self._era:
            self._close()

    def left(self, ticket: int) -> None:
        """Nobody waited for the end."""
        if ticket == self._era:
            self._probing = False

    def failed(self, ticket: int, error: Exception) -> None:
        if ticket != self._era:  # of a request that began before the circuit last changed
            return
        now = self._clock()
        wait = error.retry_after if isinstance(error, RateLimited) else None
        again = isinstance(self._last, RateLimited) and self._last.retry_after is not None and bool(self._failures)
        self._last = error
        self._failures.append(now)
        if wait is not None and (again or self._probing):
            self._open(now + min(wait, LONGEST_OPEN_S))
        elif self._probing or (len(self._failures) == self._spec.failures and now - self._failures[0] <= self._spec.window_s):
            self._open(now + self._spec.open_s)

    def _open(self, until: float) -> None:
        self._until = until
        self._failures.clear()
        self._turn("open")

    def _close(self) -> None:
        self._failures.clear()
        self._last = None
        if self._until is not None:
            self._until = None
            self._turn("closed")

    def _turn(self, state: Circuit) -> None:
        self._probing = state == "half_open"
        self._era += 1
        if self._changed is not None:
            self._changed(state)


def with_breaker(backend: Backend, breaker: Breaker) -> Backend:
    """The backend behind its breaker. `health` says why it is not ready while the circuit is open."""
    return _Broken(backend, breaker)


class _Broken(Wrapper):
    def __init__(self, inner: Backend, breaker: Breaker) -> None:
        super().__init__(inner)
        self._breaker = breaker

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        breaker = self._breaker
        ticket = breaker.admit()
        heard = False
        try:
            async with aclosing(self.inner.generate(request, attempt)) as events:
                async for event in events:
                    if not heard:
                        heard = True
                        ticket = breaker.heard(ticket)
                    yield event
        except _THE_REQUESTS_OWN:
            breaker.succeeded(ticket)
            raise
        except (DeadlinePassed, QueueFull):
            breaker.left(ticket)
            raise
        except Exception as error:
            breaker.failed(ticket, error)
            raise
        except BaseException:  # cancelled or closed by its consumer
            breaker.left(ticket)
            raise
        breaker.succeeded(ticket)

    async def health(self) -> BackendHealth:
        problem = self._breaker.problem()
        return await self.inner.health() if problem is None else BackendHealth(ready=False, reason=problem)
