"""A push parser for server-sent events: bytes in, events out, at any cut. No I/O.

Source: WHATWG HTML, "9.2.6 Interpreting an event stream". `id` and `retry` mean nothing to a single answer and are dropped.
"""

from __future__ import annotations

from msgspec import Struct

from adapters.errors import ProviderFault

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""An event longer than this is taken for a provider gone wrong; an image inside an event is a few megabytes."""

_BOM = b"\xef\xbb\xbf"


class SseEvent(Struct, frozen=True, gc=False):
    """`name` is the `event` field; empty where the provider names none."""

    name: str
    data: bytes


class SseParser:
    """`feed` returns the events that the bytes so far complete; `finish` what an ended stream left without its blank line."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._started = False
        self._name = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Raises `ProviderFault` for an event over `MAX_EVENT_BYTES`."""
        if b"\n" not in chunk and b"\r" not in chunk:
            self._hold(chunk)
            return []
        if self._held:
            chunk = b"".join((*self._held, chunk))
            self._held.clear()
            self._held_bytes = 0
        if not self._started:
            self._started = True
            chunk = chunk.removeprefix(_BOM)
        rest = b""
        if b"\r" in chunk:
            if chunk.endswith(b"\r"):
                # It may be the first half of a line's end.
                chunk, rest = chunk[:-1], b"\r"
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        self._hold(lines.pop() + rest)
        return self._read(lines)

    def finish(self) -> list[SseEvent]:
        """The last event of a stream that ended without the closing blank line; its data may be cut short."""
        lines = b"".join(self._held).split(b"\r")
        self._held.clear()
        return self._read([*lines, b""])

    def _hold(self, piece: bytes) -> None:
        if piece:
            self._held.append(piece)
            self._held_bytes += len(piece)
            self._check()

    def _check(self) -> None:
        if self._held_bytes + self._data_bytes > MAX_EVENT_BYTES:
            raise ProviderFault("the provider sent an event that does not end")

    def _read(self, lines: list[bytes]) -> list[SseEvent]:
        events: list[SseEvent] = []
        for line in lines:
            if not line:
                if self._data:
                    events.append(SseEvent(self._name, self._data[0] if len(self._data) == 1 else b"\n".join(self._data)))
                    self._data = []
                    self._data_bytes = 0
                self._name = ""
            elif line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                self._data.append(value)
                self._data_bytes += len(value)
                if self._held_bytes + self._data_bytes > MAX_EVENT_BYTES:
                    self._check()
            elif line.startswith(b"event:"):
                self._name = line[6:].strip().decode("utf-8", "replace")
        return events
