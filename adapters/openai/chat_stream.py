"""OpenAI's chat completion chunks, as msgspec reads them, and the decoder that turns them into events.

Fields that Headgate does not use are skipped without being built. Servers that speak this dialect differ: reasoning is `reasoning_content` or
`reasoning`, content may come in parts, tool calls without ids or with the same index twice, usage in every chunk.
"""

from __future__ import annotations

import uuid

import msgspec
from msgspec import Struct

from adapters.errors import StreamBroken
from adapters.faults import WireError, to_error, wire_failure
from adapters.sse import SseEvent
from adapters.types import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
    UsageReported,
)

FINISH: dict[str, FinishReason] = {
    "stop": "stop", "length": "length", "content_filter": "content_filter", "tool_calls": "tool_calls", "function_call": "tool_calls",
    "eos": "stop", "eos_token": "stop", "model_length": "length", "max_tokens": "length",
}  # fmt: skip
"""OpenAI's reasons, then words of servers that speak its dialect. An unknown one is a stop, and stands in `Finished.provider_reason`."""


class _Function(Struct, frozen=True, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, frozen=True):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _TopLogprob(Struct, frozen=True, gc=False):
    token: str
    logprob: float


class _Logprob(Struct, frozen=True):
    token: str
    logprob: float
    top_logprobs: list[_TopLogprob] | None = None


class _Logprobs(Struct, frozen=True):
    content: list[_Logprob] | None = None


class _ContentPart(Struct, frozen=True):
    """Mistral's reasoning models send content in parts: text, or thinking made of texts."""

    type: str
    text: str | None = None
    thinking: list[_ContentPart] | None = None


class _Delta(Struct, frozen=True):
    content: str | list[_ContentPart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct, frozen=True):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _PromptDetails(Struct, frozen=True, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None


class _CompletionDetails(Struct, frozen=True, gc=False):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class _Usage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class Chunk(Struct, frozen=True):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: WireError | str | None = None


_decode = msgspec.json.Decoder(Chunk).decode


def usage_of(wire: _Usage) -> Usage:
    """OpenAI's counts already include cached tokens in the input and reasoning in the output."""
    prompt = wire.prompt_tokens_details or _PromptDetails()
    completion = wire.completion_tokens_details or _CompletionDetails()
    return Usage(
        input_tokens=wire.prompt_tokens,
        output_tokens=wire.completion_tokens or 0,
        cache_read_input_tokens=prompt.cached_tokens or 0,
        cache_creation_input_tokens=prompt.cache_write_tokens or 0,
        reasoning_output_tokens=completion.reasoning_tokens or 0,
        audio_input_tokens=prompt.audio_tokens or 0,
        audio_output_tokens=completion.audio_tokens or 0,
    )


class ChatDecoder:
    """Decodes one chat completion stream of `choices` choices. `Finished` comes last, after the usage that OpenAI sends behind it."""

    def __init__(self, choices: int = 1, request_id: str | None = None) -> None:
        self.done = False
        self.usage_final = False
        self._choices = choices
        self._request_id = request_id
        self._started = False
        self._reasons: dict[int, str] = {}
        self._calls: dict[int, list[_SeenCall]] = {}

    def feed(self, event: SseEvent) -> list[Event]:
        if event.data == b"[DONE]":
            self.done = True
            return []
        chunk = _decode(event.data)
        if chunk.error is not None:
            error = WireError(message=chunk.error) if isinstance(chunk.error, str) else chunk.error
            raise to_error(wire_failure(error, request_id=self._request_id))
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(ResponseStarted(provider_request_id=self._request_id or chunk.id, model=chunk.model or None))
        for choice in chunk.choices:
            if choice.delta is not None:
                self._delta(choice, choice.delta, events)
            if choice.finish_reason:
                self._reasons[choice.index] = choice.finish_reason
        if chunk.usage is not None:
            self.usage_final = len(self._reasons) >= self._choices
            events.append(UsageReported(usage_of(chunk.usage)))
        return events

    def finish(self) -> list[Event]:
        missing = self._choices - len(self._reasons)
        if missing > 0:
            raise StreamBroken("the stream ended before its answer was finished", provider_request_id=self._request_id)
        return [Finished(FINISH.get(reason, "stop"), choice=index, provider_reason=reason) for index, reason in sorted(self._reasons.items())]

    def _delta(self, choice: _Choice, delta: _Delta, events: list[Event]) -> None:
        index = choice.index
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning:
            events.append(ReasoningDelta(reasoning, choice=index))
        content = delta.content
        if isinstance(content, list):
            content = _join_parts(content, index, events)
        if content and choice.logprobs is None:
            events.append(TextDelta(content, choice=index))
        elif choice.logprobs is not None:
            logprobs = _logprobs(choice.logprobs)
            if content or logprobs:
                events.append(TextDelta(content or "", choice=index, logprobs=logprobs))
        if delta.refusal:
            events.append(RefusalDelta(delta.refusal, choice=index))
        if delta.tool_calls:
            events += [self._call(index, call) for call in delta.tool_calls]

    def _call(self, choice: int, wire: _ToolCall) -> ToolCallDelta:
        function = wire.function or _Function()
        calls = self._calls.setdefault(choice, [])
        for place in range(len(calls) - 1, -1, -1):
            known = calls[place]
            if known.wire_index == wire.index and (not wire.id or wire.id == known.id):
                # Some servers repeat id and name with every piece: consumers join pieces, so they come once.
                return ToolCallDelta(place, arguments=function.arguments or "", choice=choice)
        identity = wire.id or f"call_{uuid.uuid4().hex[:24]}"
        calls.append(_SeenCall(wire.index, wire.id or ""))
        return ToolCallDelta(len(calls) - 1, id=identity, name=function.name or "", arguments=function.arguments or "", choice=choice)


class _SeenCall(Struct, frozen=True, gc=False):
    wire_index: int
    id: str


def _join_parts(parts: list[_ContentPart], choice: int, events: list[Event]) -> str:
    text: list[str] = []
    for part in parts:
        if part.thinking is not None:
            events.append(ReasoningDelta("".join(piece.text or "" for piece in part.thinking), choice=choice))
        elif part.text:
            text.append(part.text)
    return "".join(text)


def _logprobs(wire: _Logprobs | None) -> tuple[TokenLogprob, ...]:
    if wire is None or not wire.content:
        return ()
    return tuple(TokenLogprob(item.token, item.logprob, tuple((top.token, top.logprob) for top in item.top_logprobs or ())) for item in wire.content)
