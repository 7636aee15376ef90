"""The event stream of Anthropic's dialect: one block after the other, each begun, told and ended."""

from __future__ import annotations

from typing import Literal

import msgspec

from adapters.anthropic.messages_stream import CALL_FIELDS, CITATIONS, MESSAGE_END
from adapters.types import (
    CitationAdded,
    Event,
    Finished,
    JsonObject,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from router.http.errors import ErrorDetail
from router.kept.sealing import Seal
from router.wire.anthropic_errors import error_object
from router.wire.anthropic_items import MessageEnd, citation_objects, own, shown_of, stop_of, token_of, usage_object
from router.wire.dialect import Ending
from router.wire.headgate import Headgate

PING = b'event: ping\ndata: {"type":"ping"}\n\n'

_encode = msgspec.json.Encoder().encode


def _frame(name: bytes, data: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + data + b"\n\n"


class MessageStream:
    """Turns events into the stream's. One per answer.

    The dialect says one block at a time. A call's arguments are complete when they are JSON; until then what belongs to another block is kept, and
    told after it, so that nothing is lost. Where moderation may hold back the end of a text, whatever is no text waits for the end of all of it.
    """

    def __init__(self, head: JsonObject, seal: Seal, request_id: str, *, moderated: bool) -> None:
        self._head = head
        self._seal = seal
        self._request_id = request_id
        self._moderated = moderated
        self._begun = False
        self._blocks = 0
        self._open: Literal["text", "thinking", "tool"] | None = None
        self._delta = b""
        self._call: int | None = None
        self._arguments = ""
        self._told = ""
        self._ahead = 0
        self._calls: set[int] = set()
        self._fields: dict[str, JsonObject] = {}
        self._cited: list[JsonObject] = []
        self._kept: list[Event] = []
        self._end = MessageEnd()
        self._refused = False

    def event(self, event: Event) -> bytes:
        start = b"" if self._begun else self._start()
        self._refused = self._refused or isinstance(event, RefusalDelta)
        if self._must_wait(event):
            self._kept.append(event)
            return start
        return start + self._say(event)

    def end(self, ending: Ending) -> bytes:
        frames = b"" if self._begun else self._start()
        for event in _sorted(self._kept):
            frames += self._say(event)
        headgate = ending.headgate
        if cited := [*self._cited, *citation_objects(headgate.citations)]:
            if self._open != "text":  # the text they belong to has ended: an empty one carries them
                frames += self._begin("text", {"type": "text", "text": "", "citations": []})
            frames += b"".join(self._tell({"type": "citations_delta", "citation": citation}) for citation in cited)
        frames += self._finish()
        reason, sequence = stop_of(ending.finished, refused=self._refused)
        beside = {name: value for name, value in self._end.fields.items() if name == "context_management"}
        told = {name: value for name, value in self._end.fields.items() if name not in beside}
        last: JsonObject = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence, **told},
            "usage": usage_object(ending.usage, self._end.figures),
            **beside,
            "headgate": headgate,
        }
        return frames + _frame(b"message_delta", _encode(last)) + _frame(b"message_stop", b'{"type":"message_stop"}')

    def failure(self, error: ErrorDetail, status: int, headgate: Headgate | None) -> bytes:
        """A failure after the start: an error event, which ends the stream."""
        return _frame(b"error", error_object(error, status, self._request_id, headgate=headgate))

    def _start(self) -> bytes:
        self._begun = True
        return _frame(b"message_start", _encode({"type": "message_start", "message": self._head}))

    def _must_wait(self, event: Event) -> bool:
        """Whether an event's block cannot be told yet."""
        match event:
            case ToolCallDelta():
                here = self._open == "tool" and self._call == event.index
            case TextDelta() | RefusalDelta():
                here = self._open == "text"
            case ReasoningDelta():
                here = self._open == "thinking"
            case ProviderItem():
                here = own(event) and event.item.get("type") in (MESSAGE_END, CALL_FIELDS, CITATIONS)
            case ResponseStarted() | CitationAdded() | UsageReported() | Finished():
                return False
        if here:
            return False
        if self._kept or (self._open == "tool" and not _complete(self._arguments)):
            return True
        return self._moderated and self._open == "text"

    def _say(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._text(event.text)
            case RefusalDelta():
                return b"" if self._end.explained else self._text(event.text)
            case ReasoningDelta():
                return self._reasoning(event.text)
            case ToolCallDelta():
                return self._tool(event)
            case ProviderItem():
                return self._item(event)
            case ResponseStarted() | CitationAdded() | UsageReported() | Finished():
                return b""

    def _text(self, text: str) -> bytes:
        begin = b"" if self._open == "text" else self._begin("text", {"type": "text", "text": ""})
        return begin + self._piece(text)

    def _reasoning(self, text: str) -> bytes:
        if self._ahead:  # told already, with the block that it belongs to
            text, self._ahead = text[self._ahead :], max(0, self._ahead - len(text))
        if not text:
            return b""
        begin = b"" if self._open == "thinking" else self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        self._told += text
        return begin + self._piece(text)

    def _tool(self, event: ToolCallDelta) -> bytes:
        begin = b""
        if self._call != event.index or self._open != "tool":
            if event.index in self._calls:  # white space after arguments that were complete
                return b""
            self._calls.add(event.index)
            call = {"type": "tool_use", "id": event.id or "", "name": event.name or "", "input": {}, **self._fields.get(event.id or "", {})}
            begin = self._begin("tool", call)
            self._call, self._arguments = event.index, ""
        if not event.arguments:
            return begin
        self._arguments += event.arguments
        return begin + self._piece(event.arguments)

    def _item(self, item: ProviderItem) -> bytes:
        kind = item.item.get("type")
        if not own(item):
            return self._signed("", token_of(self._seal, item))
        shown = shown_of(item)
        if kind == MESSAGE_END:
            self._end.take(shown)
        elif kind == CALL_FIELDS:
            self._fields[str(item.item["id"])] = shown["fields"]
        elif kind == CITATIONS:
            if self._open != "text":  # all of the text is still held back by moderation
                self._cited += shown["citations"]
                return b""
            told = b"".join(self._tell({"type": "citations_delta", "citation": citation}) for citation in shown["citations"])
            return told if self._moderated else told + self._finish()
        elif kind == "thinking":
            signature = str(item.item.get("signature", "")) if item.shown is None else token_of(self._seal, item)
            return self._signed(str(shown.get("thinking", "")), signature)
        elif item.shown is not None:  # what moderation changed does not fit its call any more: it goes back sealed
            return self._signed("", token_of(self._seal, item))
        else:
            return self._own_block(item.item)
        return b""

    def _signed(self, thinking: str, signature: str) -> bytes:
        """End the thinking block that is open, or say one, with a signature. `thinking` is all of it, where that is known."""
        begin = b"" if self._open == "thinking" else self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        more = b""
        if len(thinking) > len(self._told) and thinking.startswith(self._told):  # moderation still holds the end of what it lets through
            missing = thinking[len(self._told) :]
            self._ahead += len(missing) if self._moderated else 0
            more = self._piece(missing)
        signed = self._tell({"type": "signature_delta", "signature": signature})
        self._open = None
        return begin + more + signed + self._stop()

    def _own_block(self, block: JsonObject) -> bytes:
        """A block of the provider's own tools, whole; a call's input comes as a delta, as it does there."""
        frames = self._finish()
        told = b""
        if isinstance(block.get("input"), dict):
            told = self._tell({"type": "input_json_delta", "partial_json": _encode(block["input"]).decode()})
            block = {**block, "input": {}}
        return frames + self._block(block) + told + self._stop()

    def _begin(self, kind: Literal["text", "thinking", "tool"], block: JsonObject) -> bytes:
        frames = self._finish() + self._block(block)
        self._open, self._told = kind, ""
        field = {"text": b'text_delta","text":', "thinking": b'thinking_delta","thinking":', "tool": b'input_json_delta","partial_json":'}[kind]
        self._delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%s' % (self._blocks, field)
        return frames

    def _block(self, block: JsonObject) -> bytes:
        return _frame(b"content_block_start", _encode({"type": "content_block_start", "index": self._blocks, "content_block": block}))

    def _piece(self, text: str) -> bytes:
        return self._delta + _encode(text) + b"}}\n\n"

    def _tell(self, delta: JsonObject) -> bytes:
        return _frame(b"content_block_delta", _encode({"type": "content_block_delta", "index": self._blocks, "delta": delta}))

    def _finish(self) -> bytes:
        """End the open block. Thinking that nobody signed gets a signature of ours, so that clients can send it back."""
        if self._open is None:
            return b""
        signed = self._tell({"type": "signature_delta", "signature": token_of(self._seal)}) if self._open == "thinking" else b""
        self._open = None
        return signed + self._stop()

    def _stop(self) -> bytes:
        frame = _frame(b"content_block_stop", b'{"type":"content_block_stop","index":%d}' % self._blocks)
        self._blocks += 1
        return frame


def _complete(arguments: str) -> bool:
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return False
    return True


def _sorted(kept: list[Event]) -> list[Event]:
    """The events with the pieces of each call together, in the order in which the calls began."""
    events: list[Event] = []
    places: dict[int, int] = {}
    for event in kept:
        if isinstance(event, ToolCallDelta) and event.index in places:
            first = events[places[event.index]]
            assert isinstance(first, ToolCallDelta)
            events[places[event.index]] = msgspec.structs.replace(first, arguments=first.arguments + event.arguments)
            continue
        if isinstance(event, ToolCallDelta):
            places[event.index] = len(events)
        events.append(event)
    return events
