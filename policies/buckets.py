"""Token buckets as arithmetic on numbers: what is left, what may pass, how long the wait is. Pure; times are seconds of any one clock.

A bucket holds at most `capacity` and refills by `rate` a second. A charge passes when the bucket holds it, or, for one that is larger than half the
bucket, when that is half full; then all of it is taken, so the level may go below nothing, and what comes next waits until that is paid. (Were it
to be full, all that comes between that moment and the client's next try would be lost.)

Guarantees, for charges of at most `limit`:

- over any time that begins with a bucket that is no more than full, what passed less what was given back is at most
  `rate * time + max(capacity, the largest charge + capacity / 2)`;
- truing up conserves: a charge of `a` that turns out to have been `b` leaves the bucket as a charge of `b` would have, as long as neither of the
  bounds below is met. What is given back may stand above `capacity` (it was paid for before) and does not refill then.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

LONGEST_DEBT = 10.0
"""So many times its limit of a minute a bucket may be in debt: a provider's absurd report closes no tenant for ever."""

_SLACK = 1e-6
"""Of a request or a token: what the rounding of a wait may lack."""


class Bucket(Struct, frozen=True):
    """`limit` is what may pass in a minute, `capacity` what may pass at once."""

    limit: float
    capacity: float
    rate: float


def per_minute(limit: float, burst_s: float) -> Bucket:
    """A bucket of `limit` a minute that holds `burst_s` seconds of its rate, and at least one."""
    return Bucket(float(limit), max(1.0, limit * burst_s / 60), limit / 60)


def refilled(bucket: Bucket, level: float, elapsed: float) -> float:
    """The level after so many seconds. A clock that went back counts as one that stood still."""
    if level >= bucket.capacity or elapsed <= 0:
        return level
    return min(bucket.capacity, level + elapsed * bucket.rate)


def enough(bucket: Bucket) -> float:
    """A level at which every charge may pass."""
    return max(1.0, bucket.capacity / 2)


def wait_for(bucket: Bucket, level: float, cost: float) -> float:
    """Seconds until a charge may pass, 0 where it may now."""
    lacking = min(cost, enough(bucket)) - level
    return lacking / bucket.rate if lacking > _SLACK else 0.0


def charged(bucket: Bucket, level: float, cost: float) -> float:
    """The level after a charge; a negative cost gives back."""
    if cost < 0:
        return max(level, min(bucket.limit, level - cost))
    return max(level - cost, -LONGEST_DEBT * bucket.limit)


def full_in(bucket: Bucket, level: float) -> float:
    """Seconds until the bucket is full."""
    return max(0.0, bucket.capacity - level) / bucket.rate


def slowest(charges: Sequence[tuple[Bucket, float, float]]) -> tuple[int | None, float]:
    """Of charges `(bucket, level, cost)` the one that must wait longest, and how long: `(None, 0)` where all may pass."""
    found: int | None = None
    longest = 0.0
    for number, (bucket, level, cost) in enumerate(charges):
        wait = wait_for(bucket, level, cost)
        if wait > longest:
            found, longest = number, wait
    return found, longest
