"""OpenAI's chat dialect out: events to a completion object, or to the chunks of a stream."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from adapters.collect import Collected, CollectedChoice
from adapters.types import (
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    JsonObject,
    ProviderItem,
    ProviderPart,
    ProviderTool,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    ToolCallPart,
    UsageReported,
)
from router.http.errors import ErrorDetail
from router.kept.sealing import Seal
from router.wire.dialect import Ending, Opening
from router.wire.headgate import Headgate
from router.wire.openai_chat_pieces import logprobs_object, plain, url_citations, usage_object
from router.wire.sse import DONE, HEARTBEAT, frame

_encode = msgspec.json.Encoder().encode


class ChatDialect:
    """The chat completions dialect for one request.

    Opaque parts that it has no place for go out sealed, as `message.headgate.sealed` (and in a stream `delta.headgate`). `custom` names the
    request's custom tools: a call of one is told in their words.
    """

    name = "openai.chat"
    heartbeat = HEARTBEAT

    def __init__(self, include_usage: bool, seal: Seal, custom: Collection[str] = ()) -> None:
        self._include_usage = include_usage
        self._seal = seal
        self._custom = custom

    def whole(self, opening: Opening, answer: Collected, ending: Ending) -> bytes:
        """The whole answer as one `chat.completion`."""
        said = [fields for choice in answer.choices for item in choice.items if (fields := plain(item)) is not None]
        body: JsonObject = {
            "id": _response_id(opening),
            "object": "chat.completion",
            "created": opening.created,
            "model": opening.model,
            "choices": [self._choice(choice, ending.headgate) for choice in answer.choices],
            "usage": usage_object(ending.usage),
            **ending.openai_tier,
            "headgate": ending.headgate,
        }
        for fields in said:
            if "moderation" in fields:
                body["moderation"] = fields["moderation"]
        return _encode(body)

    def stream(self, opening: Opening) -> ChunkEncoder:
        return ChunkEncoder(opening, self._include_usage, self._sealed, self._custom)

    def refusal(self, error: ErrorDetail, status: int, request_id: str) -> bytes:
        return _encode({"error": error})

    def _sealed(self, *items: ProviderItem) -> JsonObject:
        return {"sealed": self._seal.close(*(ProviderPart(item.provider, item.item) for item in items))}

    def _choice(self, choice: CollectedChoice, headgate: Headgate) -> JsonObject:
        own = [(item, plain(item)) for item in choice.items]
        said = [fields for _, fields in own if fields is not None]
        audio = next((fields["audio"] for fields in said if "audio" in fields), None)
        nothing = None if choice.tool_calls or choice.refusal or audio else ""
        message: JsonObject = {"role": "assistant", "content": choice.text or nothing, "refusal": choice.refusal or None}
        if choice.reasoning:
            message["reasoning_content"] = choice.reasoning
        if choice.tool_calls:
            message["tool_calls"] = [self._call(call) for call in choice.tool_calls]
        message["annotations"] = [note for fields in said for note in fields.get("annotations", ())]
        if choice.index == 0:
            message["annotations"] += url_citations(headgate.citations)
        if audio is not None:
            message["audio"] = audio
        if opaque := [item for item, fields in own if fields is None]:
            message["headgate"] = self._sealed(*opaque)
        reason = choice.finish.reason if choice.finish else "stop"
        logprobs = logprobs_object(choice.logprobs, choice.refusal_logprobs)
        return {"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def _call(self, call: ToolCallPart) -> JsonObject:
        if call.name in self._custom:
            return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments}}
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def custom_tools(request: GenerateRequest) -> frozenset[str]:
    """The names of a request's custom tools, in this dialect's words."""
    own = (tool.item.get("custom") for tool in request.tools if isinstance(tool, ProviderTool) and tool.item.get("type") == "custom")
    return frozenset(spec["name"] for spec in own if isinstance(spec, dict) and isinstance(spec.get("name"), str))


def _response_id(opening: Opening) -> str:
    return "chatcmpl-" + opening.request_id


class ChunkEncoder:
    """Turns events into frames. One per stream: it remembers which choices have begun, and keeps `Finished` until the end is known."""

    def __init__(self, opening: Opening, include_usage: bool, seal: Callable[[ProviderItem], JsonObject], custom: Collection[str] = ()) -> None:
        head = _encode({"id": _response_id(opening), "object": "chat.completion.chunk", "created": opening.created, "model": opening.model})[:-1]
        self._head = b"data: " + head + b',"choices":['
        self._tail = b'],"usage":null' if include_usage else b"]"
        self._include_usage = include_usage
        self._seal = seal
        self._custom = custom
        self._custom_calls: set[tuple[int, int]] = set()
        self._begun: set[int] = set()

    def event(self, event: Event) -> bytes:
        """The frames of one event, maybe none. `Finished` has its own method: `end`."""
        match event:
            case TextDelta():
                logprobs = _encode(logprobs_object(event.logprobs)) if event.logprobs else b"null"
                return self._delta(event.choice, b'{"content":' + _encode(event.text) + b"}", logprobs)
            case ReasoningDelta():
                return self._delta(event.choice, b'{"reasoning_content":' + _encode(event.text) + b"}")
            case RefusalDelta():
                logprobs = _encode(logprobs_object((), event.logprobs)) if event.logprobs else b"null"
                return self._delta(event.choice, b'{"refusal":' + _encode(event.text) + b"}", logprobs)
            case ToolCallDelta():
                return self._delta(event.choice, _encode({"tool_calls": [self._call(event)]}))
            case ProviderItem():
                return self._item(event)
            case ResponseStarted() | CitationAdded() | UsageReported() | Finished():
                return b""

    def _call(self, event: ToolCallDelta) -> JsonObject:
        call: JsonObject = {"index": event.index}
        place = (event.choice, event.index)
        if event.name in self._custom and event.id is not None:
            self._custom_calls.add(place)
        custom = place in self._custom_calls
        body: JsonObject = {"input" if custom else "arguments": event.arguments}
        if event.id is not None:
            call |= {"id": event.id, "type": "custom" if custom else "function"}
            body = {"name": event.name or "", **body}
        call["custom" if custom else "function"] = body
        return call

    def _item(self, event: ProviderItem) -> bytes:
        fields = plain(event)
        if fields is None:
            return self._delta(event.choice, _encode({"headgate": self._seal(event)}))
        if "moderation" in fields:
            return self._head + self._tail + b',"moderation":' + _encode(fields["moderation"]) + b"}\n\n"
        return self._delta(event.choice, _encode({name: fields[name] for name in ("annotations", "audio") if name in fields}))

    def end(self, ending: Ending) -> bytes:
        """The last frames: a finish for every choice (the last one with the `headgate` object), usage where asked for, `[DONE]`."""
        frames, headgate = b"", ending.headgate
        for position, finish in enumerate(ending.finished):
            last = position == len(ending.finished) - 1
            notes = url_citations(headgate.citations) if finish.choice == 0 else []
            delta = _encode({"annotations": notes}) if notes else b"{}"
            extra = b"," + _encode({**ending.openai_tier, "headgate": headgate})[1:-1] if last else b""
            frames += self._begin(finish.choice) + self._chunk(finish.choice, delta, b"null", _encode(finish.reason), extra)
        if self._include_usage:
            short = msgspec.structs.replace(headgate, citations=())
            frames += self._head + b'],"usage":' + _encode(usage_object(ending.usage)) + b',"headgate":' + _encode(short) + b"}\n\n"
        return frames + DONE

    def failure(self, error: ErrorDetail, status: int, headgate: Headgate | None) -> bytes:
        """A failure after the start: an error event, then the end."""
        body: JsonObject = {"error": error}
        if headgate is not None:
            body["headgate"] = headgate
        return frame(_encode(body)) + DONE

    def _delta(self, choice: int, delta: bytes, logprobs: bytes = b"null") -> bytes:
        return self._begin(choice) + self._chunk(choice, delta, logprobs, b"null", b"")

    def _begin(self, choice: int) -> bytes:
        if choice in self._begun:
            return b""
        self._begun.add(choice)
        return self._chunk(choice, b'{"role":"assistant","content":"","refusal":null}', b"null", b"null", b"")

    def _chunk(self, choice: int, delta: bytes, logprobs: bytes, finish: bytes, extra: bytes) -> bytes:
        return b"".join(
            (
                self._head,
                b'{"index":',
                str(choice).encode(),
                b',"delta":',
                delta,
                b',"logprobs":',
                logprobs,
                b',"finish_reason":',
                finish,
                b"}",
                self._tail,
                extra,
                b"}\n\n",
            )
        )
