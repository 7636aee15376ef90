"""The interface of an embedder that is called for a client, and what those over HTTP do the same way."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct

from adapters.embedders.spec import EmbedderSpec
from adapters.errors import BackendError, BackendTimeout, BackendUnavailable, ProviderFault
from adapters.faults import body_failure, retry_after, to_error
from adapters.sender import RawResponse, Sender
from adapters.types import AttemptRecord, BackendHealth, TokenCount, Usage


class EmbedRequest(Struct, frozen=True):
    """Texts, at least one and none empty. `dimensions` shortens the vectors where the model can; `user` is the client's word for its user."""

    texts: tuple[str, ...]
    dimensions: int | None = None
    user: str | None = None


class Embedded(Struct, frozen=True):
    """A vector a text, in order: float32, little-endian."""

    vectors: tuple[bytes, ...]
    usage: Usage
    model: str


class TextEmbedder(Protocol):
    """An embedder by its configured name. `max_inputs` is how many texts one request may hold.

    `embed` raises only `BackendError`s; whatever happens, the usage so far stands in the `AttemptRecord`. `count` is local and quick.
    """

    name: str
    provider: str
    model: str
    max_inputs: int

    async def embed(self, request: EmbedRequest, attempt: AttemptRecord, /) -> Embedded: ...

    def count(self, texts: Sequence[str], /) -> TokenCount: ...

    def health(self) -> BackendHealth: ...

    async def aclose(self) -> None: ...


class Call(Struct, frozen=True):
    """A request in the provider's words. `ignored` names what it does not have."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    ignored: tuple[str, ...] = ()


class Answer(Struct, frozen=True):
    """What the provider said. `usage` is None where it does not count."""

    vectors: tuple[bytes, ...]
    usage: Usage | None
    model: str | None = None


class RemoteEmbedder(abc.ABC):
    """One call, no retry: the client's SDK has its own. `sender` is None while the key is missing."""

    provider: str
    max_inputs: int

    def __init__(self, name: str, spec: EmbedderSpec, sender: Sender | None, unavailable: str) -> None:
        self.name = name
        self.model = spec.model
        self.sender = sender
        self._headers = spec.headers
        self._timeout_s = spec.timeout_s
        self._unavailable = unavailable

    @abc.abstractmethod
    def encode(self, request: EmbedRequest) -> Call: ...

    @abc.abstractmethod
    def decode(self, body: bytes) -> Answer:
        """Raises `msgspec.MsgspecError` or `ValueError` for a body that is no answer."""

    def count(self, texts: Sequence[str], /) -> TokenCount:
        """`upper` holds for every byte-level tokenizer and a few marks a text."""
        characters = sum(map(len, texts))
        return TokenCount(n=characters // 4 + len(texts), upper=sum(len(text.encode()) for text in texts) + 16 * len(texts))

    def health(self) -> BackendHealth:
        return BackendHealth(ready=not self._unavailable, reason=self._unavailable)

    async def aclose(self) -> None:
        if self.sender is not None:
            await self.sender.aclose()

    async def embed(self, request: EmbedRequest, attempt: AttemptRecord, /) -> Embedded:
        attempt.model = self.model
        try:
            call = self.encode(request)
            if self.sender is None:
                raise BackendUnavailable(self._unavailable)
            attempt.ignored = call.ignored
            # Until the provider says what it counted: what it may have worked on is billed as estimated.
            attempt.usage = Usage(input_tokens=self.count(request.texts).n, source="estimated")
            attempt.called = True
            body = await self._post(self.sender, call, attempt)
            answer = self.decode(body)
            if answer.usage is not None and answer.usage.total_tokens:  # a count of nothing is no count
                attempt.usage = answer.usage
            _check(request, answer.vectors)
            attempt.model = answer.model or self.model
            return Embedded(answer.vectors, attempt.usage, attempt.model)
        except BackendError as error:
            error.backend = error.backend or self.name
            error.provider_request_id = error.provider_request_id or attempt.provider_request_id
            raise
        except (msgspec.MsgspecError, ValueError) as error:
            raise ProviderFault("the provider sent an answer that cannot be understood", backend=self.name) from error

    async def _post(self, sender: Sender, call: Call, attempt: AttemptRecord) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    response = await sender.post(call.path, call.body, {**self._headers, **call.headers}, stream=False)
                except BackendUnavailable:
                    attempt.usage = Usage(source="estimated")  # no connection came about
                    raise
                try:
                    attempt.provider_request_id = response.headers.get("x-request-id")
                    body = await response.read()
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise BackendTimeout(f"no answer within {self._timeout_s:g} s") from error
        if response.status != 200:
            attempt.usage = Usage(source="estimated")
            raise _refusal(response, body, attempt.provider_request_id)
        return body


def _check(request: EmbedRequest, vectors: tuple[bytes, ...]) -> None:
    """A vector of numbers for every text, all as long as was asked for."""
    if len(vectors) != len(request.texts) or len(set(map(len, vectors))) > 1:
        raise ProviderFault(f"the provider answered {len(request.texts)} texts with {len(vectors)} vectors, or vectors of different lengths")
    numbers = len(vectors[0]) // 4
    if numbers == 0:
        raise ProviderFault("the provider answered with vectors of no numbers")
    if request.dimensions is not None and numbers != request.dimensions:
        raise ProviderFault(f"the provider answered with vectors of {numbers} numbers, and {request.dimensions} were asked for")


def _refusal(response: RawResponse, body: bytes, request_id: str | None) -> BackendError:
    return to_error(body_failure(body, status=response.status, request_id=request_id, wait=retry_after(response.headers)))
