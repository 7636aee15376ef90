"""The compute process's socket: reads requests, runs each as a task, writes what comes out, and cancels what nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import structlog

from adapters.backend import UnknownKind
from adapters.errors import BackendError, BackendUnavailable, InvalidRequest, ProviderFault, StreamBroken
from adapters.types import AttemptRecord
from router.compute import protocol as wire
from router.compute.folder import check_folder
from router.compute.services import Services

log = structlog.get_logger("headgate.compute")

MAX_PATH = 100
"""The system's limit for the path of a Unix socket is 107 bytes on Linux and 103 elsewhere."""


class ComputeServer:
    """Serves `Services` at a Unix socket until it is told to stop, then lets running requests end for up to `shutdown_s`."""

    def __init__(self, services: Services, *, shutdown_s: float = 10.0) -> None:
        self._services = services
        self._shutdown_s = shutdown_s
        self._links: set[_Link] = set()
        self._stopping = False
        self._served = 0

    async def serve(self, path: Path, stop: asyncio.Event) -> None:
        """Returns after `stop` was set and everything has ended. Raises `OSError` where the socket cannot be made."""
        listener = bind(path)
        made = os.stat(path)
        server = await asyncio.start_unix_server(self._connection, sock=listener)
        log.info("compute_ready", socket=str(path), pid=os.getpid())
        try:
            await stop.wait()
        finally:
            self._stopping = True
            server.close()
            _remove(path, made)
            await self._drain()

    async def _drain(self) -> None:
        running = [task for link in self._links for task in link.tasks.values()]
        if running:
            log.info("draining", requests=len(running), at_most_s=self._shutdown_s)
            await asyncio.wait(running, timeout=self._shutdown_s)
        for link in list(self._links):
            for task in link.tasks.values():
                task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        connections = [link.connection for link in self._links if link.connection is not None]
        for link in self._links:
            link.writer.close()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            hello = wire.decode_from_client(await wire.read_frame(reader))
            await link.send(wire.Hello(wire.VERSION, os.getpid()))
            wire.check_hello(hello)
            while True:
                self._dispatch(link, wire.decode_from_client(await wire.read_frame(reader)))
        except wire.ProtocolError as error:
            log.warning("connection_refused", reason=str(error))
        except (OSError, EOFError):
            pass  # the other side left
        finally:
            link.gone = True
            self._links.discard(link)
            for task in link.tasks.values():
                task.cancel()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _dispatch(self, link: _Link, message: wire.FromClient) -> None:
        match message:
            case wire.Hello():
                raise wire.ProtocolError("a second greeting")
            case wire.Credit():
                link.grant(message.id, message.events)
            case wire.Cancel():
                if (task := link.tasks.get(message.id)) is not None:
                    link.cancelled.add(message.id)
                    task.cancel()
            case wire.Generate():
                self._start(link, message.id, self._generate(link, message))
            case wire.Embed() | wire.CountTokens() | wire.Search() | wire.Health() | wire.Warm() | wire.Describe() | wire.Stats():
                self._start(link, message.id, self._answer(link, message))

    def _start(self, link: _Link, id: int, work: Coroutine[Any, Any, None]) -> None:
        if id in link.tasks:
            work.close()
            raise wire.ProtocolError(f"request {id} is running already")
        self._served += 1
        link.credits[id] = _Credit(wire.WINDOW)
        link.tasks[id] = task = asyncio.create_task(work)
        task.add_done_callback(lambda _: link.forget(id))

    async def _generate(self, link: _Link, message: wire.Generate) -> None:
        attempt = AttemptRecord(backend="")
        credit = link.credits[message.id]
        try:
            self._refuse_when_stopping()
            async with aclosing(self._services.batches(_spec(message), message.request, attempt)) as batches:
                async for events in batches:
                    await credit.spend(len(events))
                    await link.send(wire.Events(message.id, events, attempt.usage))
            await link.send(wire.Done(message.id, attempt.usage))
        except asyncio.CancelledError:
            if not link.gone and message.id not in link.cancelled:  # stopped by this side: say so
                link.write(wire.failure(message.id, StreamBroken("the compute process is stopping"), attempt))
            raise
        except OSError:
            pass  # the other side left
        except Exception as error:
            await link.fail(message.id, error, attempt)

    async def _answer(self, link: _Link, message: wire.Embed | wire.CountTokens | wire.Search | wire.Health | wire.Warm | wire.Describe | wire.Stats) -> None:
        try:
            self._refuse_when_stopping()
            await link.send(wire.Result(message.id, wire.raw(await self._value(message))))
        except asyncio.CancelledError:
            if not link.gone and message.id not in link.cancelled:
                link.write(wire.failure(message.id, BackendUnavailable("the compute process is stopping")))
            raise
        except OSError:
            pass
        except Exception as error:
            await link.fail(message.id, error)

    async def _value(self, message: wire.Embed | wire.CountTokens | wire.Search | wire.Health | wire.Warm | wire.Describe | wire.Stats) -> object:
        match message:
            case wire.Embed():
                return await self._services.embed(message.texts, message.kind, urgent=message.urgent)
            case wire.CountTokens():
                return await self._services.count_tokens(message.texts)
            case wire.Search():
                return await self._services.search(message.request)
            case wire.Health():
                return await self._services.health(_spec(message))
            case wire.Warm():
                await self._services.warm(_spec(message))
                return None
            case wire.Describe():
                return await self._services.embed((), "document", urgent=True)
            case wire.Stats():
                return wire.ComputeStats(os.getpid(), resident_bytes(), self._served, self._services.space, self._services.engines())

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise BackendUnavailable("the compute process is stopping")


class _Credit:
    """How many events a request may still send."""

    def __init__(self, events: int) -> None:
        self._left = events
        self._granted = asyncio.Event()

    def grant(self, events: int) -> None:
        self._left += events
        self._granted.set()

    async def spend(self, events: int) -> None:
        """Waits while there is none; a batch may overdraw, by less than one outbox."""
        while self._left <= 0:
            self._granted.clear()
            await self._granted.wait()
        self._left -= events


class _Link:
    """One connection: its running requests by id."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.connection = asyncio.current_task()
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.credits: dict[int, _Credit] = {}
        self.cancelled: set[int] = set()
        self.gone = False

    def grant(self, id: int, events: int) -> None:
        if (credit := self.credits.get(id)) is not None:  # a grant may cross the end of its request
            credit.grant(events)

    def forget(self, id: int) -> None:
        self.tasks.pop(id, None)
        self.credits.pop(id, None)
        self.cancelled.discard(id)

    def write(self, message: wire.FromServer) -> None:
        self.writer.write(wire.frame(message))

    async def send(self, message: wire.FromServer) -> None:
        self.write(message)
        await self.writer.drain()

    async def fail(self, id: int, error: Exception, attempt: AttemptRecord | None = None) -> None:
        """Tell the other side. What is no `BackendError` is logged here, with its trace, and told by its name only."""
        match error:
            case BackendError():
                known = error
            case UnknownKind() | msgspec.ValidationError():
                known = InvalidRequest(f"the compute process does not understand the backend's table: {error}")
            case _:
                log.error("request_failed", exc_info=error)
                known = ProviderFault(f"the compute process failed: {type(error).__name__}")
        with contextlib.suppress(OSError):
            await self.send(wire.failure(id, known, attempt))


def _spec(message: wire.Generate | wire.Health | wire.Warm) -> Any:
    return wire.decode_spec(message.kind, message.spec)


def bind(path: Path) -> socket.socket:
    """A Unix socket only this user may use, in a folder made private where it did not exist. A socket nobody listens at is replaced.

    Raises `OSError` where one listens already, something else stands there, or the folder could be another user's.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise OSError(f"the path of the socket is longer than {MAX_PATH} bytes: {path}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_folder(path.parent)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists and is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise OSError(f"another compute process listens at {path}")
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(128)  # at once: until it does, another process would take it for a dead one's
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _remove(path: Path, made: os.stat_result) -> None:
    """Remove our own socket, not a successor's at the same place."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(path.stat(), made):
            path.unlink()


def resident_bytes() -> int:
    """Main memory this process holds now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
