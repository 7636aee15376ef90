"""The output items of one response, made from the events of its answer, with the stream events that tell of them.

A whole answer and a streamed one are made by the same steps. A message and a call stay open until the end: moderation may hold their last
characters until then. Reasoning closes with the opaque part that its provider sends behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adapters.openai.responses_items import PROVIDER, is_note, is_sealed
from adapters.types import (
    Citation,
    CitationAdded,
    Event,
    Finished,
    JsonObject,
    ProviderItem,
    ProviderPart,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    UsageReported,
)
from router.kept.sealing import Seal
from router.wire.openai_responses_items import OWN_ID

CHAT = "openai.chat"
"""Whose words the opaque parts of chat completions are."""

Said = list[JsonObject]
"""Stream events without their sequence numbers."""


class Output:
    """`items` is the output so far, in order; what `event` and `end` return tells a stream's reader how it got there."""

    def __init__(self, tag: str, seal: Seal) -> None:
        self.items: list[JsonObject] = []
        self._tag = tag
        self._seal = seal
        self._message: JsonObject | None = None
        self._reasoning: JsonObject | None = None
        self._calls: dict[int, JsonObject] = {}
        self._open: dict[int, JsonObject] = {}
        self._pieces: dict[str, list[str]] = {}
        """By item: what was said of its open text, its arguments or its thoughts."""
        self._head: JsonObject = {}
        self._notes: dict[str, JsonObject] = {}
        self._texts: list[tuple[JsonObject, int, int]] = []
        """Of every text: its message, its place in it, and where in the answer's whole text it begins."""
        self._length = 0
        self._owed = ""
        """Thoughts that an item told before moderation released them: they are not told again."""

    def event(self, event: Event) -> Said:
        match event:
            case TextDelta():
                return self._text(event)
            case RefusalDelta():
                return self._refusal(event)
            case ReasoningDelta():
                return self._thought(event)
            case ToolCallDelta():
                return self._call(event)
            case ProviderItem():
                return self._item(event)
            case ResponseStarted() | CitationAdded() | UsageReported() | Finished():
                return []

    def end(self, citations: Iterable[Citation], *, complete: bool) -> Said:
        """The end of every open item. The last one is incomplete where the answer is."""
        said: Said = [event for citation in citations for event in self._cite(citation)]
        last = max(self._open, default=-1)
        for index in sorted(self._open):
            said += self._close(index, "incomplete" if index == last and not complete else "completed")
        return said

    def break_off(self) -> None:
        """The answer ends here, in the middle: what is open stays as it is."""
        for item in self._open.values():
            self._put_together(item)
            if item["type"] != "reasoning":
                item["status"] = "incomplete"

    # --- messages --------------------------------------------------------------------------------------------------------------------

    def _text(self, event: TextDelta) -> Said:
        said, message, place = self._part("output_text")
        self._pieces[message["id"]].append(event.text)
        message["content"][place]["logprobs"] += [_logprob(each) for each in event.logprobs]
        self._length += len(event.text)
        delta = {"content_index": place, "delta": event.text, "logprobs": [_delta_logprob(each) for each in event.logprobs]}
        return [*said, self._of(message, "response.output_text.delta", **delta)]

    def _refusal(self, event: RefusalDelta) -> Said:
        said, message, place = self._part("refusal")
        self._pieces[message["id"]].append(event.text)
        return [*said, self._of(message, "response.refusal.delta", content_index=place, delta=event.text)]

    def _part(self, kind: str) -> tuple[Said, JsonObject, int]:
        """The open content part of that kind: the message's last one, or a new one."""
        said: Said = []
        message = self._message
        if message is None:
            beside = {key: value for key, value in self._head.items() if key != "type"}
            message = {"id": self._id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": [], **beside}
            self._head, self._message = {}, message
            said = self._begin(message)
        content = message["content"]
        place = len(content) - 1
        if not content or content[place]["type"] != kind:
            said += self._part_done(message)
            empty = {"type": "refusal", "refusal": ""} if kind == "refusal" else {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            content.append(empty)
            place += 1
            if kind == "output_text":
                self._texts.append((message, place, self._length))
            said.append(self._of(message, "response.content_part.added", content_index=place, part=_copy(empty)))
        return said, message, place

    def _part_done(self, message: JsonObject) -> Said:
        if not message["content"]:
            return []
        self._put_together(message)
        place = len(message["content"]) - 1
        part = message["content"][place]
        if part["type"] == "refusal":
            done = self._of(message, "response.refusal.done", content_index=place, refusal=part["refusal"])
        else:
            logprobs = [_without_bytes(each) for each in part["logprobs"]]
            done = self._of(message, "response.output_text.done", content_index=place, text=part["text"], logprobs=logprobs)
        return [done, self._of(message, "response.content_part.done", content_index=place, part=_copy(part))]

    def _annotate(self, message: JsonObject, place: int, annotation: JsonObject) -> Said:
        annotations = message["content"][place]["annotations"]
        annotations.append(annotation)
        if self._open.get(self.items.index(message)) is not message:
            return []  # its end was told; the whole response has it
        where = {"content_index": place, "annotation_index": len(annotations) - 1}
        return [self._of(message, "response.output_text.annotation.added", **where, annotation=annotation)]

    def _cite(self, citation: Citation) -> Said:
        """A citation in the dialect's form: on the text that holds its claim, `index` where the claim ends."""
        held = [text for text in self._texts if text[2] < citation.answer_end] or self._texts[:1]
        if not held:
            return []
        message, place, start = held[-1]
        index = max(0, citation.answer_end - start)
        return self._annotate(message, place, {"type": "file_citation", "file_id": citation.file_id, "filename": citation.filename, "index": index})

    # --- reasoning, calls, items ---------------------------------------------------------------------------------------------------------

    def _thought(self, event: ReasoningDelta) -> Said:
        if self._owed and (event.text.startswith(self._owed) or self._owed.startswith(event.text)):
            told = min(len(self._owed), len(event.text))
            self._owed, event = self._owed[told:], ReasoningDelta(event.text[told:])
            if not event.text:
                return []
        else:
            self._owed = ""  # moderation released something else: nothing of it was told
        said: Said = []
        item = self._reasoning
        if item is None:
            item = self._reasoning = {"id": self._id("rs"), "type": "reasoning", "summary": []}
            said = self._begin(item)
            item["summary"].append({"type": "summary_text", "text": ""})
            said.append(self._of(item, "response.reasoning_summary_part.added", summary_index=0, part={"type": "summary_text", "text": ""}))
        self._pieces[item["id"]].append(event.text)
        return [*said, self._of(item, "response.reasoning_summary_text.delta", summary_index=0, delta=event.text)]

    def _call(self, event: ToolCallDelta) -> Said:
        said: Said = []
        item = self._calls.get(event.index)
        if item is None:
            call_id = event.id or f"call{OWN_ID}{self._tag}_{event.index}"
            noted = self._notes.pop(call_id, {})
            item = {
                "id": self._id("fc"),
                "type": "function_call",
                "status": "in_progress",
                "arguments": "",
                "call_id": call_id,
                "name": event.name or "",
                **noted,
            }
            self._calls[event.index] = item
            said = self._begin(item)
        if event.arguments:
            self._pieces[item["id"]].append(event.arguments)
            said.append(self._of(item, "response.function_call_arguments.delta", delta=event.arguments))
        return said

    def _item(self, event: ProviderItem) -> Said:
        """An item in this dialect's words as it is, as far as a client may see it; anything else sealed, as reasoning that only this service can open.

        What comes back unsealed is taken for OpenAI's own, so what another server sealed, and its ids, do not go out open.
        """
        speaks, _, elsewhere = event.provider.partition("@")
        own = speaks == PROVIDER and isinstance(event.item.get("type"), str)
        shown = event.item if event.shown is None else event.shown
        if speaks == CHAT and event.item.keys() == {"annotations"}:
            return self._note("annotations", {"annotations": [_web_citation(note) for note in shown["annotations"] if "url_citation" in note]})
        if own and is_note(event.item):
            return self._note(event.item["type"], {key: value for key, value in shown.items() if key != "id"} if elsewhere else shown)
        if own and event.item["type"] != "reasoning" and not (elsewhere and is_sealed(event.item)):
            return self._whole_item(shown)
        thoughts = _thoughts(shown)
        if own and not elsewhere and event.shown is None and self._reasoning is None:
            self._owed = thoughts
            return self._whole_item({"summary": [], **{key: value for key, value in shown.items() if value is not None}})
        said: Said = self._rest_of(thoughts)
        item, self._reasoning = self._reasoning, None
        if item is None:
            self._owed = thoughts if own else ""
            summary = [{"type": "summary_text", "text": str(part.get("text", ""))} for part in shown.get("summary") or ()] if own else []
            if own and thoughts and not summary:
                summary = [{"type": "summary_text", "text": thoughts}]
            item = {"id": self._id("rs"), "type": "reasoning", "summary": summary}
            said = self._begin(item)
        # The id of what was sealed is inside: OpenAI wants its own back.
        item["encrypted_content"] = self._seal.close(ProviderPart(event.provider, event.item))
        return said + self._close(self.items.index(item), "completed")

    def _rest_of(self, thoughts: str) -> Said:
        """What moderation still holds of the open reasoning, told now that its item, moderated whole, has it."""
        if self._reasoning is None:
            return []
        told = "".join(self._pieces[self._reasoning["id"]])
        if not thoughts.startswith(told) or len(thoughts) == len(told):
            return []
        self._owed, rest = "", thoughts[len(told) :]
        said = self._thought(ReasoningDelta(rest))
        self._owed = rest
        return said

    def _note(self, kind: str, note: JsonObject) -> Said:
        match kind:
            case "message":
                said = [] if self._message is None else self._close(self.items.index(self._message), "completed")
                self._message, self._head = None, note
                return said
            case "function_call":
                self._notes[str(note["call_id"])] = {key: value for key, value in note.items() if key not in ("type", "call_id")}
                return []
            case _:
                if not self._texts:
                    return []
                message, place, _ = self._texts[-1]
                return [event for each in note["annotations"] for event in self._annotate(message, place, each)]

    def _whole_item(self, item: JsonObject) -> Said:
        self.items.append(item)
        index = len(self.items) - 1
        return [{"type": f"response.output_item.{when}", "output_index": index, "item": item} for when in ("added", "done")]

    # --- beginning and end of an item ---------------------------------------------------------------------------------------------------

    def _id(self, prefix: str) -> str:
        return f"{prefix}{OWN_ID}{self._tag}_{len(self.items)}"

    def _begin(self, item: JsonObject) -> Said:
        self.items.append(item)
        index = len(self.items) - 1
        self._open[index] = item
        self._pieces[item["id"]] = []
        return [{"type": "response.output_item.added", "output_index": index, "item": _copy(item)}]

    def _close(self, index: int, status: str) -> Said:
        item = self._open.pop(index, None)
        if item is None:
            return []
        said: Said = []
        if item["type"] != "message":
            self._put_together(item)
        match item["type"]:
            case "message":
                said = self._part_done(item)
            case "function_call":
                said = [self._of(item, "response.function_call_arguments.done", name=item["name"], arguments=item["arguments"])]
            case _:
                for place, part in enumerate(item["summary"]):
                    said.append(self._of(item, "response.reasoning_summary_text.done", summary_index=place, text=part["text"]))
                    said.append(self._of(item, "response.reasoning_summary_part.done", summary_index=place, part=part))
        item["status"] = status
        return [*said, {"type": "response.output_item.done", "output_index": index, "item": _copy(item)}]

    def _put_together(self, item: JsonObject) -> None:
        """Into the item what its pieces say."""
        text = "".join(self._pieces[item["id"]])
        self._pieces[item["id"]] = []
        match item["type"]:
            case "function_call":
                item["arguments"] += text
            case "reasoning":
                for part in item["summary"][:1]:
                    part["text"] += text
            case _:
                for part in item["content"][-1:]:
                    part["refusal" if part["type"] == "refusal" else "text"] += text

    def _of(self, item: JsonObject, kind: str, **fields: Any) -> JsonObject:
        return {"type": kind, "item_id": item["id"], "output_index": self.items.index(item), **fields}


def _copy(item: JsonObject) -> JsonObject:
    """As it is now: what is told now must not change with what comes later."""
    return {key: [_copy(each) if isinstance(each, dict) else each for each in value] if isinstance(value, list) else value for key, value in item.items()}


def _thoughts(item: JsonObject) -> str:
    """What a reasoning item repeats of the thoughts that were told before it: OpenAI's summary or content, Anthropic's `thinking`."""
    told = item.get("summary") or item.get("content")
    if isinstance(told, list):
        return "\n\n".join(str(part.get("text", "")) for part in told if isinstance(part, dict))
    thinking = item.get("thinking")
    return thinking if isinstance(thinking, str) else ""


def _web_citation(note: JsonObject) -> JsonObject:
    """A citation of chat completions: what stands in an object of its own there stands beside the type here."""
    return {"type": "url_citation", **note["url_citation"]}


def _logprob(item: TokenLogprob) -> JsonObject:
    top = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in item.top]
    return {"token": item.token, "logprob": item.logprob, "bytes": list(item.token.encode()), "top_logprobs": top}


def _delta_logprob(item: TokenLogprob) -> JsonObject:
    return {"token": item.token, "logprob": item.logprob, "top_logprobs": [{"token": token, "logprob": value} for token, value in item.top]}


def _without_bytes(item: JsonObject) -> JsonObject:
    top = [{"token": each["token"], "logprob": each["logprob"]} for each in item["top_logprobs"]]
    return {"token": item["token"], "logprob": item["logprob"], "top_logprobs": top}
