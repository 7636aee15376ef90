"""How an answer goes out: whole, or as a stream whose status may wait and which never falls silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from litestar.types import Send

from router.wire.sse import HEADERS


async def send_whole(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json"), length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class EventSender:
    """Sends a stream's frames, and a heartbeat whenever nothing else was sent for `heartbeat_s`.

    The response opens at `start`, or by itself after `commit_after_s`.
    """

    def __init__(self, send: Send, headers: Callable[[], list[tuple[bytes, bytes]]], heartbeat: bytes, commit_after_s: float, heartbeat_s: float) -> None:
        self._send = send
        self._headers = headers
        self._heartbeat = heartbeat
        self._heartbeat_s = heartbeat_s
        self._last = 0.0
        self._opening = asyncio.Lock()
        self._beating = asyncio.create_task(self._beat(commit_after_s))
        self.started = False

    async def start(self) -> None:
        if self.started:
            return
        async with self._opening:
            if not self.started:
                self.started = True
                self._last = time.monotonic()
                await self._send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *self._headers()]})

    async def send(self, frames: bytes) -> None:
        self._last = time.monotonic()
        await self._send({"type": "http.response.body", "body": frames, "more_body": True})

    async def end(self, frames: bytes) -> None:
        await self._send({"type": "http.response.body", "body": frames, "more_body": False})

    def stop(self) -> None:
        self._beating.cancel()

    async def _beat(self, commit_after_s: float) -> None:
        await asyncio.sleep(commit_after_s)
        if not self.started:
            await self.start()
            await self.send(self._heartbeat)
        while True:
            await asyncio.sleep(max(0.01, self._heartbeat_s - (time.monotonic() - self._last)))
            if time.monotonic() - self._last >= self._heartbeat_s:
                await self.send(self._heartbeat)
