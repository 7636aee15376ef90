"""Server-sent events: frames, heartbeats, and one response that never ends silently."""

from __future__ import annotations

HEARTBEAT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


def frame(data: bytes) -> bytes:
    """One event of one line of JSON."""
    return b"data: " + data + b"\n\n"
