"""From the engine's thread to an event loop: a bounded queue whose fullness pauses the producer instead of blocking it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

LIMIT = 64


class Outbox(Generic[T]):
    """`put` from any thread, `take` on the event loop it was made on. The producer looks at `full` before it makes more.

    `on_room` is called (on the event loop) when the consumer has emptied a full box.
    """

    def __init__(self, on_room: Callable[[], None]) -> None:
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._items: list[T] = []
        self._filled = asyncio.Event()
        self._was_full = False

    @property
    def full(self) -> bool:
        with self._lock:
            self._was_full = len(self._items) >= LIMIT
            return self._was_full

    def put(self, *items: T) -> None:
        with self._lock:
            wake = not self._items
            self._items += items
        if wake and items:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody will take anything
                self._loop.call_soon_threadsafe(self._filled.set)

    async def take(self) -> list[T]:
        """All that is there, at least one. Cancelling it loses nothing."""
        while True:
            with self._lock:
                items, self._items = self._items, []
                room, self._was_full = self._was_full, False
            if room:
                self._on_room()
            if items:
                return items
            await self._filled.wait()
            self._filled.clear()
