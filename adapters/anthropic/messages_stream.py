"""The decoder of Anthropic's answers, streamed and whole, to events."""

from __future__ import annotations

import msgspec

from adapters.anthropic.stream_wire import StreamEvent, WireBlock, WireDelta, WireMessage, WireOutputDetails, WireStopDetails, WireUsage
from adapters.errors import ProviderFault, StreamBroken
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

CITATIONS = "citations"
"""The item that holds the citations of the text before it, as the API gave them."""

CALL_FIELDS = "tool_use_fields"
"""The item that holds what else stood on the tool call of an id (by whom it was called, its toolset)."""

MESSAGE_END = "message_end"
"""The item that holds what the end of a message told beyond our own words (a container, stop details, further figures); never sent back.

Only an answer to a request in Anthropic's own dialect has one.
"""

FINISH: dict[str, FinishReason] = {
    "end_turn": "stop", "max_tokens": "length", "stop_sequence": "stop", "tool_use": "tool_calls", "pause_turn": "stop", "refusal": "content_filter",
    "model_context_window_exceeded": "length",
}  # fmt: skip
"""`pause_turn` ends a long turn of the provider's own tools, to be continued by sending it back. An unknown reason is a stop."""


_decode = msgspec.json.Decoder(StreamEvent).decode
_decode_message = msgspec.json.Decoder(WireMessage).decode
_decode_block = msgspec.json.Decoder(WireBlock).decode
_decode_usage = msgspec.json.Decoder(WireUsage | None).decode
_decode_details = msgspec.json.Decoder(WireStopDetails | None).decode
_decode_any = msgspec.json.Decoder().decode

_OURS = frozenset({"input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"})


def merged(before: WireUsage, wire: WireUsage) -> WireUsage:
    """Figures are cumulative: what an event does not name stays."""
    return msgspec.structs.replace(before, **{name: value for name, value in msgspec.structs.asdict(wire).items() if value is not None})


def usage_of(wire: WireUsage) -> Usage:
    """Anthropic's input excludes cached tokens, Headgate's includes them.

    A compaction of the context is billed and stands only in the list of iterations, so it is added.
    """
    compactions = [each for each in wire.iterations or () if each.type == "compaction"]
    read = (wire.cache_read_input_tokens or 0) + sum(each.cache_read_input_tokens for each in compactions)
    written = (wire.cache_creation_input_tokens or 0) + sum(each.cache_creation_input_tokens for each in compactions)
    details = wire.output_tokens_details or WireOutputDetails()
    return Usage(
        input_tokens=(wire.input_tokens or 0) + read + written + sum(each.input_tokens for each in compactions),
        output_tokens=(wire.output_tokens or 0) + sum(each.output_tokens for each in compactions),
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        reasoning_output_tokens=details.thinking_tokens or 0,
    )


class _Open:
    """A content block that has begun and not ended."""

    def __init__(self, raw: bytes, block: WireBlock) -> None:
        self.raw = raw
        self.kind = block.type
        self.call: int | None = None
        self.thinking: list[str] = []
        self.signature: list[str] = []
        self.content: list[str] = []
        self.json: list[str] = []
        self.citations: list[JsonObject] = list(block.citations or ())


class MessageDecoder:
    """Decodes one answer. `native`: the client speaks Anthropic's own dialect and is told what only that can say (`MESSAGE_END`)."""

    def __init__(self, request_id: str | None = None, *, native: bool = False) -> None:
        self.done = False
        self.usage_final = False
        self.service_tier: str | None = None
        self._request_id = request_id
        self._native = native
        self._counted = WireUsage()
        self._usage = Usage()
        self._figures: JsonObject = {}
        self._open: dict[int, _Open] = {}
        self._calls = 0
        self._finished: Finished | None = None

    def feed(self, event: SseEvent) -> list[Event]:
        said = _decode(event.data)
        match said.type:
            case "content_block_delta":
                return self._delta(said)
            case "content_block_start":
                return self._start(said.index, bytes(said.content_block))
            case "content_block_stop":
                return self._stop(said.index)
            case "message_start":
                return self._begin(said.message or WireMessage())
            case "message_delta":
                delta = said.delta or WireDelta()
                details = {"stop_details": delta.stop_details, "container": delta.container, "context_management": said.context_management}
                return self._end(delta.stop_reason, delta.stop_sequence, details, said.usage)
            case "message_stop":
                self.done = True
                return [event for index in sorted(self._open) for event in self._stop(index)]
            case "error":
                raise to_error(wire_failure(said.error or WireError(), request_id=self._request_id))
            case _:
                pass  # ping, and whatever may come
        return []

    def whole(self, body: bytes) -> list[Event]:
        """All events of a complete `Message`."""
        message = _decode_message(body)
        if message.error is not None:
            raise to_error(wire_failure(message.error, request_id=self._request_id))
        events = self._begin(message)
        for index, raw in enumerate(message.content):
            events += self._complete(index, bytes(raw))
        details = {"stop_details": message.stop_details, "container": message.container, "context_management": message.context_management}
        events += self._end(message.stop_reason, message.stop_sequence, details, message.usage)
        self.done = True
        return events

    def finish(self) -> list[Event]:
        if self._finished is None or not self.done:
            raise StreamBroken("the stream ended before its answer was finished", provider_request_id=self._request_id)
        return [self._finished]

    def _begin(self, message: WireMessage) -> list[Event]:
        events: list[Event] = [ResponseStarted(provider_request_id=self._request_id or message.id, model=message.model)]
        if self._read_usage(message.usage):
            events.append(UsageReported(self._usage))
        return events

    def _read_usage(self, raw: msgspec.Raw) -> bool:
        """Whether there was any."""
        usage = _decode_usage(raw)
        if usage is None:
            return False
        self._counted = merged(self._counted, usage)
        self._usage = usage_of(self._counted)
        self.service_tier = usage.service_tier or self.service_tier
        if self._native:
            self._figures |= {name: value for name, value in _decode_any(raw).items() if name not in _OURS and value is not None}
        return True

    def _complete(self, index: int, raw: bytes) -> list[Event]:
        """The events of a block that came whole."""
        events = self._start(index, raw)
        block = _decode_block(raw)
        opened = self._open[index]
        if block.thinking:
            events.append(ReasoningDelta(block.thinking))
        if opened.call is not None:
            arguments = bytes(block.input).decode()
            opened.json.append(arguments)
            events.append(ToolCallDelta(opened.call, arguments=arguments))
            return events
        return events + self._stop(index)

    def _start(self, index: int, raw: bytes) -> list[Event]:
        shown = _decode_block(raw)
        events: list[Event] = self._stop(index)  # where the one before it was not said to end
        block = self._open[index] = _Open(raw, shown)
        if block.kind == "tool_use":
            block.call = self._calls
            self._calls += 1
            events += [] if (fields := _call_fields(shown)) is None else [fields]
            return [*events, ToolCallDelta(block.call, id=shown.id, name=shown.name)]
        return [*events, TextDelta(shown.text)] if shown.text else events

    def _delta(self, said: StreamEvent) -> list[Event]:
        delta, block = said.delta, self._open.get(said.index)
        if delta is None:
            return []
        if block is None:
            raise ProviderFault("the provider sent a piece of a block that had not begun", provider_request_id=self._request_id)
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
        elif delta.citation is not None:
            block.citations.append(delta.citation)
        elif delta.content is not None:  # of a compaction
            block.content.append(delta.content)
        return []

    def _stop(self, index: int) -> list[Event]:
        block = self._open.pop(index, None)
        if block is None:
            return []
        if block.kind == "text":
            return [ProviderItem(PROVIDER, {"type": CITATIONS, "citations": block.citations})] if block.citations else []
        if block.call is not None:
            # A tool without arguments sends none; its JSON text is an empty object all the same.
            return [] if block.json else [ToolCallDelta(block.call, arguments="{}")]
        return [ProviderItem(PROVIDER, _item(block))]

    def _end(self, reason: str | None, sequence: str | None, details: dict[str, msgspec.Raw], usage: msgspec.Raw) -> list[Event]:
        events: list[Event] = []
        reported = self._read_usage(usage)
        if reason is not None:
            told = {name: value for name, raw in details.items() if (value := _decode_any(raw)) is not None}
            if self._native and (told or self._figures):
                events.append(ProviderItem(PROVIDER, {"type": MESSAGE_END, **told, "usage": self._figures}))
            refusal = _decode_details(details["stop_details"])
            if reason == "refusal" and refusal is not None and refusal.explanation:
                events.append(RefusalDelta(refusal.explanation))
            self._finished = Finished(FINISH.get(reason, "stop"), provider_reason=reason, stop_sequence=sequence)
        if reported:
            self.usage_final = self._finished is not None
            events.append(UsageReported(self._usage))
        return events


def _call_fields(block: WireBlock) -> ProviderItem | None:
    """What must go back with the call and has no other place. That the model itself called, directly, goes without saying."""
    fields: JsonObject = {}
    if block.caller is not None and block.caller.get("type") != "direct":
        fields["caller"] = block.caller
    if block.toolset_name is not None:
        fields["toolset_name"] = block.toolset_name
    return ProviderItem(PROVIDER, {"type": CALL_FIELDS, "id": block.id, "fields": fields}) if fields else None


def _item(block: _Open) -> JsonObject:
    """The block as it must be sent back: whole, with what came in pieces."""
    item = decode_json_object(block.raw)
    if block.thinking or block.signature:
        item["thinking"] = _text(item.get("thinking")) + "".join(block.thinking)
        item["signature"] = _text(item.get("signature")) + "".join(block.signature)
    if block.content:
        item["content"] = _text(item.get("content")) + "".join(block.content)
    if block.json:
        item["input"] = _input("".join(block.json))
    return item


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _input(text: str) -> JsonObject:
    try:
        return decode_json_object(text or "{}")
    except msgspec.DecodeError:  # an input that was cut by the output limit
        return {}
