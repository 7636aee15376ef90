"""Gemini's streamed responses, as msgspec reads them, and the decoder that turns them into events.

There is no end marker: a stream is complete when a candidate gave its finish reason.
"""

from __future__ import annotations

import uuid

import msgspec
from msgspec import Struct

from adapters.errors import ContentRefused, ProviderFault, StreamBroken
from adapters.faults import WireError, to_error, wire_failure
from adapters.sse import SseEvent
from adapters.types import (
    Event,
    Finished,
    FinishReason,
    JsonObject,
    ProviderItem,
    ReasoningDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
    decode_json_object,
)

PROVIDER = "gcp.gemini"

FINISH: dict[str, FinishReason] = {
    "STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length",
    "SAFETY": "content_filter", "RECITATION": "content_filter", "LANGUAGE": "content_filter", "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter", "SPII": "content_filter", "IMAGE_SAFETY": "content_filter", "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter", "IMAGE_OTHER": "content_filter", "MODEL_ARMOR": "content_filter", "ESCALATION": "content_filter",
}  # fmt: skip

FAILED = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE", "MALFORMED_RESPONSE", "NO_IMAGE"})
"""Reasons with which the model gave up: no answer, whatever came before."""


class _FunctionCall(Struct, frozen=True):
    name: str = ""
    id: str | None = None
    args: msgspec.Raw = msgspec.Raw(b"{}")


class _Part(Struct, frozen=True):
    text: str | None = None
    thought: bool = False
    signature: str | None = msgspec.field(name="thoughtSignature", default=None)
    call: _FunctionCall | None = msgspec.field(name="functionCall", default=None)


class _Content(Struct, frozen=True):
    parts: list[msgspec.Raw] = []


class _Candidate(Struct, frozen=True, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None


class _Usage(Struct, frozen=True, rename="camel", gc=False):
    prompt_token_count: int = 0
    tool_use_prompt_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    cached_content_token_count: int = 0


class _PromptFeedback(Struct, frozen=True, rename="camel"):
    block_reason: str | None = None
    block_reason_message: str | None = None


class Response(Struct, frozen=True, rename="camel"):
    candidates: list[_Candidate] = []
    usage_metadata: _Usage | None = None
    prompt_feedback: _PromptFeedback | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: WireError | None = None


_decode = msgspec.json.Decoder(Response).decode
_decode_part = msgspec.json.Decoder(_Part).decode


def usage_of(wire: _Usage) -> Usage:
    """Gemini counts thoughts beside the answer and the results of its own tools beside the prompt; cached tokens are in the prompt's count."""
    return Usage(
        input_tokens=wire.prompt_token_count + wire.tool_use_prompt_token_count,
        output_tokens=wire.candidates_token_count + wire.thoughts_token_count,
        cache_read_input_tokens=wire.cached_content_token_count,
        reasoning_output_tokens=wire.thoughts_token_count,
    )


def signature_item(signature: str, call_id: str | None) -> JsonObject:
    """A signature that belongs to a tool call, or (without `call_id`) to the text before it."""
    return {"thoughtSignature": signature, "toolCallId": call_id}


class ContentDecoder:
    """Decodes one streamGenerateContent stream of one candidate."""

    def __init__(self, request_id: str | None = None) -> None:
        self.done = False
        self.usage_final = False
        self._request_id = request_id
        self._started = False
        self._delivered = False
        self._calls = 0
        self._reason: str | None = None

    def feed(self, event: SseEvent) -> list[Event]:
        said = _decode(event.data)
        if said.error is not None:
            raise to_error(wire_failure(said.error, request_id=self._request_id))
        events: list[Event] = []
        if not self._started:
            self._started = True
            self._request_id = self._request_id or said.response_id
            events.append(ResponseStarted(provider_request_id=self._request_id, model=said.model_version))
        for candidate in said.candidates[:1]:
            if candidate.content is not None:
                for raw in candidate.content.parts:
                    self._part(raw, events)
            if candidate.finish_reason:
                self._reason = candidate.finish_reason
        if said.usage_metadata is not None:
            self.usage_final = self._reason is not None
            events.append(UsageReported(usage_of(said.usage_metadata)))
        if said.prompt_feedback is not None and said.prompt_feedback.block_reason:
            self._refuse(said.prompt_feedback)
        return events

    def finish(self) -> list[Event]:
        reason = self._reason
        if reason is None:
            raise StreamBroken("the stream ended before its answer was finished", provider_request_id=self._request_id)
        known = FINISH.get(reason)
        if reason in FAILED or (known is None and not self._delivered):
            raise ProviderFault(f"the model gave up: {reason}", provider_code=reason, provider_request_id=self._request_id)
        if known == "stop" and self._calls:
            known = "tool_calls"
        return [Finished(known or "stop", provider_reason=reason)]

    def _refuse(self, feedback: _PromptFeedback) -> None:
        message = feedback.block_reason_message or f"the provider refused the prompt: {feedback.block_reason}"
        raise ContentRefused(message, provider_code=feedback.block_reason, provider_request_id=self._request_id)

    def _part(self, raw: msgspec.Raw, events: list[Event]) -> None:
        part = _decode_part(raw)
        call_id = None
        if part.call is not None:
            call_id = part.call.id or f"call_{uuid.uuid4().hex[:24]}"
            arguments = bytes(part.call.args).decode()
            events.append(ToolCallDelta(self._calls, id=call_id, name=part.call.name, arguments=arguments))
            self._calls += 1
            self._delivered = True
        elif part.text is not None:
            if part.text:
                events.append(ReasoningDelta(part.text) if part.thought else TextDelta(part.text))
                self._delivered = True
        else:
            # Code that the provider ran, an image, a search: opaque here, sent back as it came.
            events.append(ProviderItem(PROVIDER, {"part": decode_json_object(bytes(raw))}))
            return
        if part.signature is not None:
            events.append(ProviderItem(PROVIDER, signature_item(part.signature, call_id)))
