"""Limits that all workers of one host share: a file that every worker has mapped into its memory, behind one lock.

A check is two system calls and some arithmetic, with nothing between the workers that could be late: what one takes, the next one sees. The
kernel gives the lock back when its holder dies. Each worker owns a number, which is a lock on a file of its own: a number whose lock is free
belongs to no living worker, and what it still holds of slots is taken back, the moment somebody else needs one.

The file outlives its workers (limits go on over a restart) and has a fixed number of places: sets of `WAYS`, in which an idle counter gives way to
a new one; where none is idle, the one that is idle soonest does.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from policies.buckets import charged, full_in, refilled
from policies.rate_limits import Scope
from router.limits.values import Charge, Give, StoreAway, Take, Verdict, refusal

WORKERS: Final = 256
"""As many as a host can have (`settings.workers`), and as many counts as a concurrency has places for."""

BUCKETS: Final = 32_768
RUNNING: Final = 4_096
WAYS: Final = 16

_MAGIC = b"headgate limits 1"
_HEADER = 64
_BUCKET = struct.Struct("<16sddd")
"""Whose it is, its level, when that was, and when it will be full."""

_STATE = struct.Struct("<dd")
_FULL = struct.Struct("<d")
_SLOT_SIZE = 16 + 2 * WORKERS
_SLOTS_AT = _HEADER + BUCKETS * _BUCKET.size
_SIZE = _SLOTS_AT + RUNNING * _SLOT_SIZE
_NOBODY = bytes(16)
PATIENCE_S = 0.05
"""For the lock. Its holder needs some microseconds; one that was stopped in the middle must not stop all others."""


class SharedMemory:
    """A worker's view. Not for several threads at once."""

    name = "memory"
    shared_by = 1

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `OSError`, also where no number is left for this worker."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._clock = clock
        self._file = os.open(folder / "counters", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with self._locked():
                self._prepare()
                self._memory = mmap.mmap(self._file, _SIZE)
                self._counts = memoryview(self._memory).cast("H")
                self._number, self._claim = self._claimed()
        except BaseException:
            os.close(self._file)
            raise
        self._places: dict[bytes, int] = {}

    async def take(self, take: Take) -> Verdict:
        return self.take_now(take)

    def take_now(self, take: Take) -> Verdict:
        self._lock()
        try:
            now = self._clock()
            places: list[int] = []
            slots: list[int] = []
            levels = []
            for charge in take.charges:
                places.append(place := self._bucket(charge.scope, now, places))
                levels.append(self._level(place, charge.scope, now))
            for scope in take.slots:
                slots.append(self._slot(scope, slots))
            running = [self._running(place) for place in slots]
            if slots and any(count >= scope.limit for scope, count in zip(take.slots, running, strict=True)) and self._bury():
                running = [self._running(place) for place in slots]
            verdict = refusal(take, levels, running)
            if verdict is not None:
                return verdict
            for number, charge in enumerate(take.charges):
                levels[number] = self._charge(places[number], charge, levels[number], now)
            for place in slots:
                self._counts[self._mine(place)] += 1
            return Verdict(tuple(levels))
        finally:
            self._unlock()

    def _charge(self, place: int, charge: Charge, level: float, now: float) -> float:
        bucket = charge.bucket
        level = charged(bucket, level, charge.cost)
        _BUCKET.pack_into(self._memory, place, charge.scope.digest, level, now, now + full_in(bucket, level))
        return level

    def give(self, give: Give) -> None:
        try:
            self._lock()
        except StoreAway:
            self._later(give)
            return
        try:
            now = self._clock()
            places: list[int] = []
            for charge in give.charges:
                with contextlib.suppress(StoreAway):  # its place went to others, so it is full by now
                    places.append(place := self._bucket(charge.scope, now, places))
                    self._charge(place, charge, self._level(place, charge.scope, now), now)
            for scope in give.slots:
                with contextlib.suppress(StoreAway):  # its place went to others, so it holds nothing
                    mine = self._mine(self._slot(scope))
                    self._counts[mine] = max(0, self._counts[mine] - 1)
        finally:
            self._unlock()

    def _later(self, give: Give) -> None:
        import asyncio

        asyncio.get_running_loop().call_later(2 * PATIENCE_S, self.give, give)

    async def beat(self) -> None:
        """Nothing is asked: the kernel knows who lives."""

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        if self._memory.closed:
            return
        self._counts.release()
        self._memory.close()
        os.close(self._claim)
        os.close(self._file)

    # --- the file --------------------------------------------------------------------------------------------------------------------

    def _lock(self) -> None:
        """Raises `StoreAway` where the lock cannot be had."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._wait()

    def _unlock(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._lock()
        try:
            yield
        finally:
            self._unlock()

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            os.sched_yield()
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise StoreAway("another worker holds the lock of the limits and does not let go") from None

    def _prepare(self) -> None:
        """Make the file what it should be; one of another form begins anew."""
        if os.fstat(self._file).st_size != _SIZE or os.pread(self._file, len(_MAGIC), 0) != _MAGIC:
            os.ftruncate(self._file, 0)
            os.ftruncate(self._file, _SIZE)
            os.pwrite(self._file, _MAGIC, 0)

    # --- buckets -----------------------------------------------------------------------------------------------------------------------

    def _bucket(self, scope: Scope, now: float, taken: Collection[int]) -> int:
        """Where a bucket stands; one that stood nowhere gets a place, full, which is none of those `taken` by the same operation.

        Raises `StoreAway` where these are all of its set.
        """
        digest, memory = scope.digest, self._memory
        known = self._places.get(digest)
        if known is not None and memory[known : known + 16] == digest:
            return known
        first = _HEADER + (int.from_bytes(digest[:4], "little") % (BUCKETS // WAYS)) * WAYS * _BUCKET.size
        ways = range(first, first + WAYS * _BUCKET.size, _BUCKET.size)
        place = next((way for way in ways if memory[way : way + 16] == digest), None)
        if place is None:
            bucket = scope.bucket
            assert bucket is not None
            others = (way for way in ways if way not in taken)
            place = min(others, key=lambda way: -1.0 if memory[way : way + 16] == _NOBODY else _FULL.unpack_from(memory, way + 32)[0], default=None)
            if place is None:
                raise StoreAway("no place is left for another limit of this request")
            _BUCKET.pack_into(memory, place, digest, bucket.capacity, now, now)
        self._remember(digest, place)
        return place

    def _level(self, place: int, scope: Scope, now: float) -> float:
        assert scope.bucket is not None
        level, at = _STATE.unpack_from(self._memory, place + 16)
        if at > now:  # written before the machine's last start
            _STATE.pack_into(self._memory, place + 16, level, now)
        return refilled(scope.bucket, level, now - at)

    def _remember(self, digest: bytes, place: int) -> None:
        if len(self._places) >= BUCKETS:
            self._places.clear()
        self._places[digest] = place

    # --- slots -------------------------------------------------------------------------------------------------------------------------

    def _slot(self, scope: Scope, taken: Collection[int] = ()) -> int:
        """Where a concurrency's counts stand; one that stood nowhere gets a place, which is none of those `taken` by the same operation.

        These look idle, for nothing is counted before all places are known. Raises `StoreAway` where every other place of its set has requests that run.
        """
        digest, memory = scope.digest, self._memory
        known = self._places.get(digest)
        if known is not None and memory[known : known + 16] == digest:
            return known
        first = _SLOTS_AT + (int.from_bytes(digest[:4], "little") % (RUNNING // WAYS)) * WAYS * _SLOT_SIZE
        ways = range(first, first + WAYS * _SLOT_SIZE, _SLOT_SIZE)
        place = next((way for way in ways if memory[way : way + 16] == digest), None)
        if place is None:
            place = next((way for way in ways if memory[way : way + 16] == _NOBODY), None)
            if place is None:
                place = next((way for way in ways if way not in taken and not self._running(way)), None)
            if place is None:
                raise StoreAway("no place is left for another limit of concurrency")
            memory[place : place + _SLOT_SIZE] = digest + bytes(2 * WORKERS)
        self._remember(digest, place)
        return place

    def _running(self, place: int) -> int:
        first = (place + 16) // 2
        return sum(self._counts[first : first + WORKERS])

    def _mine(self, place: int) -> int:
        return (place + 16) // 2 + self._number

    def _of_worker(self, number: int) -> range:
        """The places of all counts of a worker."""
        first = (_SLOTS_AT + 16) // 2 + number
        return range(first, first + RUNNING * (_SLOT_SIZE // 2), _SLOT_SIZE // 2)

    def _forget_worker(self, number: int) -> bool:
        """A dead worker holds nothing. Whether it did."""
        held = [place for place in self._of_worker(number) if self._counts[place]]
        for place in held:
            self._counts[place] = 0
        return bool(held)

    def _claimed(self) -> tuple[int, int]:
        """A number that no living worker has, with the lock that says so."""
        for number in range(WORKERS):
            claim = self._claim_of(number)
            if claim is not None:
                self._forget_worker(number)
                return number, claim
        raise OSError(f"{WORKERS} processes share the limits of {self._folder} already")

    def _claim_of(self, number: int) -> int | None:
        file = os.open(self._folder / f"worker-{number}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return file

    def _bury(self) -> bool:
        """Take back what dead workers hold. Whether there was anything."""
        found = False
        for number in range(WORKERS):
            if number == self._number:
                continue
            if not (self._folder / f"worker-{number}").exists():
                break  # numbers are given from the first on
            claim = self._claim_of(number)
            if claim is not None:
                found = self._forget_worker(number) or found
                os.close(claim)
        return found
