"""The last scores of each tenant, shared by the workers of a host: a small ring in a file that every worker has mapped.

Whoever adds one holds a lock for some microseconds; whoever cannot have it at once leaves its score out, which moves a quantile by nothing. The
file outlives its workers, so a threshold goes on over a restart.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Final

from policies.complexity.quantile import WINDOW, Seen

_MAGIC: Final = b"headgate scores1"
_HEADER = struct.Struct("<16sQdd")
"""Magic, scores ever added, and the expected and the real cost of what was settled, both fading."""

_ENTRY = struct.Struct("<ddd")
_SIZE = _HEADER.size + WINDOW * _ENTRY.size
MOST_OPEN = 512
FADING = 0.99


class Scores:
    """A worker's view of all rings. Not for several threads at once. A ring belongs to a tenant and to what scores it: their scores differ in scale."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, tuple[int, mmap.mmap]] = OrderedDict()

    def seen(self, tenant: str, scorer: str) -> list[Seen]:
        """The last scores, oldest first. A ring that cannot be opened is empty."""
        ring = self._ring(tenant, scorer)
        if ring is None:
            return []
        _, count, _, _ = _HEADER.unpack_from(ring[1], 0)
        entries = [Seen(*_ENTRY.unpack_from(ring[1], _HEADER.size + place % WINDOW * _ENTRY.size)) for place in range(max(0, count - WINDOW), count)]
        return [each for each in entries if 0 <= each.score <= 1]

    def add(self, tenant: str, scorer: str, seen: Seen) -> None:
        """One more score, if nobody else is adding one right now."""
        ring = self._ring(tenant, scorer)
        if ring is None or not _locked(ring[0]):
            return
        try:
            magic, count, expected, real = _HEADER.unpack_from(ring[1], 0)
            _ENTRY.pack_into(ring[1], _HEADER.size + count % WINDOW * _ENTRY.size, seen.score, seen.weak_usd, seen.strong_usd)
            _HEADER.pack_into(ring[1], 0, magic, count + 1, expected, real)
        finally:
            fcntl.flock(ring[0], fcntl.LOCK_UN)

    def settled(self, tenant: str, scorer: str, expected_usd: float, real_usd: float) -> None:
        """What a request that was added came to cost, beside what was expected of the backend that answered."""
        ring = self._ring(tenant, scorer)
        if ring is None or expected_usd <= 0 or not _locked(ring[0]):
            return
        try:
            magic, count, expected, real = _HEADER.unpack_from(ring[1], 0)
            _HEADER.pack_into(ring[1], 0, magic, count, expected * FADING + expected_usd, real * FADING + real_usd)
        finally:
            fcntl.flock(ring[0], fcntl.LOCK_UN)

    def correction(self, tenant: str, scorer: str) -> float:
        """Real over expected cost of what was settled lately; 1 before anything was."""
        ring = self._ring(tenant, scorer)
        if ring is None:
            return 1.0
        _, _, expected, real = _HEADER.unpack_from(ring[1], 0)
        return float(real / expected) if expected > 0 and real > 0 else 1.0

    def close(self) -> None:
        while self._open:
            _close(self._open.popitem()[1])

    def _ring(self, tenant: str, scorer: str) -> tuple[int, mmap.mmap] | None:
        name = hashlib.sha256(f"{tenant}\0{scorer}".encode()).hexdigest()[:24]
        if (ring := self._open.get(name)) is not None:
            self._open.move_to_end(name)
            return ring
        try:
            ring = _opened(self._folder / name)
        except OSError:
            return None
        self._open[name] = ring
        if len(self._open) > MOST_OPEN:
            _close(self._open.popitem(last=False)[1])
        return ring


def _opened(path: Path) -> tuple[int, mmap.mmap]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_size != _SIZE or os.pread(file, len(_MAGIC), 0) != _MAGIC:
            os.ftruncate(file, 0)
            os.ftruncate(file, _SIZE)
            os.pwrite(file, _HEADER.pack(_MAGIC, 0, 0.0, 0.0), 0)
        memory = mmap.mmap(file, _SIZE)
    except BaseException:
        os.close(file)
        raise
    fcntl.flock(file, fcntl.LOCK_UN)
    return file, memory


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _close(ring: tuple[int, mmap.mmap]) -> None:
    ring[1].close()
    os.close(ring[0])
