"""A slow reader pauses the upstream, and whatever size the events have, a worker holds only a little of a stream.

Measured on the worker processes of a whole service; `-s` prints the figures. What the kernel keeps in its socket buffers is no memory of the
worker, but it counts in what the upstream could send: the window below is mostly that.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from config.database import open_database
from tests.e2e.money_books import settled_books
from tests.e2e.money_crowd import whole, worker_pids
from tests.fakes.provider import Exchange, FakeProvider, Mark, Reply, Step, Wait
from tests.fakes.wire import Answer, openai_chunk, openai_steps
from tests.serving import Serve

MEGABYTE = 1_000_000
POLICY = """
version: 1
settings: {{heartbeat_s: 0.1, commit_after_s: 0.05}}
backends:
  remote: {{kind: openai, model: served, base_url: "{url}/v1", price: {{input: 0.0, output: 0.0}}, timeout_s: 60, max_output_tokens: 1000000}}
default: remote
fallback: []
"""
FIRST, *_, FINISH, USAGE, DONE = openai_steps(Answer(texts=("x",)))


class Reader:
    """A client with a small receive buffer that reads when told to."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.received = bytearray()

    async def read(self, size: int) -> None:
        """At least so many bytes more."""
        wanted = len(self.received) + size
        async with asyncio.timeout(30):
            while len(self.received) < wanted:
                piece = await asyncio.get_running_loop().sock_recv(self._connection, 1 << 16)
                assert piece, "the service closed the stream"
                self.received += piece

    async def read_to_the_end(self) -> None:
        """As fast as it comes: the buffer grows, which has no say any more in how much waits elsewhere."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MEGABYTE)
        async with asyncio.timeout(60):
            while not self.received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
                await self.read(1)

    @property
    def frames(self) -> list[bytes]:
        """The frames of the stream so far, out of their chunks."""
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        assert b"200 OK" in head, head
        body = bytearray()
        while rest and (size := int(rest.partition(b"\r\n")[0] or b"0", 16)):
            start = rest.index(b"\r\n") + 2
            body += rest[start : start + size]
            rest = rest[start + size + 2 :]
        return bytes(body).split(b"\n\n")

    @property
    def text(self) -> str:
        frames = [json.loads(frame[6:]) for frame in self.frames if frame.startswith(b"data: {")]
        return "".join(choice["delta"].get("content") or "" for frame in frames for choice in frame["choices"])


@dataclass
class Scene:
    serve: Serve
    provider: FakeProvider
    reader: Reader
    exchange: Exchange
    base: int

    def grown(self) -> int:
        """Bytes by which the worker is larger than before the request."""
        return memory(self.serve) - self.base


def memory(serve: Serve) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in worker_pids(serve))


@asynccontextmanager
async def streaming(home: Path, steps: list[Step], *, warm: bool = True) -> AsyncIterator[Scene]:
    """A stream of these steps, asked for and not read. Requests before it warm the worker up."""
    replies = [Reply([FIRST, FINISH, USAGE, DONE])] * 4 if warm else []
    async with FakeProvider([*replies, Reply(steps)]) as provider, whole(home, POLICY.format(url=provider.url), {}, workers=1) as serve:
        place = urlsplit(serve.url)
        body = b'{"model":"auto","stream":true,"messages":[{"role":"user","content":"Pour."}]}'
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {serve.keys['chat']}\r\ncontent-length: {len(body)}\r\n\r\n"
        loop = asyncio.get_running_loop()
        for number in range(len(replies) + 1):
            with socket.socket() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                connection.setblocking(False)
                await loop.sock_connect(connection, (place.hostname, place.port))
                base = memory(serve)
                await loop.sock_sendall(connection, head.encode() + body)
                reader = Reader(connection)
                if number < len(replies):
                    await reader.read_to_the_end()
                    continue
                yield Scene(serve, provider, reader, await provider.exchange(number), base)


async def standstill(exchange: Exchange) -> int:
    """The steps that the upstream has sent once it can send no more."""
    seen, still = -1, 0
    async with asyncio.timeout(30):
        while still < 25:
            await asyncio.sleep(0.02)
            still = still + 1 if exchange.sent == seen else 0
            seen = exchange.sent
    return seen


async def test_a_slow_reader_pauses_a_stream_of_26_megabytes(tmp_path: Path) -> None:
    pieces = [openai_chunk({"content": f"{number:06d}" + "x" * 15_994}) for number in range(26 * MEGABYTE // 16_000)]
    size = sum(map(len, pieces))
    async with streaming(tmp_path / "home", [FIRST, *pieces, FINISH, USAGE, DONE]) as scene:
        await scene.reader.read(1000)
        sent = await standstill(scene.exchange)
        waiting = sum(map(len, pieces[: max(0, sent - 1)]))
        held = scene.grown()
        assert waiting < size / 2, "half of it waits at the upstream"
        await scene.reader.read(2 * MEGABYTE)
        later = await standstill(scene.exchange)
        assert sum(map(len, pieces[:later])) - waiting < 2 * MEGABYTE + 4 * MEGABYTE, "what was read makes room for as much, not for all"
        await scene.reader.read_to_the_end()
        peak = scene.grown()
        assert scene.reader.text == "".join(json.loads(piece[6:])["choices"][0]["delta"]["content"] for piece in pieces)
        assert max(held, peak) < 12 * MEGABYTE
    print(f"\n26 MB: {waiting / 1e6:.1f} MB sent while nobody read; the worker grew by {held / 1e6:.1f} MB, and by {peak / 1e6:.1f} MB at the end")  # noqa: T201


async def test_five_thousand_tiny_events_are_held_in_little_memory(tmp_path: Path) -> None:
    pieces = [openai_chunk({"content": f"{number} "}) for number in range(5000)]
    async with streaming(tmp_path / "home", [FIRST, b"".join(pieces), FINISH, USAGE, DONE]) as scene:
        await scene.reader.read(1000)
        await standstill(scene.exchange)
        held = scene.grown()
        await scene.reader.read_to_the_end()
        assert scene.reader.text == "".join(f"{number} " for number in range(5000))
        assert max(held, scene.grown()) < 8 * MEGABYTE
    print(f"\n5,000 tiny events in one write: the worker grew by {held / 1e6:.1f} MB")  # noqa: T201


async def test_one_event_of_a_megabyte_arrives_whole(tmp_path: Path) -> None:
    text = "y" * MEGABYTE
    async with streaming(tmp_path / "home", [FIRST, openai_chunk({"content": text}), FINISH, USAGE, DONE]) as scene:
        await scene.reader.read(1000)
        await standstill(scene.exchange)
        held = scene.grown()
        await scene.reader.read_to_the_end()
        assert scene.reader.text == text
        assert max(held, scene.grown()) < 16 * MEGABYTE
    print(f"\none event of 1 MB: the worker grew by {held / 1e6:.1f} MB")  # noqa: T201


async def test_heartbeats_do_not_pile_up_behind_a_slow_reader(tmp_path: Path) -> None:
    """While nobody reads, at most one heartbeat waits; after that they come in their rhythm again."""
    pieces = [openai_chunk({"content": "x" * 16_000})] * 1000
    sent, on = asyncio.Event(), asyncio.Event()
    async with streaming(tmp_path / "home", [FIRST, *pieces, Mark(sent), Wait(on), FINISH, USAGE, DONE]) as scene:
        await scene.reader.read(1000)
        await standstill(scene.exchange)  # which takes five heartbeats' time
        reading = asyncio.create_task(scene.reader.read_to_the_end())
        async with asyncio.timeout(30):
            await sent.wait()
        on.set()
        await reading
        beats = [number for number, frame in enumerate(scene.reader.frames) if frame.startswith(b":")]
    assert len(beats) <= 3, beats
    assert all(second - first > 1 for first, second in pairwise(beats)), "two in a row waited"


async def test_the_books_of_a_paused_stream_that_is_left_are_closed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    pieces = [openai_chunk({"content": "x" * 16_000})] * 1500
    async with streaming(home, [FIRST, *pieces, FINISH, USAGE, DONE], warm=False) as scene:
        await scene.reader.read(1000)
        await standstill(scene.exchange)
        scene.reader._connection.close()
        async with asyncio.timeout(30):
            await scene.exchange.gone.wait()
        database = open_database(f"sqlite:///{home / 'headgate.db'}")
        books = await settled_books(database)
        await database.aclose()
    (row,) = books.ledger
    assert row["outcome"] == "cancelled"
