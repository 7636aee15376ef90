"""Guessing slowed: failures counted by who makes them, in a table that cannot grow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import TypeVar

V = TypeVar("V")

PER_S = 60.0
MOST_NAMES = 10_000
MOST_DIGESTS = 10_000


class TooMany(Exception):
    """Come back after `wait_s` seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class _Bucket:
    """The failures of one name: as many as `level` says, less what has drained since `at`; `running` attempts are not decided yet."""

    __slots__ = ("at", "level", "running", "waiting")

    def __init__(self, at: float) -> None:
        self.level = 0.0
        self.at = at
        self.running = 0
        self.waiting: deque[asyncio.Future[None]] = deque()


class Slowing:
    """At most `limit` failures at once for a name (an address, the beginning of a key), then one in `60 / limit` seconds.

    A credential that was good a while ago passes whatever its address did, so that a guesser beside it locks nobody out. One that was refused a
    while ago is no guess: from half the limit on it is refused unseen, so that a client with a stale key leaves room for its neighbours' new ones.
    Attempts that run count as failures until they are decided; what would be one too many waits for them. Exact in one worker, and forgotten with it.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic, most_names: int = MOST_NAMES, most_digests: int = MOST_DIGESTS) -> None:
        """`limit` 0 slows nobody."""
        self._limit = limit
        self._clock = clock
        self._most_names = most_names
        self._most_digests = most_digests
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._bad: OrderedDict[bytes, float] = OrderedDict()

    def known_good(self, digest: bytes) -> bool:
        """Whether this credential was good a while ago."""
        if digest not in self._good:
            return False
        self._good.move_to_end(digest)
        return True

    async def enter(self, names: Sequence[str], digest: bytes | None) -> None:
        """Begin an attempt, which `leave` must end. Raises `TooMany`. A malformed credential has no digest."""
        if not self._limit:
            return
        refused_at = None if digest is None else self._bad.get(digest)
        repeated = refused_at is not None and self._clock() - refused_at < PER_S
        full = self._full(names, repeated)
        while full is not None:
            turn = asyncio.get_running_loop().create_future()
            full.waiting.append(turn)
            try:
                await turn
                again = self._full(names, repeated)
            except (asyncio.CancelledError, TooMany):
                if turn.done() and not turn.cancelled():
                    self._wake(full)  # the turn that it got is another's
                else:
                    with contextlib.suppress(ValueError):
                        full.waiting.remove(turn)
                raise
            if again is not full:
                if again is not None:  # it waits elsewhere now
                    self._wake(full)
                full = again
        for name in names:
            self._bucket(name).running += 1

    def _full(self, names: Sequence[str], repeated: bool) -> _Bucket | None:
        """The bucket in which an attempt would have to wait for others to be decided, or None. Raises `TooMany`."""
        full = None
        for name in names:
            bucket = self._bucket(name)
            if repeated and bucket.level >= self._limit / 2:
                raise TooMany(PER_S)
            if bucket.level + 1 > self._limit:
                raise TooMany((bucket.level + 1 - self._limit) * PER_S / self._limit)
            if bucket.level + bucket.running + 1 > self._limit:
                full = bucket
        return full

    def leave(self, names: Sequence[str], digest: bytes | None, good: bool | None) -> None:
        """End an attempt; None where nobody can say how it would have ended."""
        if not self._limit:
            return
        for name in names:
            bucket = self._bucket(name)
            bucket.running = max(0, bucket.running - 1)
            if good is False:
                bucket.level += 1
            self._wake(bucket)
        if good is False and digest is not None:
            _keep(self._bad, digest, self._clock(), self._most_digests)

    def was(self, digest: bytes, good: bool) -> None:
        """Remember what came of a credential."""
        if good:
            _keep(self._good, digest, None, self._most_digests)
            self._bad.pop(digest, None)
        else:
            self._good.pop(digest, None)

    def __len__(self) -> int:
        return len(self._buckets)

    def _bucket(self, name: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(now)
            if len(self._buckets) > self._most_names:
                self._evict()
        else:
            self._buckets.move_to_end(name)
            bucket.level = max(0.0, bucket.level - (now - bucket.at) * self._limit / PER_S)
            bucket.at = now
        return bucket

    def _evict(self) -> None:
        """The one that was quiet longest goes; those who wait in it go on."""
        _, oldest = self._buckets.popitem(last=False)
        while oldest.waiting:
            self._wake(oldest)

    @staticmethod
    def _wake(bucket: _Bucket) -> None:
        while bucket.waiting:
            turn = bucket.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


def _keep(table: OrderedDict[bytes, V], digest: bytes, value: V, most: int) -> None:
    table[digest] = value
    table.move_to_end(digest)
    if len(table) > most:
        table.popitem(last=False)
