"""Slots that the processes of one host share: exactly so many are held at once, and a process that dies gives its own back.

Slot n of a folder is an exclusive `flock` on its file n. The kernel keeps the locks, so there is no count that could be wrong, nothing to recover
after a crash, and no process that must run for it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Slots:
    """`count` slots. Every call is a few system calls and never waits. Locks belong to this object: two of one folder share like two processes."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.count = count
        self._files: dict[int, int] = {}
        self._held: set[int] = set()
        self._next = os.getpid() % count  # processes begin to look at different places

    def take(self) -> int | None:
        """A slot that is free now, or None."""
        for step in range(self.count):
            slot = (self._next + step) % self.count
            if slot not in self._held and self._lock(slot):
                self._held.add(slot)
                self._next = (slot + 1) % self.count
                return slot
        return None

    def give(self, slot: int) -> None:
        """Give a slot back."""
        self._held.discard(slot)
        fcntl.flock(self._files[slot], fcntl.LOCK_UN)

    def close(self) -> None:
        """Give everything back."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        self._held.clear()

    def _lock(self, slot: int) -> bool:
        if slot not in self._files:
            self._files[slot] = os.open(self._folder / str(slot), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._files[slot], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
