"""Anthropic's messages dialect out: events to a `Message`, or to the events of its stream (`router.wire.anthropic_stream`)."""

from __future__ import annotations

import msgspec

from adapters.anthropic.messages_stream import CALL_FIELDS, CITATIONS, MESSAGE_END
from adapters.collect import Collected, CollectedChoice
from adapters.types import Citation, JsonObject, ProviderItem, ProviderPart, TextPart, ToolCallPart, Usage
from router.http.errors import ErrorDetail
from router.kept.sealing import Seal
from router.wire.anthropic_errors import error_object
from router.wire.anthropic_items import MessageEnd, citation_objects, own, sealed_block, shown_of, stop_of, tool_input, usage_object
from router.wire.anthropic_stream import PING, MessageStream
from router.wire.dialect import Ending, Opening

_encode = msgspec.json.Encoder().encode


class MessagesDialect:
    """The dialect for one request. `moderated`: text may be held back, so what follows it waits (see `MessageStream`)."""

    name = "anthropic.messages"
    heartbeat = PING

    def __init__(self, seal: Seal, *, moderated: bool = False) -> None:
        self._seal = seal
        self._moderated = moderated

    def whole(self, opening: Opening, answer: Collected, ending: Ending) -> bytes:
        """The whole answer as one `message`."""
        content = _Content(self._seal, ending.headgate.citations)
        content.add(answer.choices[0])
        reason, sequence = stop_of(ending.finished, refused=bool(answer.choices[0].refusal))
        return _encode(
            {
                **_head(opening),
                "content": content.blocks,
                "stop_reason": reason,
                "stop_sequence": sequence,
                **content.end.fields,
                "usage": usage_object(ending.usage, content.end.figures),
                "headgate": ending.headgate,
            }
        )

    def stream(self, opening: Opening) -> MessageStream:
        head = {**_head(opening), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage_object(Usage(), {})}
        return MessageStream(head, self._seal, opening.request_id, moderated=self._moderated)

    def refusal(self, error: ErrorDetail, status: int, request_id: str) -> bytes:
        return error_object(error, status, request_id)


def _head(opening: Opening) -> JsonObject:
    return {"id": "msg_" + opening.request_id, "type": "message", "role": "assistant", "model": opening.model}


class _Content:
    """The blocks of a whole answer."""

    def __init__(self, seal: Seal, citations: tuple[Citation, ...]) -> None:
        self.blocks: list[JsonObject] = []
        self.end = MessageEnd()
        self._seal = seal
        self._citations = citations
        self._fields: dict[str, JsonObject] = {}

    def add(self, choice: CollectedChoice) -> None:
        items = iter(choice.items)
        parts = choice.parts
        # Anthropic's own thinking blocks repeat all that was told of the reasoning. Another's item is opaque: the telling stands in its block, or first.
        if choice.reasoning and not any(own(item) and item.item.get("type") == "thinking" for item in choice.items):
            signed = []
            if parts and isinstance(parts[0], ProviderPart) and not own(choice.items[0]):
                signed, parts = [next(items)], parts[1:]
            self.blocks.append(sealed_block(self._seal, choice.reasoning, *signed))
        said = 0
        for part in parts:
            match part:
                case TextPart():
                    if part.text:
                        self._text(part.text, said)
                    said += len(part.text)
                case ToolCallPart():
                    call = {"type": "tool_use", "id": part.id, "name": part.name, "input": tool_input(part.arguments)}
                    self.blocks.append({**call, **self._fields.get(part.id, {})})
                case ProviderPart():
                    self._item(next(items))
                case _:
                    pass  # an answer is collected from no other part
        if choice.refusal and not self.end.explained:
            self.blocks.append({"type": "text", "text": choice.refusal})

    def _text(self, text: str, start: int) -> None:
        """`start` is where it stands in the answer's text, to which citations refer."""
        inside = [start <= citation.answer_start < start + len(text) for citation in self._citations]
        cited = [told for told, here in zip(citation_objects(self._citations), inside, strict=True) if here]
        self.blocks.append({"type": "text", "text": text, **({"citations": cited} if cited else {})})

    def _item(self, item: ProviderItem) -> None:
        if not own(item):
            self.blocks.append(sealed_block(self._seal, "", item))
            return
        shown = shown_of(item)
        kind = item.item.get("type")
        if kind == MESSAGE_END:
            self.end.take(shown)
        elif kind == CALL_FIELDS:
            self._fields[str(item.item["id"])] = shown["fields"]
        elif kind == CITATIONS:
            text = next((block for block in reversed(self.blocks) if block["type"] == "text"), None)
            if text is not None:
                text["citations"] = [*text.get("citations", ()), *shown["citations"]]
        elif item.shown is None:
            self.blocks.append(dict(item.item))
        else:  # what moderation changed does not fit its own signature or its call any more: it goes back sealed
            self.blocks.append(sealed_block(self._seal, str(shown.get("thinking", "")), item))
