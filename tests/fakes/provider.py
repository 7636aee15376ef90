"""A scriptable provider on loopback: answers what a test scripts, breaks where it says so, and sees what its clients do.

It speaks HTTP/1.1 by hand over asyncio's sockets, because a test must be able to cut a connection between two bytes and to know when a
client went away. It knows no provider's format: `tests.fakes.wire` builds the bodies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias


class Cut:
    """Reset the connection here, without the end of the body."""


class Close:
    """Close the connection here, in an orderly way. Where the body has no declared end, that is its end."""


class Hang:
    """Say nothing more until the client goes away."""


@dataclass
class Wait:
    """Go on when the event is set: a test decides what has been read by then."""

    event: asyncio.Event


@dataclass
class Mark:
    """Set the event: a test learns that everything before it was sent."""

    event: asyncio.Event


@dataclass
class Gap:
    """Pause for so many seconds: for streams that shall be alive while something else happens."""

    seconds: float


Step: TypeAlias = bytes | Cut | Close | Hang | Wait | Mark | Gap


@dataclass
class Reply:
    """One answer: a status, headers, and the steps of its body. `framing` is how the body's end is told."""

    steps: Sequence[Step] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})
    framing: str = "chunked"  # chunked | close


@dataclass
class Exchange:
    """One request as the server saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client closed the connection before the answer was complete."""
    gone_at: float | None = None
    """`time.perf_counter()` of that."""
    complete: bool = False
    ended: bool = False
    """Whether this side has said all it will: the whole answer, or as much as came before a `Cut` or `Close`."""
    sent: int = 0
    """Steps carried out."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Script: TypeAlias = Callable[[Exchange], Reply | Awaitable[Reply]]


class FakeProvider:
    """`async with FakeProvider(script) as server`: `script` is a reply for all requests, a list used up in order, or a function."""

    def __init__(self, script: Reply | list[Reply] | Script) -> None:
        self.script = script
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self._arrival = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FakeProvider:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def exchange(self, number: int = 0) -> Exchange:
        """The request of that number, as soon as it has come."""
        async with asyncio.timeout(30), self._arrival:
            await self._arrival.wait_for(lambda: len(self.exchanges) > number)
        return self.exchanges[number]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while (exchange := await _request(reader)) is not None:
                async with self._arrival:
                    self.exchanges.append(exchange)
                    self._arrival.notify_all()
                if not await self._answer(exchange, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _reply(self, exchange: Exchange) -> Reply:
        if isinstance(self.script, Reply):
            return self.script
        if isinstance(self.script, list):
            return self.script.pop(0)
        reply = self.script(exchange)
        return reply if isinstance(reply, Reply) else await reply

    async def _answer(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection can carry another request."""
        watch = asyncio.create_task(_watch(exchange, reader))
        speak = asyncio.create_task(self._reply_and_speak(exchange, writer))
        await asyncio.wait({watch, speak}, return_when=asyncio.FIRST_COMPLETED)
        for task in (watch, speak):
            task.cancel()
        _, goes_on = await asyncio.gather(watch, speak, return_exceptions=True)
        return goes_on is True

    async def _reply_and_speak(self, exchange: Exchange, writer: asyncio.StreamWriter) -> bool:
        reply = await self._reply(exchange)
        exchange.complete = await _speak(exchange, reply, writer)
        exchange.ended = True
        return exchange.complete and reply.framing == "chunked"


async def _request(reader: asyncio.StreamReader) -> Exchange | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    return Exchange(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


async def _watch(exchange: Exchange, reader: asyncio.StreamReader) -> None:
    """A client sends nothing while it is answered, so an end of its side is a client gone away."""
    with contextlib.suppress(ConnectionError):
        await reader.read(1)
    exchange.gone_at = time.perf_counter()
    exchange.gone.set()


async def _speak(exchange: Exchange, reply: Reply, writer: asyncio.StreamWriter) -> bool:
    chunked = reply.framing == "chunked"
    headers = {**reply.headers, **({"transfer-encoding": "chunked"} if chunked else {"connection": "close"})}
    lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
    for step in reply.steps:
        match step:
            case bytes():
                writer.write(b"%x\r\n%s\r\n" % (len(step), step) if chunked else step)
                await writer.drain()
            case Cut():
                writer.transport.abort()
                return False
            case Close():
                return False
            case Hang():
                await asyncio.get_running_loop().create_future()
            case Wait():
                await step.event.wait()
            case Mark():
                step.event.set()
            case Gap():
                await asyncio.sleep(step.seconds)
        exchange.sent += 1
    if chunked:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True
