"""OpenAI's chat completions and their chunks, as msgspec reads them. Fields that Headgate does not use are skipped without being built.

Servers that speak this dialect differ: reasoning is `reasoning_content` or `reasoning`, content may come in parts, usage in every chunk.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from adapters.faults import WireError
from adapters.types import JsonObject, TokenLogprob, Usage


class Function(Struct, frozen=True, gc=False):
    name: str | None = None
    arguments: str | None = None


class Custom(Struct, frozen=True, gc=False):
    """A call of a custom tool: its input is any text."""

    name: str | None = None
    input: str | None = None


class ToolCall(Struct, frozen=True):
    """`extra_content` is Gemini's, when it speaks this dialect: the call's thought signature."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    custom: Custom | None = None
    extra_content: JsonObject | None = None

    @property
    def name(self) -> str:
        return (self.custom.name if self.custom else self.function.name if self.function else None) or ""

    @property
    def arguments(self) -> str:
        return (self.custom.input if self.custom else self.function.arguments if self.function else None) or ""


class TopLogprob(Struct, frozen=True, gc=False):
    token: str
    logprob: float


class Logprob(Struct, frozen=True):
    token: str
    logprob: float
    top_logprobs: list[TopLogprob] | None = None


class Logprobs(Struct, frozen=True):
    content: list[Logprob] | None = None
    refusal: list[Logprob] | None = None


class ContentPart(Struct, frozen=True):
    """Mistral's reasoning models send content in parts: text, or thinking made of texts."""

    type: str
    text: str | None = None
    thinking: list[ContentPart] | None = None


class Audio(Struct, frozen=True, omit_defaults=True):
    """Spoken output. In a stream `data` and `transcript` come in pieces."""

    id: str | None = None
    data: str | None = None
    transcript: str | None = None
    expires_at: int | None = None


class Message(Struct, frozen=True):
    """A whole message, or what a chunk adds to one."""

    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    annotations: list[JsonObject] | None = None
    audio: Audio | None = None
    extra_content: JsonObject | None = None


class Choice(Struct, frozen=True):
    """`delta` in a stream, `message` in a whole answer."""

    index: int = 0
    delta: Message | None = None
    message: Message | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class PromptDetails(Struct, frozen=True, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None


class CompletionDetails(Struct, frozen=True, gc=False):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class WireUsage(Struct, frozen=True):
    """`prompt_cache_hit_tokens` is DeepSeek's name for cached tokens."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None


class Completion(Struct, frozen=True):
    """A whole completion or one chunk. `moderation` is the provider's own judgement, where the request asked for it."""

    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    error: WireError | str | None = None
    service_tier: str | None = None
    moderation: JsonObject | None = None


decode_completion = msgspec.json.Decoder(Completion).decode


def usage_of(wire: WireUsage) -> Usage:
    """OpenAI's counts already include cached tokens in the input and reasoning in the output.

    Gemini and Grok, when they speak this dialect, count thoughts only in the total. They are billed as output, so they are output here.
    """
    prompt = wire.prompt_tokens_details or PromptDetails()
    completion = wire.completion_tokens_details or CompletionDetails()
    told = wire.completion_tokens or 0
    thought = max(0, (wire.total_tokens or 0) - wire.prompt_tokens - told)
    return Usage(
        input_tokens=wire.prompt_tokens,
        output_tokens=told + thought,
        cache_read_input_tokens=prompt.cached_tokens or wire.prompt_cache_hit_tokens or 0,
        cache_creation_input_tokens=prompt.cache_write_tokens or 0,
        reasoning_output_tokens=completion.reasoning_tokens or thought,
        audio_input_tokens=prompt.audio_tokens or 0,
        audio_output_tokens=completion.audio_tokens or 0,
    )


def token_logprobs(items: list[Logprob] | None) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(item.token, item.logprob, tuple((top.token, top.logprob) for top in item.top_logprobs or ())) for item in items or ())
