"""OpenAI's responses dialect out: events to a `Response` object, or to the events of a stream."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from adapters.collect import Collected, CollectedChoice
from adapters.openai.responses_items import PROVIDER
from adapters.types import (
    Event,
    JsonObject,
    ProviderPart,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    TextPart,
    ToolCallDelta,
    ToolCallPart,
    Usage,
)
from router.http.errors import ErrorDetail
from router.kept.sealing import Seal
from router.wire.dialect import Ending, Opening
from router.wire.headgate import Headgate
from router.wire.openai_responses_output import Output
from router.wire.sse import HEARTBEAT

_encode = msgspec.json.Encoder().encode

INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""By finish reason: why a response is incomplete. Any other is complete."""


def response_id(request_id: str) -> str:
    return f"resp_{request_id}"


def request_of(response_id: str) -> str:
    """The request that a response answered."""
    return response_id.removeprefix("resp_")


def usage_object(usage: Usage) -> JsonObject:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cache_read_input_tokens, "cache_write_tokens": usage.cache_creation_input_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
        "total_tokens": usage.total_tokens,
    }


class ResponsesDialect:
    """The responses dialect for one request. `echo` is what the answer repeats of the request.

    Reasoning of OpenAI's own goes out in its own item. Opaque parts of other providers, and what moderation changed, go out as reasoning items
    whose `encrypted_content` is sealed.
    """

    name = "openai.responses"
    heartbeat = HEARTBEAT

    def __init__(self, echo: JsonObject, seal: Seal) -> None:
        self._echo = echo
        self._seal = seal

    def whole(self, opening: Opening, answer: Collected, ending: Ending) -> bytes:
        output = Output(opening.request_id, self._seal)
        for event in _events(answer.choices[0]):
            output.event(event)
        incomplete = _incomplete(ending)
        output.end(ending.headgate.citations, complete=incomplete is None)
        return _encode(_finished(_Frame(opening, self._echo), output, ending))

    def stream(self, opening: Opening) -> ResponseEncoder:
        return ResponseEncoder(_Frame(opening, self._echo), Output(opening.request_id, self._seal))

    def refusal(self, error: ErrorDetail, status: int, request_id: str) -> bytes:
        return _encode({"error": error})


class _Frame:
    """The response object around an output."""

    def __init__(self, opening: Opening, echo: JsonObject) -> None:
        self._head = {"id": response_id(opening.request_id), "object": "response", "created_at": opening.created}
        self._model = opening.model
        self._echo = echo

    def response(self, status: str, output: list[JsonObject], **fields: Any) -> JsonObject:
        head = {**self._head, "status": status, "error": None, "incomplete_details": None, "model": self._model, "output": output}
        return {**head, **self._echo, **fields}


def _incomplete(ending: Ending) -> str | None:
    return INCOMPLETE.get(ending.finished[0].reason) if ending.finished else None


def _finished(frame: _Frame, output: Output, ending: Ending) -> JsonObject:
    why = _incomplete(ending)
    fields: JsonObject = {"usage": usage_object(ending.usage), **ending.openai_tier, "headgate": ending.headgate}
    if why is not None:
        return frame.response("incomplete", output.items, incomplete_details={"reason": why}, **fields)
    return frame.response("completed", output.items, completed_at=int(time.time()), **fields)


def _events(choice: CollectedChoice) -> list[Event]:
    """A gathered answer as the events it would have been, in as few as possible. Its thoughts come first, where no item repeats them."""
    events: list[Event] = []
    told = any(item.provider.partition("@")[0] == PROVIDER and (item.item.get("summary") or item.item.get("content")) for item in choice.items)
    if choice.reasoning and not told:
        events.append(ReasoningDelta(choice.reasoning))
    items, calls, logprobs = iter(choice.items), 0, choice.logprobs
    for part in choice.parts:
        match part:
            case TextPart():
                events.append(TextDelta(part.text, logprobs=logprobs))
                logprobs = ()
            case ToolCallPart():
                events.append(ToolCallDelta(calls, part.id, part.name, part.arguments))
                calls += 1
            case ProviderPart():
                events.append(next(items))
            case _:
                raise AssertionError(part)
    return [*events, RefusalDelta(choice.refusal)] if choice.refusal else events


class ResponseEncoder:
    """Says one streamed response. Every event has its number; the last one is `response.completed`, `.incomplete` or `.failed`, or `error`."""

    def __init__(self, frame: _Frame, output: Output) -> None:
        self._frame = frame
        self._output = output
        self._number = 0

    def event(self, event: Event) -> bytes:
        return self._begin() + self._say(self._output.event(event))

    def end(self, ending: Ending) -> bytes:
        said = self._output.end(ending.headgate.citations, complete=_incomplete(ending) is None)
        response = _finished(self._frame, self._output, ending)
        return self._begin() + self._say([*said, {"type": f"response.{response['status']}", "response": response}])

    def failure(self, error: ErrorDetail, status: int, headgate: Headgate | None) -> bytes:
        """A failure after the response had begun. Before its first event there is no response yet, only an `error`."""
        about: JsonObject = {} if headgate is None else {"headgate": headgate}
        if self._number == 0:
            # `error` too, as OpenAI itself sends beside its published form: its SDKs raise for that alone.
            return self._say([{"type": "error", "code": error.code, "message": error.message, "param": error.param, "error": error, **about}])
        self._output.break_off()
        failed = {"code": _error_code(error, status), "message": error.message, "headgate_code": error.code}
        return self._say([{"type": "response.failed", "response": self._frame.response("failed", self._output.items, error=failed, **about)}])

    def _begin(self) -> bytes:
        if self._number:
            return b""
        response = self._frame.response("in_progress", [])
        return self._say([{"type": "response.created", "response": response}, {"type": "response.in_progress", "response": response}])

    def _say(self, events: list[JsonObject]) -> bytes:
        frames = []
        for event in events:
            frames.append(b"event: " + event["type"].encode() + b"\ndata: " + _encode({**event, "sequence_number": self._number}) + b"\n\n")
            self._number += 1
        return b"".join(frames)


def _error_code(error: ErrorDetail, status: int) -> str:
    """The nearest of the few codes that OpenAI has for failed responses; ours stands beside it."""
    if status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if 400 <= status < 500 else "server_error"
