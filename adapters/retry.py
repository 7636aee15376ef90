"""When a failed attempt is made again at the same backend, and after which pause. Pure.

Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015): the n-th pause is drawn evenly
from zero to `first_s` · 2^(n-1), at most `longest_s`.
"""

from __future__ import annotations

from adapters.errors import BackendError
from adapters.resilience import RetrySpec


def pause_before_retry(spec: RetrySpec, error: BackendError, *, failures: int, elapsed_s: float, chance: float) -> float | None:
    """How long to wait before the next attempt at a backend of which `failures` attempts failed, the last one with `error`; None: no further one.

    `elapsed_s` is the time since the first of them began, `chance` is in [0, 1). The provider's `Retry-After` is a lower bound: a pause never ends
    earlier, and where it is longer than the bounds allow there is none.
    """
    if failures >= spec.attempts or not may_help(error):
        return None
    asked = error.retry_after or 0.0
    if asked > spec.longest_s:
        return None
    pause = min(asked + chance * min(spec.longest_s, spec.first_s * 2 ** (failures - 1)), spec.longest_s)
    return None if elapsed_s + pause > spec.total_s else pause


def may_help(error: BackendError) -> bool:
    """Whether the same request may succeed at the same backend a moment later. A provider's 4xx says it will not, but for 408 and 429."""
    status = error.provider_status
    refused = status is not None and 400 <= status < 500 and status not in (408, 429)
    return error.retryable and not refused
