"""What every backend reached over HTTP does the same way: one streamed attempt, metered, with typed errors.

A provider's adapter adds three things: a body (`encode`), a decoder of its events, and its capabilities. It always streams: a blocking
answer is the collected stream.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from itertools import groupby
from typing import Protocol

import msgspec
from msgspec import Struct

from adapters.backend import RemoteSpec, estimate_output_tokens, estimate_tokens, require_features
from adapters.errors import BackendError, BackendUnavailable, ProviderFault, StreamBroken
from adapters.faults import body_failure, retry_after, to_error
from adapters.prompting import with_context
from adapters.sender import RawResponse, Sender
from adapters.sse import SseEvent, SseParser
from adapters.types import (
    AttemptRecord,
    BackendHealth,
    Capabilities,
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    TokenCount,
    ToolCallDelta,
    Usage,
    UsageReported,
)

DRAIN_S = 0.25
"""How long the end of an answered stream is waited for, so that its connection can be used again."""


NO_KEY = "no-key"
"""What is sent to a server of one's own that needs no key: the SDKs insist on one."""


def credentials(spec: RemoteSpec, environ: Mapping[str, str], official_url: str, key_env: str) -> tuple[str, str, str]:
    """Address, key, and what is missing (empty if nothing). A server with its own `base_url` and no `api_key_env` needs no key.

    Raises `ValueError` for a table that cannot work: no model, or an address that is not HTTP.
    """
    if not spec.model:
        raise ValueError(f"a backend of kind {spec.kind!r} needs a `model`")
    url = spec.base_url or official_url
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"`base_url` must begin with http:// or https://, not {url!r}")
    variable = spec.api_key_env or (None if spec.base_url else key_env)
    if variable is None:
        return url, NO_KEY, ""
    key = environ.get(variable, "").strip()
    return url, key, "" if key else f"{variable} is not set"


class WireCall(Struct, frozen=True):
    """A request in the provider's words. `ignored` names the request's tuning knobs that the provider does not have."""

    path: str
    body: bytes
    headers: dict[str, str] = {}
    ignored: tuple[str, ...] = ()


class StreamDecoder(Protocol):
    """Turns one stream's events into Headgate's. Pure: no I/O, no clock.

    `feed` returns deltas and usage as they come and raises `BackendError` for an error event. `done` says that the end marker was seen.
    `finish`, called once at the end of the stream, returns a `Finished` for every choice, or raises `StreamBroken` when an end is missing.
    `usage_final` says that the provider's last word on usage was among the events.
    """

    done: bool
    usage_final: bool

    def feed(self, event: SseEvent) -> list[Event]: ...

    def finish(self) -> list[Event]: ...


class _Meter:
    """What one attempt delivered, for an estimate where the provider's own count is missing.

    Events, times and delivered characters of the attempt's record are the business of `adapters.wrappers.guarded`, for every kind alike.
    """

    def __init__(self, attempt: AttemptRecord) -> None:
        self._attempt = attempt
        self._deltas = 0
        self._characters = 0
        self._reasoning = 0

    def note(self, event: Event) -> None:
        match event:
            case TextDelta() | RefusalDelta():
                self._deltas += 1
                self._characters += len(event.text)
            case ToolCallDelta():
                self._deltas += 1
                self._characters += len(event.arguments) + len(event.name or "")
            case ReasoningDelta():
                self._deltas += 1
                self._characters += len(event.text)
                self._reasoning += len(event.text)
            case UsageReported():
                self._attempt.usage = event.usage
            case ResponseStarted():
                self._attempt.model = event.model or self._attempt.model
                self._attempt.provider_request_id = event.provider_request_id or self._attempt.provider_request_id
            case ProviderItem() | CitationAdded() | Finished():
                pass

    def joined(self, events: list[Event]) -> list[Event]:
        """The same answer in fewer events, each of which is still counted as a delta."""
        fewer = _joined(events)
        self._deltas += len(events) - len(fewer)
        return fewer

    def estimate(self, input_tokens: int) -> Usage:
        """Usage so far by what was delivered (a token per four characters, at least one per delta), never below the provider's own report."""
        said = self._attempt.usage or Usage()
        return msgspec.structs.replace(
            said,
            input_tokens=said.input_tokens or input_tokens,
            output_tokens=max(said.output_tokens, estimate_output_tokens(self._characters), self._deltas),
            reasoning_output_tokens=max(said.reasoning_output_tokens, estimate_output_tokens(self._reasoning)),
            source="estimated",
        )


class RemoteBackend(abc.ABC):
    """The attempt itself. `sender` may be replaced by any other `Sender`; it is None while the key is missing."""

    provider: str

    def __init__(self, name: str, spec: RemoteSpec, capabilities: Capabilities, sender: Sender | None, unavailable: str = "") -> None:
        self.name = name
        self.model = spec.model or ""
        self.capabilities = msgspec.structs.replace(capabilities, context_window=spec.context_window, max_output=spec.max_output_tokens)
        self.sender = sender
        self._headers = spec.headers
        self._unavailable = unavailable

    @abc.abstractmethod
    def encode(self, request: GenerateRequest) -> WireCall:
        """The request (its context already in the messages) as the provider wants it. Raises `UnsupportedFeature` or `InvalidRequest`."""

    @abc.abstractmethod
    def decoder(self, request: GenerateRequest, request_id: str | None) -> StreamDecoder:
        """A fresh decoder; `request_id` is the provider's, from the headers."""

    def request_id(self, response: RawResponse) -> str | None:
        return response.headers.get("x-request-id")

    def count(self, request: GenerateRequest, /) -> TokenCount:
        return estimate_tokens(with_context(request))

    async def health(self) -> BackendHealth:
        """Whether it is configured. Makes no call: a provider's health is known from the answers it gives."""
        return BackendHealth(ready=not self._unavailable, reason=self._unavailable)

    async def aclose(self) -> None:
        if self.sender is not None:
            await self.sender.aclose()

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        attempt.model = self.model
        try:
            require_features(request, self.capabilities, self.name)
            request = with_context(request)
            call = self.encode(request)
            if self.sender is None:
                raise BackendUnavailable(self._unavailable)
            attempt.ignored = call.ignored
            async with contextlib.aclosing(self._attempt(self.sender, call, request, attempt)) as events:
                async for event in events:
                    yield event
        except BackendError as error:
            error.backend = error.backend or self.name
            error.provider_request_id = error.provider_request_id or attempt.provider_request_id
            raise

    async def _attempt(self, sender: Sender, call: WireCall, request: GenerateRequest, attempt: AttemptRecord) -> AsyncGenerator[Event, None]:
        meter = _Meter(attempt)
        settled = False
        # Whether the provider may have worked on the request: not when no connection came about, nor when it answered with an error status.
        worked = True
        attempt.called = True
        try:
            try:
                response = await sender.post(call.path, call.body, {**self._headers, **call.headers}, stream=True)
            except BackendUnavailable:
                worked = False
                raise
            try:
                request_id = attempt.provider_request_id = self.request_id(response)
                if response.status != 200:
                    worked = False
                    raise await _refusal(response, request_id)
                _require_event_stream(response)
                decoder = self.decoder(request, request_id)
                async with contextlib.aclosing(response.aiter_raw()) as pieces:
                    async with contextlib.aclosing(_decoded(pieces, decoder)) as batches:
                        async for batch in batches:
                            last_report = next((event for event in reversed(batch) if isinstance(event, UsageReported)), None)
                            for event in meter.joined(batch) if request.whole else batch:
                                meter.note(event)
                                if event is last_report:
                                    settled = decoder.usage_final
                                yield event
                    ends = decoder.finish()
                    if not settled:
                        attempt.usage = meter.estimate(self.count(request).n)
                        settled = True
                        ends = [UsageReported(attempt.usage), *ends]
                    for event in ends:
                        meter.note(event)
                        yield event
                    if decoder.done:
                        await _drain(pieces)
            finally:
                await response.aclose()
        finally:
            if not settled:
                attempt.usage = meter.estimate(self.count(request).n) if worked else Usage(source="estimated")


async def _refusal(response: RawResponse, request_id: str | None) -> BackendError:
    body = await response.read()
    return to_error(body_failure(body, status=response.status, request_id=request_id, wait=retry_after(response.headers)))


def _require_event_stream(response: RawResponse) -> None:
    kind = response.headers.get("content-type", "")
    if not kind.lower().startswith("text/event-stream"):
        raise ProviderFault(f"the provider answered with {kind or 'no content type'!r} instead of an event stream", provider_status=response.status)


async def _decoded(pieces: AsyncGenerator[bytes, None], decoder: StreamDecoder) -> AsyncGenerator[list[Event], None]:
    """The events of each piece, until the end marker or the end of the stream, whichever comes first. What stands before a fault comes first."""
    parser = SseParser()
    async for piece in pieces:
        events, failure = _feed(decoder, parser.feed(piece))
        if events:
            yield events
        if isinstance(failure, msgspec.MsgspecError):
            raise ProviderFault("the provider sent an event that cannot be understood") from failure
        if failure is not None:
            raise failure
        if decoder.done:
            return
    events, failure = _feed(decoder, parser.finish())
    if events:
        yield events
    if isinstance(failure, msgspec.MsgspecError):
        raise StreamBroken("the stream ended within an event") from failure
    if failure is not None:
        raise failure


def _feed(decoder: StreamDecoder, said: list[SseEvent]) -> tuple[list[Event], BackendError | msgspec.MsgspecError | None]:
    """What the decoder makes of a piece's events, and what stopped it."""
    events: list[Event] = []
    try:
        for event in said:
            events += decoder.feed(event)
    except (BackendError, msgspec.MsgspecError) as error:
        return events, error
    return events, None


def _joined(events: list[Event]) -> list[Event]:
    """The same answer in fewer events: neighbouring pieces of one text are one."""
    joined: list[Event] = []
    for kind, group in groupby(events, key=_kind_of_text):
        same = list(group)
        if kind is None or len(same) == 1:
            joined += same
        else:
            made, choice = kind
            joined.append(made("".join([event.text for event in same if isinstance(event, made)]), choice))
    return joined


def _kind_of_text(event: Event) -> tuple[type[TextDelta | ReasoningDelta], int] | None:
    """Equal for the events whose texts may be joined; None for those that stand alone."""
    if isinstance(event, TextDelta) and not event.logprobs:
        return TextDelta, event.choice
    return (ReasoningDelta, event.choice) if isinstance(event, ReasoningDelta) else None


async def _drain(pieces: AsyncGenerator[bytes, None]) -> None:
    """Read what follows the end marker (the end of the body), or give the connection up."""
    with contextlib.suppress(TimeoutError, BackendError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in pieces:
                pass
