"""The decoder that turns OpenAI's chat completions, streamed or whole, into events.

Servers that speak this dialect send tool calls without ids or with the same index twice, and running totals of usage.
"""

from __future__ import annotations

import uuid

import msgspec
from msgspec import Struct

from adapters.errors import ProviderFault, StreamBroken
from adapters.faults import WireError, to_error, wire_failure
from adapters.openai.chat_wire import Audio, Choice, Completion, ContentPart, Logprobs, Message, ToolCall, decode_completion, token_logprobs, usage_of
from adapters.sse import SseEvent
from adapters.types import (
    Event,
    Finished,
    FinishReason,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)

PROVIDER = "openai.chat"
"""Whose words the opaque parts are. The items of an answer: `annotations` of a web search, `audio`, the provider's own `moderation`, and
`extra_content` (with the `toolCallId` it stands on), which Gemini wants back when it speaks this dialect."""

FINISH: dict[str, FinishReason] = {
    "stop": "stop", "length": "length", "content_filter": "content_filter", "tool_calls": "tool_calls", "function_call": "tool_calls",
    "eos": "stop", "eos_token": "stop", "model_length": "length", "max_tokens": "length",
}  # fmt: skip
"""OpenAI's reasons, then words of servers that speak its dialect. An unknown one is a stop, and stands in `Finished.provider_reason`."""


class ChatDecoder:
    """Decodes one completion of `choices` choices. `Finished` comes last, after the usage that OpenAI sends behind it.

    `provider` is whose words its opaque parts are: another server's than OpenAI's are its own.
    """

    def __init__(self, choices: int = 1, request_id: str | None = None, provider: str = PROVIDER) -> None:
        self.done = False
        self._provider = provider
        self.usage_final = False
        self.service_tier: str | None = None
        self._choices = choices
        self._request_id = request_id
        self._started = False
        self._reasons: dict[int, str] = {}
        self._begun: set[int] = set()
        self._calls: dict[int, list[_SeenCall]] = {}
        self._audio: dict[int, list[Audio]] = {}

    def feed(self, event: SseEvent) -> list[Event]:
        if event.data == b"[DONE]":
            self.done = True
            return []
        return self._completion(decode_completion(event.data))

    def whole(self, body: bytes) -> list[Event]:
        completion = decode_completion(body)
        if completion.error is None and not completion.choices:
            raise ProviderFault("the provider's answer holds no choice", provider_request_id=self._request_id)
        self.done = True
        return self._completion(completion)

    def finish(self) -> list[Event]:
        if len(self._reasons) < self._choices or self._begun - self._reasons.keys():
            raise StreamBroken("the stream ended before its answer was finished", provider_request_id=self._request_id)
        return [Finished(FINISH.get(reason, "stop"), choice=index, provider_reason=reason) for index, reason in sorted(self._reasons.items())]

    def _completion(self, said: Completion) -> list[Event]:
        if said.error is not None:
            error = WireError(message=said.error) if isinstance(said.error, str) else said.error
            raise to_error(wire_failure(error, request_id=self._request_id))
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(ResponseStarted(provider_request_id=self._request_id or said.id, model=said.model or None))
        if said.service_tier is not None:
            self.service_tier = said.service_tier
        for choice in said.choices or ():
            told = len(events)
            if choice.delta is not None:
                self._message(choice, choice.delta, events, whole=False)
            elif choice.message is not None:
                self._message(choice, choice.message, events, whole=True)
            if len(events) > told:
                self._begun.add(choice.index)
            if choice.finish_reason:
                self._reasons[choice.index] = choice.finish_reason
                if spoken := self._audio.pop(choice.index, None):
                    events.append(ProviderItem(self._provider, {"audio": _spoken(spoken)}, choice.index))
        if said.moderation is not None:
            events.append(ProviderItem(self._provider, {"moderation": said.moderation}))
        if said.usage is not None:
            self.usage_final = len(self._reasons) >= self._choices
            events.append(UsageReported(usage_of(said.usage)))
        return events

    def _message(self, choice: Choice, said: Message, events: list[Event], *, whole: bool) -> None:
        index = choice.index
        reasoning = said.reasoning_content or said.reasoning
        if reasoning:
            events.append(ReasoningDelta(reasoning, choice=index))
        content = said.content
        if isinstance(content, list):
            content = _join_parts(content, index, events)
        if choice.logprobs is None:
            if content:
                events.append(TextDelta(content, choice=index))
            if said.refusal:
                events.append(RefusalDelta(said.refusal, choice=index))
        else:
            _with_logprobs(choice.logprobs, content or "", said.refusal or "", index, events)
        for place, call in enumerate(said.tool_calls or ()):
            # In a whole answer each is a call of its own; servers may give no index, or one id to all.
            self._call(index, call, place if whole else call.index or 0, events, new=whole)
        if said.annotations:
            events.append(ProviderItem(self._provider, {"annotations": said.annotations}, index))
        if said.extra_content:
            events.append(ProviderItem(self._provider, {"extra_content": said.extra_content}, index))
        if said.audio is not None:
            self._audio.setdefault(index, []).append(said.audio)

    def _call(self, choice: int, wire: ToolCall, wire_index: int, events: list[Event], *, new: bool) -> None:
        calls = self._calls.setdefault(choice, [])
        for place in range(len(calls) - 1, -1, -1):
            known = calls[place]
            if not new and known.wire_index == wire_index and (not wire.id or wire.id == known.id):
                # Some servers repeat id and name with every piece: consumers join pieces, so they come once.
                events.append(ToolCallDelta(place, arguments=wire.arguments, choice=choice))
                return
        identity = wire.id or f"call_{uuid.uuid4().hex[:24]}"
        calls.append(_SeenCall(wire_index, wire.id or ""))
        events.append(ToolCallDelta(len(calls) - 1, id=identity, name=wire.name, arguments=wire.arguments, choice=choice))
        if wire.extra_content:
            events.append(ProviderItem(self._provider, {"extra_content": wire.extra_content, "toolCallId": identity}, choice))


class _SeenCall(Struct, frozen=True, gc=False):
    wire_index: int
    id: str


def _join_parts(parts: list[ContentPart], choice: int, events: list[Event]) -> str:
    text: list[str] = []
    for part in parts:
        if part.thinking is not None:
            events.append(ReasoningDelta("".join(piece.text or "" for piece in part.thinking), choice=choice))
        elif part.text:
            text.append(part.text)
    return "".join(text)


def _with_logprobs(wire: Logprobs, content: str, refusal: str, choice: int, events: list[Event]) -> None:
    """A chunk may bring log probabilities without a text: of a token that is half a character."""
    of_content, of_refusal = token_logprobs(wire.content), token_logprobs(wire.refusal)
    if content or of_content:
        events.append(TextDelta(content, choice=choice, logprobs=of_content))
    if refusal or of_refusal:
        events.append(RefusalDelta(refusal, choice=choice, logprobs=of_refusal))


def _spoken(pieces: list[Audio]) -> dict[str, object]:
    """The pieces of a choice's spoken output as one. `data` is base64 of whole samples in every piece, so the texts join."""
    joined: dict[str, object] = {}
    for piece in pieces:
        for name, value in msgspec.to_builtins(piece).items():
            before = joined.get(name)
            joined[name] = before + value if name in ("data", "transcript") and isinstance(before, str) else value
    return joined
