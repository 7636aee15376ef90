"""Wrappers: backends around a backend, with the same interface. `protected` puts them in their order, for the router."""

from __future__ import annotations

from adapters.backend import Backend, BackendSpec
from adapters.wrappers.base import Wrapper
from adapters.wrappers.breaker import Breaker, with_breaker
from adapters.wrappers.guard import guarded
from adapters.wrappers.limit import Limiter, with_limit
from adapters.wrappers.timeouts import with_timeouts

__all__ = ["Breaker", "Limiter", "Wrapper", "guarded", "protected", "with_breaker", "with_limit", "with_timeouts"]


def protected(backend: Backend, spec: BackendSpec, breaker: Breaker | None = None, limiter: Limiter | None = None) -> Backend:
    """The backend as the router calls it.

    From the inside out: timeouts (they count while the provider is waited for, not in the queue), the breaker (a timeout is a failure, a full
    queue is none), the limit, and the contract around everything.
    """
    backend = with_timeouts(backend, spec)
    if breaker is not None:
        backend = with_breaker(backend, breaker)
    if limiter is not None:
        backend = with_limit(backend, limiter)
    return guarded(backend)
