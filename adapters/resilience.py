"""The keys of a backend's table that say what to do about failures and slowness: retries, the circuit breaker, a hedge."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Seconds: TypeAlias = Annotated[float, Meta(gt=0)]


class RetrySpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`attempts` at one backend for one request, the first one included: 1 is no retry. No pause is longer than `longest_s`, and none begins that
    would end later than `total_s` after the first attempt began. Times are in seconds."""

    attempts: Annotated[int, Meta(ge=1, le=10)] = 2
    first_s: Seconds = 0.25
    longest_s: Seconds = 4.0
    total_s: Seconds = 20.0


class BreakerSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """After `failures` in a row within `window_s` the backend gets no requests for `open_s`; then one is let through. Times are in seconds."""

    failures: Annotated[int, Meta(ge=1)] = 5
    window_s: Seconds = 30.0
    open_s: Seconds = 15.0


class HedgeSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When `after_s` passed without a delta, a second attempt begins beside the first: at `backend`, or at the same one."""

    after_s: Seconds
    backend: str | None = None
