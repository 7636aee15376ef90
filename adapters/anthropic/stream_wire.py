"""Anthropic's answers as msgspec reads them: whole messages, and the events of a stream."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from adapters.faults import WireError
from adapters.types import JsonObject


class WireOutputDetails(Struct, frozen=True):
    thinking_tokens: int | None = None


class WireIteration(Struct, frozen=True):
    type: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class WireUsage(Struct, frozen=True):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: WireOutputDetails | None = None
    iterations: list[WireIteration] | None = None
    service_tier: str | None = None


class WireStopDetails(Struct, frozen=True):
    explanation: str | None = None


class WireMessage(Struct, frozen=True):
    """A message: empty at the start of a stream, complete in an answer of one piece."""

    type: str | None = None
    id: str | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    content: list[msgspec.Raw] = []
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: msgspec.Raw = msgspec.Raw(b"null")
    container: msgspec.Raw = msgspec.Raw(b"null")
    context_management: msgspec.Raw = msgspec.Raw(b"null")
    error: WireError | None = None


class WireBlock(Struct, frozen=True):
    type: str
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    citations: list[JsonObject] | None = None
    caller: JsonObject | None = None
    toolset_name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class WireDelta(Struct, frozen=True):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: JsonObject | None = None
    content: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: msgspec.Raw = msgspec.Raw(b"null")
    container: msgspec.Raw = msgspec.Raw(b"null")


class StreamEvent(Struct, frozen=True):
    """Any event of the stream. Not a tagged union: an event type of tomorrow must not break the stream of today."""

    type: str
    index: int = 0
    message: WireMessage | None = None
    content_block: msgspec.Raw = msgspec.Raw(b"{}")
    delta: WireDelta | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    context_management: msgspec.Raw = msgspec.Raw(b"null")
    error: WireError | None = None
