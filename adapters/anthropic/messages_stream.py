"""Anthropic's message stream events, as msgspec reads them, and the decoder that turns them into events."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from adapters.errors import StreamBroken
from adapters.faults import WireError, to_error, wire_failure
from adapters.sse import SseEvent
from adapters.types import (
    Event,
    Finished,
    FinishReason,
    JsonObject,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
    decode_json_object,
)

PROVIDER = "anthropic"

FINISH: dict[str, FinishReason] = {
    "end_turn": "stop", "max_tokens": "length", "stop_sequence": "stop", "tool_use": "tool_calls", "pause_turn": "stop", "refusal": "content_filter",
    "model_context_window_exceeded": "length",
}  # fmt: skip
"""`pause_turn` ends a long turn of the provider's own tools, to be continued by sending it back. An unknown reason is a stop."""


class _Usage(Struct, frozen=True, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Message(Struct, frozen=True):
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None


class _Block(Struct, frozen=True):
    type: str
    id: str | None = None
    name: str | None = None
    text: str | None = None


class _StopDetails(Struct, frozen=True):
    explanation: str | None = None


class _Delta(Struct, frozen=True):
    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: _StopDetails | None = None


class StreamEvent(Struct, frozen=True):
    """Any event of the stream. Not a tagged union: an event type of tomorrow must not break the stream of today."""

    type: str
    index: int = 0
    message: _Message | None = None
    content_block: msgspec.Raw = msgspec.Raw(b"{}")
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: WireError | None = None


_decode = msgspec.json.Decoder(StreamEvent).decode
_decode_block = msgspec.json.Decoder(_Block).decode


def merged_usage(before: Usage, wire: _Usage) -> Usage:
    """Cumulative: what an event does not name stays. Anthropic's input excludes cached tokens, Headgate's includes them."""
    uncached = before.input_tokens - before.cache_read_input_tokens - before.cache_creation_input_tokens
    read = before.cache_read_input_tokens if wire.cache_read_input_tokens is None else wire.cache_read_input_tokens
    written = before.cache_creation_input_tokens if wire.cache_creation_input_tokens is None else wire.cache_creation_input_tokens
    return Usage(
        input_tokens=(uncached if wire.input_tokens is None else wire.input_tokens) + read + written,
        output_tokens=before.output_tokens if wire.output_tokens is None else wire.output_tokens,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
    )


class _Open:
    """A content block that has begun and not ended."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.kind = _decode_block(raw).type
        self.call: int | None = None
        self.thinking: list[str] = []
        self.signature: list[str] = []
        self.json: list[str] = []


class MessageDecoder:
    """Decodes one message stream."""

    def __init__(self, request_id: str | None = None) -> None:
        self.done = False
        self.usage_final = False
        self._request_id = request_id
        self._usage = Usage()
        self._open: dict[int, _Open] = {}
        self._calls = 0
        self._finished: Finished | None = None

    def feed(self, event: SseEvent) -> list[Event]:
        said = _decode(event.data)
        match said.type:
            case "content_block_delta":
                return self._delta(said)
            case "content_block_start":
                return self._start(said)
            case "content_block_stop":
                return self._stop(said.index)
            case "message_start":
                return self._begin(said.message or _Message())
            case "message_delta":
                return self._end(said)
            case "message_stop":
                self.done = True
            case "error":
                raise to_error(wire_failure(said.error or WireError(), request_id=self._request_id))
            case _:
                pass  # ping, and whatever may come
        return []

    def finish(self) -> list[Event]:
        if self._finished is None or not self.done:
            raise StreamBroken("the stream ended before its answer was finished", provider_request_id=self._request_id)
        return [self._finished]

    def _begin(self, message: _Message) -> list[Event]:
        events: list[Event] = [ResponseStarted(provider_request_id=self._request_id or message.id, model=message.model)]
        if message.usage is not None:
            self._usage = merged_usage(self._usage, message.usage)
            events.append(UsageReported(self._usage))
        return events

    def _start(self, said: StreamEvent) -> list[Event]:
        block = _Open(bytes(said.content_block))
        self._open[said.index] = block
        shown = _decode_block(block.raw)
        if block.kind == "tool_use":
            block.call = self._calls
            self._calls += 1
            return [ToolCallDelta(block.call, id=shown.id, name=shown.name)]
        return [TextDelta(shown.text)] if shown.text else []

    def _delta(self, said: StreamEvent) -> list[Event]:
        delta, block = said.delta, self._open.get(said.index)
        if delta is None or block is None:
            return []
        if delta.text is not None:
            return [TextDelta(delta.text)] if delta.text else []
        if delta.partial_json is not None:
            if block.call is None:
                block.json.append(delta.partial_json)
            elif delta.partial_json:
                block.json.append(delta.partial_json)
                return [ToolCallDelta(block.call, arguments=delta.partial_json)]
        elif delta.thinking is not None:
            block.thinking.append(delta.thinking)
            return [ReasoningDelta(delta.thinking)] if delta.thinking else []
        elif delta.signature is not None:
            block.signature.append(delta.signature)
        return []

    def _stop(self, index: int) -> list[Event]:
        block = self._open.pop(index, None)
        if block is None or block.kind == "text":
            return []
        if block.call is not None:
            # A tool without arguments sends none; its JSON text is an empty object all the same.
            return [] if block.json else [ToolCallDelta(block.call, arguments="{}")]
        return [ProviderItem(PROVIDER, _item(block))]

    def _end(self, said: StreamEvent) -> list[Event]:
        events: list[Event] = []
        delta = said.delta or _Delta()
        if delta.stop_reason is not None:
            if delta.stop_reason == "refusal" and delta.stop_details is not None and delta.stop_details.explanation:
                events.append(RefusalDelta(delta.stop_details.explanation))
            self._finished = Finished(FINISH.get(delta.stop_reason, "stop"), provider_reason=delta.stop_reason, stop_sequence=delta.stop_sequence)
        if said.usage is not None:
            self._usage = merged_usage(self._usage, said.usage)
            self.usage_final = self._finished is not None
            events.append(UsageReported(self._usage))
        return events


def _item(block: _Open) -> JsonObject:
    """The block as it must be sent back: whole, with what came in pieces."""
    item = decode_json_object(block.raw)
    if block.thinking or block.signature:
        item["thinking"] = item.get("thinking", "") + "".join(block.thinking)
        item["signature"] = item.get("signature", "") + "".join(block.signature)
    if block.json:
        item["input"] = decode_json_object("".join(block.json) or "{}")
    return item
