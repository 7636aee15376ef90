"""OpenAI's chat dialect out: events to a completion object, or to the chunks of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from adapters.collect import Collected, CollectedChoice
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
    Usage,
    UsageReported,
)
from router.http.errors import ErrorDetail
from router.sealing import Seal
from router.wire.dialect import Ending, Opening
from router.wire.headgate import Headgate
from router.wire.sse import DONE, HEARTBEAT, frame

_encode = msgspec.json.Encoder().encode


def usage_object(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_input_tokens, "audio_tokens": usage.audio_input_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_output_tokens,
            "audio_tokens": usage.audio_output_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def url_citations(citations: Iterable[Citation]) -> list[JsonObject]:
    """Citations in the dialect's own form."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "url": f"/v1/files/{citation.file_id}/text#char={citation.start},{citation.end}",
                "title": citation.filename if citation.page is None else f"{citation.filename}, page {citation.page}",
                "start_index": citation.answer_start,
                "end_index": citation.answer_end,
            },
        }
        for citation in citations
    ]


def _logprobs(items: Iterable[TokenLogprob]) -> JsonObject | None:
    content = [
        {
            "token": item.token,
            "logprob": item.logprob,
            "bytes": list(item.token.encode()),
            "top_logprobs": [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in item.top],
        }
        for item in items
    ]
    return {"content": content, "refusal": None} if content else None


class ChatDialect:
    """The chat completions dialect for one request. Opaque parts go out sealed, as `message.headgate.sealed` (and in a stream `delta.headgate`)."""

    name = "openai.chat"
    heartbeat = HEARTBEAT

    def __init__(self, include_usage: bool, seal: Seal) -> None:
        self._include_usage = include_usage
        self._seal = seal

    def whole(self, opening: Opening, answer: Collected, ending: Ending) -> bytes:
        """The whole answer as one `chat.completion`."""
        return _encode(
            {
                "id": _response_id(opening),
                "object": "chat.completion",
                "created": opening.created,
                "model": opening.model,
                "choices": [self._choice(choice, ending.headgate) for choice in answer.choices],
                "usage": usage_object(ending.usage),
                "system_fingerprint": None,
                "headgate": ending.headgate,
            }
        )

    def stream(self, opening: Opening) -> ChunkEncoder:
        return ChunkEncoder(opening, self._include_usage, self._sealed)

    def refusal(self, error: ErrorDetail, status: int, request_id: str) -> bytes:
        return _encode({"error": error})

    def _sealed(self, *items: ProviderItem) -> JsonObject:
        return {"sealed": self._seal.close(*(ProviderPart(item.provider, item.item) for item in items))}

    def _choice(self, choice: CollectedChoice, headgate: Headgate) -> JsonObject:
        nothing = None if choice.tool_calls or choice.refusal else ""
        message: JsonObject = {"role": "assistant", "content": choice.text or nothing, "refusal": choice.refusal or None}
        if choice.reasoning:
            message["reasoning_content"] = choice.reasoning
        if choice.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in choice.tool_calls
            ]
        if choice.index == 0:
            message["annotations"] = url_citations(headgate.citations)
        if choice.items:
            message["headgate"] = self._sealed(*choice.items)
        reason = choice.finish.reason if choice.finish else "stop"
        return {"index": choice.index, "message": message, "logprobs": _logprobs(choice.logprobs), "finish_reason": reason}


def _response_id(opening: Opening) -> str:
    return "chatcmpl-" + opening.request_id


class ChunkEncoder:
    """Turns events into frames. One per stream: it remembers which choices have begun, and keeps `Finished` until the end is known."""

    def __init__(self, opening: Opening, include_usage: bool, seal: Callable[[ProviderItem], JsonObject]) -> None:
        head = _encode(
            {"id": _response_id(opening), "object": "chat.completion.chunk", "created": opening.created, "model": opening.model, "system_fingerprint": None}
        )[:-1]
        self._head = b"data: " + head + b',"choices":['
        self._tail = b'],"usage":null' if include_usage else b"]"
        self._include_usage = include_usage
        self._seal = seal
        self._begun: set[int] = set()

    def event(self, event: Event) -> bytes:
        """The frames of one event, maybe none. `Finished` has its own method: `end`."""
        match event:
            case TextDelta():
                logprobs = _logprobs(event.logprobs) if event.logprobs else None
                return self._delta(event.choice, b'{"content":' + _encode(event.text) + b"}", _encode(logprobs))
            case ReasoningDelta():
                return self._delta(event.choice, b'{"reasoning_content":' + _encode(event.text) + b"}")
            case RefusalDelta():
                return self._delta(event.choice, b'{"refusal":' + _encode(event.text) + b"}")
            case ToolCallDelta():
                call: JsonObject = {"index": event.index}
                function: JsonObject = {"arguments": event.arguments}
                if event.id is not None:
                    call |= {"id": event.id, "type": "function"}
                    function = {"name": event.name, "arguments": event.arguments}
                return self._delta(event.choice, _encode({"tool_calls": [call | {"function": function}]}))
            case ProviderItem():
                return self._delta(event.choice, _encode({"headgate": self._seal(event)}))
            case ResponseStarted() | CitationAdded() | UsageReported() | Finished():
                return b""

    def end(self, ending: Ending) -> bytes:
        """The last frames: a finish for every choice (the last one with the `headgate` object), usage where asked for, `[DONE]`."""
        frames, headgate = b"", ending.headgate
        for position, finish in enumerate(ending.finished):
            last = position == len(ending.finished) - 1
            notes = url_citations(headgate.citations) if finish.choice == 0 else []
            delta = _encode({"annotations": notes}) if notes else b"{}"
            extra = b',"headgate":' + _encode(headgate) if last else b""
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
