"""How a provider's answer is read: a stream of events or a whole body, decoded piece by piece, with what stands before a fault first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from itertools import groupby
from typing import Protocol, TypeAlias

import msgspec

from adapters.errors import BackendError, ProviderFault, StreamBroken
from adapters.sender import RawResponse
from adapters.sse import MAX_EVENT_BYTES, SseEvent, SseParser
from adapters.types import Event, ReasoningDelta, TextDelta


class StreamDecoder(Protocol):
    """Turns one answer, a stream's events or a whole body, into Headgate's events. Pure: no I/O, no clock.

    `feed` returns deltas and usage as they come and raises `BackendError` for an error event. `whole` returns all events of a complete body,
    as if they had been streamed, and raises `BackendError` for a body that is an error. `done` says that the end was seen. `finish`, called
    once at the end, returns a `Finished` for every choice, or raises `StreamBroken` when an end is missing. `usage_final` says that the
    provider's last word on usage was among the events, `service_tier` in which tier it answered, where it says so.
    """

    done: bool
    usage_final: bool
    service_tier: str | None

    def feed(self, event: SseEvent) -> list[Event]: ...

    def whole(self, body: bytes) -> list[Event]: ...

    def finish(self) -> list[Event]: ...


Reading: TypeAlias = Callable[[AsyncGenerator[bytes, None], StreamDecoder], AsyncGenerator[list[Event], None]]
"""Bytes as they arrive to the events of each piece."""


def way_to_read(response: RawResponse) -> Reading:
    """By what the provider says it sent, not by what it was asked for: some servers answer whole although a stream was wanted."""
    kind = response.headers.get("content-type", "")
    match kind.lower().split(";")[0].strip():
        case "text/event-stream":
            return _streamed
        case "application/json":
            return _whole
        case _:
            said = repr(kind) if kind else "no content type"
            raise ProviderFault(f"the provider answered with {said} instead of an event stream or JSON", provider_status=response.status)


async def _whole(pieces: AsyncGenerator[bytes, None], decoder: StreamDecoder) -> AsyncGenerator[list[Event], None]:
    """The events of a complete body, all at once."""
    held, size = [], 0
    async for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > MAX_EVENT_BYTES:
            raise ProviderFault("the provider sent an answer that does not end")
    try:
        events = decoder.whole(b"".join(held))
    except msgspec.MsgspecError as error:
        raise ProviderFault("the provider sent an answer that cannot be understood") from error
    yield events


async def _streamed(pieces: AsyncGenerator[bytes, None], decoder: StreamDecoder) -> AsyncGenerator[list[Event], None]:
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


def joined(events: list[Event]) -> list[Event]:
    """The same answer in fewer events: neighbouring pieces of one text are one."""
    fewer: list[Event] = []
    for kind, group in groupby(events, key=_kind_of_text):
        same = list(group)
        if kind is None or len(same) == 1:
            fewer += same
        else:
            made, choice = kind
            fewer.append(made("".join([event.text for event in same if isinstance(event, made)]), choice))
    return fewer


def _kind_of_text(event: Event) -> tuple[type[TextDelta | ReasoningDelta], int] | None:
    """Equal for the events whose texts may be joined; None for those that stand alone."""
    if isinstance(event, TextDelta) and not event.logprobs:
        return TextDelta, event.choice
    return (ReasoningDelta, event.choice) if isinstance(event, ReasoningDelta) else None
