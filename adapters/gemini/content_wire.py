"""Gemini's answers as msgspec reads them: a whole GenerateContentResponse, which is also what each event of a stream holds."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from adapters.faults import WireError
from adapters.types import FinishReason, TokenLogprob, Usage

FINISH: dict[str, FinishReason] = {
    "STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length",
    "SAFETY": "content_filter", "RECITATION": "content_filter", "LANGUAGE": "content_filter", "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter", "SPII": "content_filter", "IMAGE_SAFETY": "content_filter", "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter", "IMAGE_OTHER": "content_filter", "MODEL_ARMOR": "content_filter", "ESCALATION": "content_filter",
}  # fmt: skip

FAILED = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE", "MALFORMED_RESPONSE", "NO_IMAGE"})
"""Reasons with which the model gave up: no answer, whatever came before."""

UNEXPLAINED = frozenset({"FINISH_REASON_UNSPECIFIED", "OTHER", "PUP_LIMITED_DISABLED"})
"""Reasons that say nothing: what was delivered is the answer, and nothing delivered is a fault."""


class FunctionCall(Struct, frozen=True):
    name: str = ""
    id: str | None = None
    args: msgspec.Raw = msgspec.Raw(b"{}")


class Part(Struct, frozen=True):
    text: str | None = None
    thought: bool = False
    signature: str | None = msgspec.field(name="thoughtSignature", default=None)
    call: FunctionCall | None = msgspec.field(name="functionCall", default=None)


class _Content(Struct, frozen=True):
    parts: list[msgspec.Raw] = []


class _LogprobToken(Struct, frozen=True, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class _TopTokens(Struct, frozen=True):
    candidates: list[_LogprobToken] = []


class LogprobsResult(Struct, frozen=True, rename="camel"):
    chosen_candidates: list[_LogprobToken] = []
    top_candidates: list[_TopTokens] = []


class Candidate(Struct, frozen=True, rename="camel"):
    index: int = 0
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: str | None = None
    logprobs_result: LogprobsResult | None = None
    grounding_metadata: msgspec.Raw = msgspec.Raw(b"null")
    url_context_metadata: msgspec.Raw = msgspec.Raw(b"null")
    citation_metadata: msgspec.Raw = msgspec.Raw(b"null")


class _ModalityTokens(Struct, frozen=True, rename="camel"):
    modality: str = ""
    token_count: int = 0


class WireUsage(Struct, frozen=True, rename="camel"):
    prompt_token_count: int = 0
    tool_use_prompt_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    cached_content_token_count: int = 0
    prompt_tokens_details: list[_ModalityTokens] | None = None
    candidates_tokens_details: list[_ModalityTokens] | None = None
    cache_tokens_details: list[_ModalityTokens] | None = None
    service_tier: str | None = None


class PromptFeedback(Struct, frozen=True, rename="camel"):
    block_reason: str | None = None
    block_reason_message: str | None = None


class Response(Struct, frozen=True, rename="camel"):
    candidates: list[Candidate] = []
    usage_metadata: WireUsage | None = None
    prompt_feedback: PromptFeedback | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: WireError | None = None


decode_response = msgspec.json.Decoder(Response).decode
decode_part = msgspec.json.Decoder(Part).decode


def usage_of(wire: WireUsage) -> Usage:
    """Gemini counts thoughts beside the answer and the results of its own tools beside the prompt; cached tokens are in the prompt's count."""
    return Usage(
        input_tokens=wire.prompt_token_count + wire.tool_use_prompt_token_count,
        output_tokens=wire.candidates_token_count + wire.thoughts_token_count,
        cache_read_input_tokens=wire.cached_content_token_count,
        reasoning_output_tokens=wire.thoughts_token_count,
        audio_input_tokens=_audio(wire.prompt_tokens_details),
        audio_output_tokens=_audio(wire.candidates_tokens_details),
        audio_cache_read_input_tokens=_audio(wire.cache_tokens_details),
    )


def _audio(details: Iterable[_ModalityTokens] | None) -> int:
    return sum(each.token_count for each in details or () if each.modality == "AUDIO")


def token_logprobs(wire: LogprobsResult) -> tuple[TokenLogprob, ...]:
    """The chosen tokens, each with the likeliest ones in its place where they were asked for."""
    tops = wire.top_candidates
    return tuple(
        TokenLogprob(
            token=chosen.token,
            logprob=chosen.log_probability,
            top=tuple((each.token, each.log_probability) for each in tops[place].candidates) if place < len(tops) else (),
        )
        for place, chosen in enumerate(wire.chosen_candidates)
    )
