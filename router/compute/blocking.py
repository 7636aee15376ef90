"""The compute process's embedder for threads that may block: the import of documents."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from adapters.embedding import EmbedderUnavailable, Kind
from adapters.errors import BackendError
from router.compute import protocol as wire
from router.compute.folder import check_folder

if TYPE_CHECKING:
    from adapters.embedding import Matrix

T = TypeVar("T")

CONNECT_S = 60.0
CALL_S = 600.0
PAUSE_S = 0.1


class BlockingEmbedder:
    """`adapters.embedding.Embedder` over a socket of its own; its texts give way to questions. One call at a time, from any thread.

    Waits up to `connect_s`, or until `stopping` is set, for the compute process, and asks again when that dies in the middle of an answer:
    embedding has no effects. Raises `EmbedderUnavailable`.
    """

    space: str
    dimensions: int
    max_tokens: int

    def __init__(self, path: str | Path, *, connect_s: float = CONNECT_S, call_s: float = CALL_S, stopping: threading.Event | None = None) -> None:
        self._path = str(path)
        self._connect_s = connect_s
        self._call_s = call_s
        self._stopping = stopping or threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._last_id = 0

    def __getattr__(self, name: str) -> Any:
        """What the embedder is like is asked when it is first needed: this object may be older than the compute process."""
        if name not in ("space", "dimensions", "max_tokens"):
            raise AttributeError(name)
        described = self._ask(lambda id: wire.Describe(id), wire.Embeddings)
        self.space, self.dimensions, self.max_tokens = described.space, described.dimensions, described.max_tokens
        return getattr(described, name)

    def embed(self, texts: Sequence[str], kind: Kind, /) -> Matrix:
        import numpy as np

        found = self._ask(lambda id: wire.Embed(id, tuple(texts), kind, urgent=False), wire.Embeddings)
        if found.space != self.space:
            raise EmbedderUnavailable(f"the compute process now embeds in {found.space}, no longer in {self.space}: start the import again")
        matrix: Matrix = np.frombuffer(found.vectors, dtype="<f4").astype(np.float32).reshape(len(texts), found.dimensions)
        return matrix

    def count_tokens(self, texts: Sequence[str], /) -> list[int]:
        return self._ask(lambda id: wire.CountTokens(id, tuple(texts)), list[int])

    def __enter__(self) -> BlockingEmbedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _ask(self, make: Callable[[int], wire.Request], answer: type[T]) -> T:
        with self._lock:
            end = time.monotonic() + self._connect_s
            while True:
                self._last_id += 1
                try:
                    return msgspec.msgpack.decode(self._exchange(make(self._last_id), self._last_id), type=answer)
                except (wire.ProtocolError, BackendError) as error:
                    self._disconnect()
                    raise EmbedderUnavailable(str(error)) from error
                except (OSError, EOFError) as error:
                    self._disconnect()
                    if time.monotonic() + PAUSE_S > end:
                        raise EmbedderUnavailable(f"the compute process does not answer at {self._path}: {error!r}") from error
                if self._stopping.wait(PAUSE_S):
                    raise EmbedderUnavailable("this process is stopping")

    def _exchange(self, request: wire.Request, id: int) -> msgspec.Raw:
        connection = self._connected()
        connection.sendall(wire.frame(request))
        while True:
            match wire.decode_from_server(_read_frame(connection)):
                case wire.Result() as message if message.id == id:
                    return message.value
                case wire.Failure() as message if message.id == id:
                    raise wire.error_of(message)
                case wire.Hello() | wire.Events() | wire.Done() | wire.Result() | wire.Failure() as message:
                    raise wire.ProtocolError(f"an unexpected {type(message).__name__}")

    def _connected(self) -> socket.socket:
        if self._socket is None:
            check_folder(Path(self._path).parent)
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(self._call_s)
                connection.connect(self._path)
                connection.sendall(wire.frame(wire.Hello(wire.VERSION, os.getpid())))
                wire.check_hello(wire.decode_from_server(_read_frame(connection)))
            except BaseException:
                connection.close()
                raise
            self._socket = connection
        return self._socket

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _read_frame(connection: socket.socket) -> bytes:
    return _read_exactly(connection, wire.body_length(_read_exactly(connection, wire.HEADER)))


def _read_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(1 << 20, size - len(data)))
        if not piece:
            raise EOFError("the compute process ended")
        data += piece
    return bytes(data)
