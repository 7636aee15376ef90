"""The decoder of Gemini's answers, streamed and whole: events out.

There is no end marker: an answer is complete when every candidate gave its finish reason.
"""

from __future__ import annotations

import uuid

import msgspec

from adapters.errors import BackendError, ContentRefused, ProviderFault, StreamBroken
from adapters.faults import to_error, wire_failure
from adapters.gemini.content_wire import (
    FAILED,
    FINISH,
    UNEXPLAINED,
    Candidate,
    FunctionCall,
    PromptFeedback,
    Response,
    decode_part,
    decode_response,
    token_logprobs,
    usage_of,
)
from adapters.sse import SseEvent
from adapters.types import (
    Event,
    Finished,
    JsonObject,
    ProviderItem,
    ReasoningDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    UsageReported,
    decode_json_object,
)

__all__ = ["FAILED", "FINISH", "PROVIDER", "UNEXPLAINED", "ContentDecoder", "signature_item"]

PROVIDER = "gcp.gemini"


def signature_item(signature: str, call_id: str | None, *, on_text: bool = False) -> JsonObject:
    """A signature that belongs to a tool call, or (without `call_id`) to the text before it.

    `onText` says that it stood on the text itself; otherwise it came in a part of its own, with an empty text.
    """
    item: JsonObject = {"thoughtSignature": signature, "toolCallId": call_id}
    return {**item, "onText": True} if on_text else item


class _Choice:
    """One candidate so far. `thoughts` is the part of thoughts that has begun and may go on."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.calls = 0
        self.delivered = False
        self.reason: str | None = None
        self.message: str | None = None
        self.thoughts: list[str] = []
        self.signature: str | None = None

    def close_thoughts(self) -> list[Event]:
        """The thoughts as one part: what the provider wants back."""
        if not self.thoughts and self.signature is None:
            return []
        part: JsonObject = {"text": "".join(self.thoughts), "thought": True}
        if self.signature is not None:
            part["thoughtSignature"] = self.signature
        self.thoughts, self.signature = [], None
        return [ProviderItem(PROVIDER, {"part": part}, self.index)]


class ContentDecoder:
    """Decodes one answer: the events of streamGenerateContent, or generateContent's body."""

    def __init__(self, request_id: str | None = None) -> None:
        self.done = False
        self.usage_final = False
        self.service_tier: str | None = None
        self._request_id = request_id
        self._started = False
        self._choices: dict[int, _Choice] = {}
        self._refusal: BackendError | None = None

    def feed(self, event: SseEvent) -> list[Event]:
        return self._take(decode_response(event.data), whole=False)

    def whole(self, body: bytes) -> list[Event]:
        events = self._take(decode_response(body), whole=True)
        self.done = True
        return events

    def finish(self) -> list[Event]:
        if self._refusal is not None:
            raise self._refusal
        if not self._choices or any(choice.reason is None for choice in self._choices.values()):
            raise StreamBroken("the stream ended before its answer was finished", provider_request_id=self._request_id)
        return [self._finished(self._choices[index]) for index in sorted(self._choices)]

    def _take(self, said: Response, *, whole: bool) -> list[Event]:
        if said.error is not None:
            raise to_error(wire_failure(said.error, request_id=self._request_id))
        events: list[Event] = []
        if not self._started:
            self._started = True
            self._request_id = self._request_id or said.response_id
            events.append(ResponseStarted(provider_request_id=self._request_id, model=said.model_version))
        for candidate in said.candidates:
            self._candidate(candidate, events, whole=whole)
        if said.prompt_feedback is not None and said.prompt_feedback.block_reason:
            self._refusal = self._refused(said.prompt_feedback)
        if said.usage_metadata is not None:
            self.service_tier = said.usage_metadata.service_tier or self.service_tier
            ended = bool(self._choices) and all(choice.reason is not None for choice in self._choices.values())
            self.usage_final = ended or self._refusal is not None
            events.append(UsageReported(usage_of(said.usage_metadata)))
        return events

    def _candidate(self, candidate: Candidate, events: list[Event], *, whole: bool) -> None:
        choice = self._choices.setdefault(candidate.index, _Choice(candidate.index))
        first = len(events)
        for raw in candidate.content.parts if candidate.content is not None else ():
            _part(bytes(raw), choice, events)
            if whole:
                events += choice.close_thoughts()
        if candidate.logprobs_result is not None:
            _with_logprobs(candidate, events, first)
        if candidate.finish_reason:
            events += choice.close_thoughts()
            choice.reason, choice.message = candidate.finish_reason, candidate.finish_message
        for name, metadata in (
            ("groundingMetadata", candidate.grounding_metadata),
            ("urlContextMetadata", candidate.url_context_metadata),
            ("citationMetadata", candidate.citation_metadata),
        ):
            if item := msgspec.json.decode(metadata):
                events.append(ProviderItem(PROVIDER, {name: item}, choice.index))

    def _finished(self, choice: _Choice) -> Finished:
        reason = choice.reason or ""
        known = FINISH.get(reason)
        if reason in FAILED or (known is None and not choice.delivered):
            told = f": {choice.message}" if choice.message else ""
            raise ProviderFault(f"the model gave up: {reason}{told}", provider_code=reason, provider_request_id=self._request_id)
        if choice.calls and known in ("stop", None):
            known = "tool_calls"
        return Finished(known or "stop", choice.index, provider_reason=reason)

    def _refused(self, feedback: PromptFeedback) -> BackendError:
        message = feedback.block_reason_message or f"the provider refused the prompt: {feedback.block_reason}"
        return ContentRefused(message, provider_code=feedback.block_reason, provider_request_id=self._request_id)


def _part(raw: bytes, choice: _Choice, events: list[Event]) -> None:
    part = decode_part(raw)
    if part.thought and part.text is not None and part.call is None:
        choice.thoughts.append(part.text)
        choice.signature = part.signature or choice.signature
        choice.delivered = choice.delivered or bool(part.text)
        if part.text:
            events.append(ReasoningDelta(part.text, choice.index))
        return
    if part.call is not None:
        events += choice.close_thoughts()
        _call(part.call, part.signature, choice, events)
        return
    if part.text is None:
        if set(msgspec.json.decode(raw)) - {"thought"}:
            # Code that the provider ran, an image, a search: opaque here, sent back as it came.
            events += choice.close_thoughts()
            events.append(ProviderItem(PROVIDER, {"part": decode_json_object(raw)}, choice.index))
            choice.delivered = True
        return
    if part.text:
        events += choice.close_thoughts()
        events.append(TextDelta(part.text, choice.index))
        choice.delivered = True
    if part.signature is not None:
        events += choice.close_thoughts()
        events.append(ProviderItem(PROVIDER, signature_item(part.signature, None, on_text=bool(part.text)), choice.index))


def _call(call: FunctionCall, signature: str | None, choice: _Choice, events: list[Event]) -> None:
    call_id = call.id or f"call_{uuid.uuid4().hex[:24]}"
    events.append(ToolCallDelta(choice.calls, id=call_id, name=call.name, arguments=bytes(call.args).decode(), choice=choice.index))
    choice.calls += 1
    choice.delivered = True
    if signature is not None:
        events.append(ProviderItem(PROVIDER, signature_item(signature, call_id), choice.index))


def _with_logprobs(candidate: Candidate, events: list[Event], first: int) -> None:
    """Gemini gives a message's log probabilities beside its parts: they go with its first text."""
    assert candidate.logprobs_result is not None
    found = token_logprobs(candidate.logprobs_result)
    place = next((place for place in range(first, len(events)) if isinstance(events[place], TextDelta)), None)
    if place is None:
        if found:
            events.append(TextDelta("", candidate.index, found))
        return
    text = events[place]
    assert isinstance(text, TextDelta)
    events[place] = msgspec.structs.replace(text, logprobs=found)
