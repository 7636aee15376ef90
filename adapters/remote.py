"""What every backend reached over HTTP does the same way: one attempt, metered, with typed errors.

A provider's adapter adds three things: a body (`encode`), a decoder of its events, and its capabilities. It streams: a blocking answer is the
collected stream. Only a backend with `streaming: false` asks for the answer in one piece; whether one came so, the answer's own content type
says.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping

import msgspec
from msgspec import Struct

from adapters.backend import RemoteSpec, estimate_output_tokens, require_features
from adapters.errors import BackendError, BackendUnavailable
from adapters.faults import body_failure, retry_after, to_error
from adapters.price_book import window_for
from adapters.prompting import with_context, with_format
from adapters.rate_limits import rate_limit
from adapters.remote_answer import StreamDecoder, joined, way_to_read
from adapters.sender import RawResponse, Sender
from adapters.tokens import TokenCounter, profile_of
from adapters.tokens.profiles import Api
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

__all__ = ["NO_KEY", "RemoteBackend", "StreamDecoder", "WireCall", "credentials"]

DRAIN_S = 0.25
"""How long the end of an answered stream is waited for, so that its connection can be used again."""


MAX_REFUSAL_BYTES = 1024 * 1024
"""How much of a refusal's body is read; the rest of a longer one closes its connection."""

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
        fewer = joined(events)
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
    opaque: tuple[str, ...] = ()
    """Whose opaque parts it understands; empty: those of `provider`."""
    api: Api = "chat"

    def __init__(self, name: str, spec: RemoteSpec, capabilities: Capabilities, sender: Sender | None, unavailable: str = "") -> None:
        self.name = name
        self.model = spec.model or ""
        if odd := [tool for tool in spec.provider_tools if "/" not in tool]:
            raise ValueError(f"`provider_tools` has {odd[0]!r}; a provider's own tool is named `provider/type`")
        self.capabilities = msgspec.structs.replace(
            capabilities,
            context_window=spec.context_window or window_for(spec),
            max_output=spec.max_output_tokens,
            streaming=spec.streaming,
            provider_tools=(*capabilities.provider_tools, *spec.provider_tools),
            opaque=self.opaque or (self.provider,),
        )
        self.streaming = spec.streaming
        self.tokens = TokenCounter(profile_of(self.provider, self.model, spec.base_url, self.api))
        if not unavailable:  # a vocabulary takes memory: it is not for a backend that cannot be called
            self.tokens.prepare()
        self.sender = sender
        self._headers = spec.headers
        self._unavailable = unavailable

    @abc.abstractmethod
    def encode(self, request: GenerateRequest) -> WireCall:
        """The request (its context already in the messages) as the provider wants it: a stream, or a whole answer where `self.streaming` is False.

        Raises `UnsupportedFeature` or `InvalidRequest`.
        """

    @abc.abstractmethod
    def decoder(self, request: GenerateRequest, request_id: str | None) -> StreamDecoder:
        """A fresh decoder; `request_id` is the provider's, from the headers."""

    def request_id(self, response: RawResponse) -> str | None:
        return response.headers.get("x-request-id") or response.headers.get("request-id")

    def count(self, request: GenerateRequest, /) -> TokenCount:
        return self.tokens.count(with_context(with_format(request, self.capabilities)))

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
            request = with_context(with_format(request, self.capabilities))
            call = self.encode(request)
            if self.sender is None:
                raise BackendUnavailable(self._unavailable)
            attempt.ignored = call.ignored
            async with contextlib.aclosing(self._attempt(self.sender, call, request, attempt)) as events:
                async for event in events:
                    yield event
            if attempt.usage is not None and attempt.usage.source == "provider" and self.tokens.wants_report():
                self.tokens.learn(self.count(request).n, attempt.usage.input_tokens, request)
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
                response = await sender.post(call.path, call.body, {**self._headers, **call.headers, **_names(self.provider, request, attempt)}, stream=True)
            except BackendUnavailable:
                worked = False
                raise
            try:
                request_id = attempt.provider_request_id = self.request_id(response)
                attempt.rate_limit = rate_limit(response.headers)
                if response.status != 200:
                    worked = False
                    raise await _refusal(response, request_id)
                decode = way_to_read(response)
                decoder = self.decoder(request, request_id)
                async with contextlib.aclosing(response.aiter_raw()) as pieces:
                    async with contextlib.aclosing(decode(pieces, decoder)) as batches:
                        async for batch in batches:
                            attempt.service_tier = decoder.service_tier
                            last_report = next((event for event in reversed(batch) if isinstance(event, UsageReported)), None)
                            for event in meter.joined(batch) if request.whole else batch:
                                meter.note(event)
                                if event is last_report:
                                    # Some servers end with a report of nothing at all: no prompt is empty, so that is no count.
                                    settled = decoder.usage_final and last_report.usage.total_tokens > 0
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


def _names(provider: str, request: GenerateRequest, attempt: AttemptRecord) -> dict[str, str]:
    """The headers by which a provider that knows them recognises a request that is sent again, and finds one in its own records."""
    found = {}
    if request.idempotency_key is not None and provider in ("openai", "anthropic"):
        found["idempotency-key"] = request.idempotency_key
    if attempt.reference and provider == "openai":
        found["x-client-request-id"] = attempt.reference
    return found


async def _refusal(response: RawResponse, request_id: str | None) -> BackendError:
    body = await beginning(response)
    return to_error(body_failure(body, status=response.status, request_id=request_id, wait=retry_after(response.headers)))


async def beginning(response: RawResponse) -> bytes:
    """The body of a refusal, as far as it is looked at. One that breaks off changes nothing of what its status says."""
    held, size = [], 0
    with contextlib.suppress(BackendError):
        async with contextlib.aclosing(response.aiter_raw()) as pieces:
            async for piece in pieces:
                held.append(piece)
                size += len(piece)
                if size >= MAX_REFUSAL_BYTES:
                    break
    return b"".join(held)


async def _drain(pieces: AsyncGenerator[bytes, None]) -> None:
    """Read what follows the end marker (the end of the body), or give the connection up."""
    with contextlib.suppress(TimeoutError, BackendError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in pieces:
                pass
