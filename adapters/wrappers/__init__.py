"""Wrappers: backends around a backend, with the same interface. `guarded(with_timeouts(backend, spec))` is what the router calls."""

from adapters.wrappers.base import Wrapper
from adapters.wrappers.guard import guarded
from adapters.wrappers.timeouts import with_timeouts

__all__ = ["Wrapper", "guarded", "with_timeouts"]
