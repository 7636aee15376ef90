"""OpenAI's responses and their events, as msgspec reads them. Fields that Headgate does not use are skipped without being built."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from adapters.faults import WireError
from adapters.openai.chat_wire import Logprob
from adapters.types import JsonObject, Usage


class InputDetails(Struct, frozen=True, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class OutputDetails(Struct, frozen=True, gc=False):
    reasoning_tokens: int | None = None


class WireUsage(Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int | None = None
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class Incomplete(Struct, frozen=True):
    reason: str | None = None


class Response(Struct, frozen=True):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[JsonObject] | None = None
    usage: WireUsage | None = None
    error: WireError | None = None
    incomplete_details: Incomplete | None = None
    service_tier: str | None = None


class WireEvent(Struct, frozen=True):
    """Any event of the stream. `delta` is text in the events that are read."""

    type: str = ""
    delta: Any = None
    output_index: int = 0
    logprobs: list[Logprob] | None = None
    item: JsonObject | None = None
    response: Response | None = None
    error: WireError | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None


decode_event = msgspec.json.Decoder(WireEvent).decode
decode_response = msgspec.json.Decoder(Response).decode


def usage_of(wire: WireUsage) -> Usage:
    """The counts already include cached tokens in the input and reasoning in the output."""
    read = wire.input_tokens_details or InputDetails()
    written = wire.output_tokens_details or OutputDetails()
    return Usage(
        input_tokens=wire.input_tokens,
        output_tokens=wire.output_tokens or 0,
        cache_read_input_tokens=read.cached_tokens or 0,
        cache_creation_input_tokens=read.cache_write_tokens or 0,
        reasoning_output_tokens=written.reasoning_tokens or 0,
    )
