"""The compute process as others see it: `ComputeClient` for the event loop of a gateway worker, `BlockingEmbedder` for threads.

Importing this module imports neither numpy nor torch nor FAISS.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from adapters.backend import BackendSpec
from adapters.embedding import Kind
from adapters.errors import BackendError, BackendTimeout, BackendUnavailable, StreamBroken
from adapters.types import AttemptRecord, BackendHealth, Event, GenerateRequest, ResponseStarted, Usage
from retrieval.values import SearchRequest, SearchResult
from router.compute import protocol as wire
from router.compute.blocking import BlockingEmbedder
from router.compute.folder import check_folder

__all__ = ["BlockingEmbedder", "ComputeClient"]

T = TypeVar("T")

CONNECT_S = 15.0
CALL_S = 60.0
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5


class ComputeClient:
    """One connection to the compute process, shared by every request of one event loop. Safe to make before the process runs.

    A call connects when it must, trying for up to `connect_s` while nobody listens: long enough for the process to start, or to be started
    again. When the connection breaks, what is under way ends at once: `StreamBroken` where an answer had begun, else `BackendUnavailable`.
    """

    def __init__(self, path: str | Path, *, connect_s: float = CONNECT_S, call_s: float = CALL_S) -> None:
        self._path = str(path)
        self._connect_s = connect_s
        self._call_s = call_s
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def generate(self, spec: BackendSpec, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        """As `Backend.generate`. Closing it tells the compute process at once; `attempt.usage` is what was used up to the last word from there."""
        connection = await self._connected(self._connect_s)
        call = connection.call(lambda id: wire.Generate(id=id, kind=spec.kind, spec=wire.raw(spec), request=request))
        try:
            while (event := await call.event()) is not None:
                attempt.called = True
                if isinstance(event, ResponseStarted):
                    attempt.model = event.model or attempt.model
                    attempt.provider_request_id = event.provider_request_id
                attempt.usage = call.usage
                yield event
        except BackendError as error:
            error.backend = error.backend or attempt.backend
            raise
        finally:
            call.close()
            attempt.usage = call.usage

    async def health(self, spec: BackendSpec, /) -> BackendHealth:
        """Never raises for a process that is down, and does not wait for it: that is what it reports."""
        if self._connecting.locked():
            return BackendHealth(ready=False, reason="the compute process is starting")
        try:
            return await self._ask(lambda id: wire.Health(id=id, kind=spec.kind, spec=wire.raw(spec)), BackendHealth, connect_s=0)
        except BackendError as error:
            return BackendHealth(ready=False, reason=error.message)

    async def warm(self, spec: BackendSpec, /) -> None:
        """Load the model now. Waits as long as that takes. Raises `BackendUnavailable` with the reason where it cannot be loaded."""
        await self._ask(lambda id: wire.Warm(id=id, kind=spec.kind, spec=wire.raw(spec)), type(None), call_s=None)

    async def search(self, request: SearchRequest, /) -> SearchResult:
        return await self._ask(lambda id: wire.Search(id=id, request=request), SearchResult)

    async def embed(self, texts: Sequence[str], kind: Kind = "query", *, urgent: bool = True) -> list[bytes]:
        """One unit vector a text: float32, little-endian."""
        found = await self.embeddings(texts, kind, urgent=urgent)
        size = 4 * found.dimensions
        return [found.vectors[at : at + size] for at in range(0, len(found.vectors), size)]

    async def embeddings(self, texts: Sequence[str], kind: Kind = "query", *, urgent: bool = True) -> wire.Embeddings:
        """The same with the name of the space and as one matrix."""
        return await self._ask(lambda id: wire.Embed(id=id, texts=tuple(texts), kind=kind, urgent=urgent), wire.Embeddings)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return await self._ask(lambda id: wire.CountTokens(id=id, texts=tuple(texts)), list[int])

    async def describe(self) -> wire.Embeddings:
        """The embedder's space, dimensions and longest text, without vectors."""
        return await self._ask(lambda id: wire.Describe(id=id), wire.Embeddings)

    async def stats(self) -> wire.ComputeStats:
        return await self._ask(lambda id: wire.Stats(id=id), wire.ComputeStats)

    async def aclose(self) -> None:
        """End the connection; the compute process cancels what was under way."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _ask(self, make: Callable[[int], wire.Request], answer: type[T], *, connect_s: float | None = None, call_s: float | None = -1.0) -> T:
        connection = await self._connected(self._connect_s if connect_s is None else connect_s)
        call = connection.call(make)
        limit = self._call_s if call_s == -1.0 else call_s
        try:
            async with asyncio.timeout(limit):
                return msgspec.msgpack.decode(await call.result(), type=answer)
        except TimeoutError as error:
            raise BackendTimeout(f"the compute process gave no answer within {limit:g} s") from error
        finally:
            call.close()

    async def _connected(self, wait_s: float) -> _Connection:
        connection = self._connection
        if connection is not None and connection.broken is None:
            return connection
        async with self._connecting:
            if self._connection is None or self._connection.broken is not None:
                self._connection = await self._connect(wait_s)
            return self._connection

    async def _connect(self, wait_s: float) -> _Connection:
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(max(1.0, end - loop.time())):
                    return await _Connection.open(self._path)
            except wire.ProtocolError as error:
                raise BackendUnavailable(f"the compute process cannot be used: {error}") from error
            except (OSError, EOFError, TimeoutError) as error:
                if loop.time() + pause > end:
                    raise BackendUnavailable(f"the compute process does not answer at {self._path}: {type(error).__name__}") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)


class _Connection:
    """Reads frames in a task of its own and hands each to the call it belongs to. `broken` says why it can no longer be used."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, _Call] = {}
        self._ids = itertools.count(1)
        self.broken: BackendError | None = None
        self._task = asyncio.create_task(self._read(), name="compute-client")

    @classmethod
    async def open(cls, path: str) -> _Connection:
        """Raises `OSError` or `EOFError` while nobody answers, `ProtocolError` for an answer in another language or an unsafe folder."""
        check_folder(Path(path).parent)
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(wire.frame(wire.Hello(wire.VERSION, os.getpid())))
            wire.check_hello(wire.decode_from_server(await wire.read_frame(reader)))
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer)

    def call(self, make: Callable[[int], wire.Request]) -> _Call:
        """Send a request. Raises what cannot be sent, or why the connection is broken."""
        if self.broken is not None:
            raise BackendUnavailable(self.broken.message) from self.broken
        id = next(self._ids)
        data = wire.frame(make(id))
        call = self._calls[id] = _Call(id, self)
        self._writer.write(data)
        return call

    def send(self, message: wire.Credit | wire.Cancel) -> None:
        if self.broken is None:
            self._writer.write(wire.frame(message))

    def forget(self, id: int) -> None:
        self._calls.pop(id, None)

    async def aclose(self) -> None:
        self._break(BackendUnavailable("the connection to the compute process was closed"))
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _read(self) -> None:
        reason = "the compute process ended"
        try:
            while True:
                message = wire.decode_from_server(await wire.read_frame(self._reader))
                if isinstance(message, wire.Hello):
                    raise wire.ProtocolError("a second greeting")
                if (call := self._calls.get(message.id)) is not None:
                    call.receive(message)
        except wire.ProtocolError as error:
            reason = f"the compute process sent {error}"
        except (OSError, EOFError):
            pass
        finally:
            self._break(BackendUnavailable(reason))

    def _break(self, error: BackendError) -> None:
        if self.broken is None:
            self.broken = error
            self._writer.close()
            for call in self._calls.values():
                call.abort(error)


class _Call:
    """One request on the connection: what has arrived for it and has not been taken yet."""

    def __init__(self, id: int, connection: _Connection) -> None:
        self._id = id
        self._connection = connection
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._begun = False
        self._taken = 0
        self._last: wire.Done | wire.Result | BackendError | None = None
        self.usage: Usage | None = None

    def receive(self, message: wire.Events | wire.Done | wire.Result | wire.Failure) -> None:
        match message:
            case wire.Events():
                self._events += message.events
                self.usage = message.usage or self.usage
                self._begun = True
            case wire.Done():
                self.usage = message.usage or self.usage
                self._last = message
            case wire.Result():
                self._last = message
            case wire.Failure():
                self.usage = message.usage or self.usage
                self._last = wire.error_of(message)
        self._arrived.set()

    def abort(self, error: BackendError) -> None:
        if self._last is None:
            kind = StreamBroken if self._begun else BackendUnavailable
            self._last = kind(f"{error.message} while it answered" if self._begun else error.message)
            self._last.__cause__ = error
            self._arrived.set()

    async def event(self) -> Event | None:
        """The next event; None at the end. Raises the error the stream ended with."""
        while not self._events:
            if isinstance(self._last, BackendError):
                raise self._last
            if self._last is not None:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        self._taken += 1
        if self._taken == wire.WINDOW // 2:
            self._connection.send(wire.Credit(self._id, self._taken))
            self._taken = 0
        return self._events.popleft()

    async def result(self) -> msgspec.Raw:
        while self._last is None:
            self._arrived.clear()
            await self._arrived.wait()
        if isinstance(self._last, BackendError):
            raise self._last
        if not isinstance(self._last, wire.Result):
            raise BackendUnavailable("the compute process answered another question")
        return self._last.value

    def close(self) -> None:
        """Nobody waits any longer: where it still runs, it is cancelled."""
        self._connection.forget(self._id)
        if self._last is None:
            self._connection.send(wire.Cancel(self._id))
