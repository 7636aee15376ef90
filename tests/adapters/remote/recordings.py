"""Recorded provider traffic, where this machine has it: what was recorded, and a server that replays it."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from adapters.sender import RawResponse, Sender

SHARED = Path(__file__).resolve().parents[3] / "../shared"
RECORDED = SHARED / "data/recorded/interactions.jsonl.gz"
REPLAY = SHARED / "replay/replay.py"
ABSENT = "recorded provider traffic is not on this machine (../shared/replay and ../shared/data/recorded)"


def present() -> bool:
    return RECORDED.is_file() and REPLAY.is_file()


@cache
def interactions() -> tuple[dict[str, Any], ...]:
    if not present():
        return ()
    with gzip.open(RECORDED, "rt") as lines:
        return tuple(json.loads(line) for line in lines)


def recorded_ids(provider: str, path_end: str, *, stream: bool = True, status: int = 200) -> list[str]:
    """The ids of one provider's recordings whose path ends so."""
    return [
        each["id"]
        for each in interactions()
        if each["provider"] == provider and each["path"].endswith(path_end) and ("event-stream" in each["ct"]) == stream and each["status"] == status
    ]


@contextmanager
def replaying(folder: Path) -> Iterator[str]:
    """The address of a server that replays the recordings, running until the end of the block."""
    unpacked = folder / "interactions.jsonl"
    unpacked.write_bytes(gzip.decompress(RECORDED.read_bytes()))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(REPLAY), str(unpacked), str(port)])
    try:
        _until_it_listens(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            continue
        return
    raise RuntimeError("the replay server did not start")


class WithHeaders:
    """A sender that adds headers to every request: how a test says which recording it wants."""

    def __init__(self, inner: Sender, headers: Mapping[str, str]) -> None:
        self.inner = inner
        self.headers = headers

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, stream: bool) -> RawResponse:
        return await self.inner.post(path, body, {**headers, **self.headers}, stream=stream)

    async def aclose(self) -> None:
        await self.inner.aclose()
