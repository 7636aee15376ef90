"""What travels over the compute socket: frames of MessagePack, each led by its length as four bytes, big-endian.

One connection carries many requests, told apart by an id the client chooses. After both sides said `Hello`, the client sends `Generate`,
`Embed`, `CountTokens`, `Search`, `Health`, `Warm`, `Describe` or `Stats`, and for a running request `Cancel` or `Credit`; the server answers `Events`
(any number), then one `Done`, `Result` or `Failure`. Nothing more comes for an id after `Cancel` was sent and read.

Back pressure: the server may send as many events as the request has credit, `WINDOW` at the start; the client grants more as they are
consumed. A consumer that stops reading thus stops its own request and no other.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from adapters.backend import BackendSpec, kind_named
from adapters.embedding import Kind
from adapters.errors import ERRORS, BackendError, InvalidRequest
from adapters.llama import EngineState
from adapters.types import AttemptRecord, Event, GenerateRequest, Usage
from retrieval.values import SearchRequest

VERSION = 1
WINDOW = 256
MAX_FRAME = 256 * 1024 * 1024
_LENGTH = struct.Struct(">I")
HEADER = _LENGTH.size


class ProtocolError(Exception):
    """The other side sent something that is not this protocol, or another version of it."""


class Hello(Struct, frozen=True, tag="hello"):
    version: int
    pid: int


class Generate(Struct, frozen=True, tag="generate"):
    """Run a request on the model that `spec` (the YAML table of a backend of this `kind`) describes."""

    id: int
    kind: str
    spec: Raw
    request: GenerateRequest


class Credit(Struct, frozen=True, tag="credit"):
    id: int
    events: int


class Cancel(Struct, frozen=True, tag="cancel"):
    id: int


class Embed(Struct, frozen=True, tag="embed"):
    """Embed texts. An urgent request (a question somebody waits for) goes before the batches of an import."""

    id: int
    texts: tuple[str, ...]
    kind: Kind = "query"
    urgent: bool = True


class CountTokens(Struct, frozen=True, tag="count_tokens"):
    """Tokens of each text in the embedder's vocabulary."""

    id: int
    texts: tuple[str, ...]


class Search(Struct, frozen=True, tag="search"):
    id: int
    request: SearchRequest


class Health(Struct, frozen=True, tag="health"):
    id: int
    kind: str
    spec: Raw


class Warm(Struct, frozen=True, tag="warm"):
    """Load the model now; answered when it is ready."""

    id: int
    kind: str
    spec: Raw


class Describe(Struct, frozen=True, tag="describe"):
    """Which embedder is configured: loads it."""

    id: int


class Stats(Struct, frozen=True, tag="stats"):
    id: int


class Events(Struct, frozen=True, tag="events"):
    """Events of a running request, and what it has used up to now: so a client that leaves knows it too."""

    id: int
    events: tuple[Event, ...]
    usage: Usage | None = None


class Done(Struct, frozen=True, tag="done"):
    id: int
    usage: Usage | None = None


class Result(Struct, frozen=True, tag="result"):
    id: int
    value: Raw


class Failure(Struct, frozen=True, tag="failure"):
    """A `BackendError`, by its code and the fields that `adapters.errors` gives every error."""

    id: int
    code: str
    message: str
    backend: str = ""
    provider_status: int | None = None
    provider_code: str | None = None
    provider_request_id: str | None = None
    retry_after: float | None = None
    param: str | None = None
    usage: Usage | None = None


class Embeddings(Struct, frozen=True):
    """`vectors` is a matrix of float32, little-endian, with one row of `dimensions` a text. `space` names the model that made them."""

    space: str
    dimensions: int
    max_tokens: int
    vectors: bytes = b""


class ComputeStats(Struct, frozen=True):
    pid: int
    resident_bytes: int
    requests: int
    embedder: str = ""
    engines: tuple[EngineState, ...] = ()


Request: TypeAlias = Generate | Embed | CountTokens | Search | Health | Warm | Describe | Stats
FromClient: TypeAlias = Hello | Generate | Credit | Cancel | Embed | CountTokens | Search | Health | Warm | Describe | Stats
FromServer: TypeAlias = Hello | Events | Done | Result | Failure

_encoder = msgspec.msgpack.Encoder()
_from_client: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
_from_server: msgspec.msgpack.Decoder[FromServer] = msgspec.msgpack.Decoder(FromServer)


def frame(message: FromClient | FromServer) -> bytes:
    """The bytes of one message. Raises `InvalidRequest` for what MessagePack cannot hold: an integer beyond 64 bits, or too much of it."""
    try:
        body = _encoder.encode(message)
    except OverflowError as error:
        raise InvalidRequest("the request holds a number beyond 64 bits, which a local backend cannot take") from error
    if len(body) > MAX_FRAME:
        raise InvalidRequest(f"the request has {len(body)} bytes; a local backend takes at most {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


def body_length(header: bytes) -> int:
    """The length a frame's first bytes announce. Raises `ProtocolError` when it cannot be one of ours."""
    length: int = _LENGTH.unpack(header)[0]
    if length > MAX_FRAME:
        raise ProtocolError(f"a frame of {length} bytes")
    return length


def decode_from_client(body: bytes) -> FromClient:
    """Raises `ProtocolError`."""
    try:
        return _from_client.decode(body)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a message that cannot be read: {error}") from error


def decode_from_server(body: bytes) -> FromServer:
    """Raises `ProtocolError`."""
    try:
        return _from_server.decode(body)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a message that cannot be read: {error}") from error


def check_hello(message: FromClient | FromServer) -> None:
    """Raises `ProtocolError` unless the other side greets in this version."""
    if not isinstance(message, Hello):
        raise ProtocolError("no greeting")
    if message.version != VERSION:
        raise ProtocolError(f"the other side speaks version {message.version}, this one {VERSION}: restart both with the same Headgate")


def raw(value: object) -> Raw:
    return Raw(_encoder.encode(value))


def decode_spec(kind: str, spec: Raw) -> BackendSpec:
    """The spec as its kind's own type. Raises `UnknownKind` or `msgspec.ValidationError`."""
    return msgspec.msgpack.decode(spec, type=kind_named(kind).spec)


def failure(id: int, error: BackendError, attempt: AttemptRecord | None = None) -> Failure:
    return Failure(
        id=id,
        code=error.code,
        message=error.message,
        backend=error.backend,
        provider_status=error.provider_status,
        provider_code=error.provider_code,
        provider_request_id=error.provider_request_id,
        retry_after=error.retry_after,
        param=error.param,
        usage=attempt.usage if attempt else None,
    )


def error_of(message: Failure) -> BackendError:
    """The error as it was raised on the other side."""
    return ERRORS.get(message.code, BackendError)(
        message.message,
        backend=message.backend,
        provider_status=message.provider_status,
        provider_code=message.provider_code,
        provider_request_id=message.provider_request_id,
        retry_after=message.retry_after,
        param=message.param,
    )


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """The body of the next frame. Raises `EOFError` at the end of the connection, `OSError`, or `ProtocolError`."""
    return await reader.readexactly(body_length(await reader.readexactly(HEADER)))
