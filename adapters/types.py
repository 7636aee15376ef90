"""The core values: everything that stands between the wire and a provider.

All values are frozen `msgspec.Struct`s (they also travel over the compute socket as MessagePack), except `AttemptRecord`, which the
caller makes and the backend fills as it goes. Unknown fields of a client's request are kept in `GenerateRequest.extra`, never dropped.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "content_filter", "tool_calls"]
UsageSource: TypeAlias = Literal["provider", "counted", "estimated"]
JsonObject: TypeAlias = dict[str, Any]
"""A JSON object that Headgate passes on without reading it (a tool's schema, an unknown field)."""


class TextPart(Struct, frozen=True, tag="text"):
    """Text. `cache` is a mark that the prompt up to here may be cached, in the client's dialect; `extra` what else stood on the part there."""

    text: str
    cache: JsonObject | None = None
    extra: JsonObject = {}


class RefusalPart(Struct, frozen=True, tag="refusal"):
    """An earlier answer's refusal."""

    text: str


class ImagePart(Struct, frozen=True, tag="image"):
    """An image by URL (`https:` or `data:`), as the client gave it."""

    url: str
    detail: str | None = None
    cache: JsonObject | None = None
    extra: JsonObject = {}


class FilePart(Struct, frozen=True, tag="file"):
    """A document given to the model whole (a PDF): by URL (`https:` or `data:`)."""

    url: str
    filename: str | None = None
    cache: JsonObject | None = None
    extra: JsonObject = {}


class AudioPart(Struct, frozen=True, tag="audio"):
    """Spoken input: base64 text and its format (`wav`, `mp3`)."""

    data: str
    format: str
    cache: JsonObject | None = None
    extra: JsonObject = {}


class ToolCallPart(Struct, frozen=True, tag="tool_call"):
    """A call the assistant made; `arguments` is JSON text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str
    cache: JsonObject | None = None
    extra: JsonObject = {}


class ProviderPart(Struct, frozen=True, tag="provider"):
    """An opaque part (a signature, a reasoning item, a file by id) that may go back only to the provider that made it.

    `required`: the message means nothing without it, so another provider must refuse the request; otherwise others leave it out.
    """

    provider: str
    item: JsonObject
    required: bool = False


Part: TypeAlias = TextPart | RefusalPart | ImagePart | FilePart | AudioPart | ToolCallPart | ProviderPart


class Message(Struct, frozen=True):
    """One message. A `tool` message answers the call `tool_call_id`; `is_error` says that the tool failed.

    `extra` holds what else stood on the message in the client's dialect (an item's id and status, a cache mark on a tool's result).
    """

    role: Role
    parts: tuple[Part, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    is_error: bool | None = None
    extra: JsonObject = {}

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


class Tool(Struct, frozen=True, tag="function"):
    """A function the client runs. `extra` is what else stood on it in the client's dialect."""

    name: str
    description: str | None = None
    parameters: JsonObject = {}
    strict: bool | None = None
    cache: JsonObject | None = None
    extra: JsonObject = {}


class ProviderTool(Struct, frozen=True, tag="provider"):
    """A tool of one provider's own (a web search, a code sandbox), in its words. Others cannot have it: `UnsupportedFeature`."""

    provider: str
    item: JsonObject

    @property
    def qualified(self) -> str:
        """`provider/type`: what `Capabilities.provider_tools` and a backend's `provider_tools` call it."""
        return f"{self.provider}/{self.item.get('type', '')}"


class ToolChoice(Struct, frozen=True):
    """`item` is a choice only one dialect can say (a list of allowed tools, a tool of the provider's own), in its words, with `mode` `auto`."""

    mode: Literal["auto", "none", "required", "function"] = "auto"
    name: str | None = None
    item: JsonObject | None = None


class ResponseFormat(Struct, frozen=True):
    kind: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: JsonObject | None = None
    strict: bool | None = None
    description: str | None = None


class Reasoning(Struct, frozen=True, kw_only=True):
    """How much the model should think. What is None was not said.

    `effort` is OpenAI's word (`none`, `minimal`, `low`, `medium`, `high`, `xhigh`, ...), `budget_tokens` a bound as Anthropic and Gemini have it,
    `adaptive` that the model decides, `enabled` whether to think at all, `summary` how the thoughts are told. `extra`: other fields in the client's dialect.
    """

    effort: str | None = None
    budget_tokens: int | None = None
    adaptive: bool | None = None
    enabled: bool | None = None
    summary: str | None = None
    extra: JsonObject = {}


Dialect: TypeAlias = Literal["openai.chat", "openai.responses", "anthropic.messages"]
"""The dialect a request came in: whose words `extra`, `cache` and a format's or a choice's own items are."""


class Highlight(Struct, frozen=True):
    """A sentence of a passage and how well it fits the question. Offsets are in the document's canonical text; score is a cosine in [-1, 1]."""

    start: int
    end: int
    score: float


class Passage(Struct, frozen=True):
    """A piece of a document given to a model as context.

    `start` and `end` are code-point offsets in the document's canonical text, and `text` is exactly that slice. `page` counts from 1, or is
    None where the format has no pages. `pages` lists `(offset, page)` marks inside the passage when it crosses a page break.
    `similarity` is the cosine of question and passage; `score` the fused rank score.
    """

    chunk_id: str
    file_id: str
    filename: str
    text: str
    start: int
    end: int
    page: int | None = None
    pages: tuple[tuple[int, int], ...] = ()
    score: float = 0.0
    similarity: float = 0.0
    highlights: tuple[Highlight, ...] = ()

    def page_at(self, offset: int) -> int | None:
        """The page on which the canonical offset lies."""
        page = self.page
        for mark, number in self.pages:
            if mark > offset:
                break
            page = number
        return page


class Citation(Struct, frozen=True):
    """A claim of the answer and the words of the document that carry it.

    Guarantee: `quote` equals the canonical text of `file_id` from `start` to `end`. `answer_start` and `answer_end` are code-point offsets
    in the answer's text as delivered.
    """

    file_id: str
    filename: str
    page: int | None
    start: int
    end: int
    quote: str
    answer_start: int
    answer_end: int
    redacted: bool = False


class GenerateRequest(Struct, frozen=True, kw_only=True):
    """One request for an answer, in no provider's dialect. `deadline` is in seconds of `time.time()`; `partition` is an opaque tenant salt.

    `dialect` says in whose words the unknown fields (`extra`, here and on the parts) are: an adapter of that dialect sends them on, another
    names them as ignored. `grounded` says that documents were searched for this request; `context` holds what was found, which may be nothing.
    `whole` says that the answer is gathered before anybody sees it: a backend may then join deltas that came together into one.
    """

    messages: tuple[Message, ...]
    dialect: Dialect = "openai.chat"
    context: tuple[Passage, ...] = ()
    grounded: bool = False
    model: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[Tool | ProviderTool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat = ResponseFormat()
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    logprobs: int | None = None
    n: int = 1
    metadata: dict[str, str] = {}
    deadline: float | None = None
    priority: int = 0
    partition: str = ""
    adapter: str | None = None
    idempotency_key: str | None = None
    whole: bool = False
    extra: JsonObject = {}

    @property
    def functions(self) -> tuple[Tool, ...]:
        """The tools that the client runs."""
        return tuple(tool for tool in self.tools if isinstance(tool, Tool))


class Usage(Struct, frozen=True):
    """Tokens, cumulative. `input_tokens` includes those read from and written to a cache, and `output_tokens` those spent on reasoning.

    Audio tokens are among the input's, the output's and (`audio_cache_read_input_tokens`) those read from a cache.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    source: UsageSource = "provider"
    audio_cache_read_input_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class TokenLogprob(Struct, frozen=True):
    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class ResponseStarted(Struct, frozen=True, tag="started"):
    """The provider answered: its id for the response and the exact model that serves it. Never the commit."""

    provider_request_id: str | None = None
    model: str | None = None


class TextDelta(Struct, frozen=True, tag="text"):
    text: str
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class ReasoningDelta(Struct, frozen=True, tag="reasoning"):
    text: str
    choice: int = 0


class RefusalDelta(Struct, frozen=True, tag="refusal"):
    text: str
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class ToolCallDelta(Struct, frozen=True, tag="tool_call"):
    """A piece of a tool call. `id` and `name` come with the first piece of call `index`; `arguments` pieces join to the JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    choice: int = 0


class ProviderItem(Struct, frozen=True, tag="provider_item"):
    """An opaque part of the answer: to be sent back to its provider in the next turn.

    A reasoning item repeats, whole, what `ReasoningDelta`s told before it. `shown` is what moderation lets a client see of it, None where that
    is all of it.
    """

    provider: str
    item: JsonObject
    choice: int = 0
    shown: JsonObject | None = None


class CitationAdded(Struct, frozen=True, tag="citation"):
    citation: Citation
    choice: int = 0


class UsageReported(Struct, frozen=True, tag="usage"):
    """Usage so far: cumulative, may repeat, the last one wins."""

    usage: Usage


class Finished(Struct, frozen=True, tag="finished"):
    reason: FinishReason
    choice: int = 0
    provider_reason: str | None = None
    stop_sequence: str | None = None


Delta: TypeAlias = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta
Event: TypeAlias = ResponseStarted | TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | ProviderItem | CitationAdded | UsageReported | Finished


JsonSupport: TypeAlias = Literal["none", "prompted", "native", "guaranteed"]
"""How a backend answers in JSON: not at all; when the prompt asks for it; when the provider is told the schema; so that it always fits.

The guarantee is for a schema with `strict: true` and for JSON mode: only such an answer is streamed while it is written.
"""


class Capabilities(Struct, frozen=True):
    """What a backend can do. The defaults say *unsupported* and *unknown*.

    `json_object` is how it answers in JSON mode, without a schema; None: as with one. `provider_tools` names the providers' own tools that it
    takes, as `ProviderTool.qualified` says them; `*` and `?` as in file names. `opaque` names the providers whose opaque parts
    (`ProviderPart.provider`) it understands.
    """

    streaming: bool = False
    tools: bool = False
    parallel_tools: bool = False
    vision: bool = False
    files: bool = False
    audio: bool = False
    json_schema: JsonSupport = "none"
    json_object: JsonSupport | None = None
    reasoning: bool = False
    logprobs: bool = False
    multiple_choices: bool = False
    needs_context: bool = False
    provider_tools: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    context_window: int | None = None
    max_output: int | None = None


class TokenCount(Struct, frozen=True):
    """`n` is the best estimate, `upper` a number the provider's own count never exceeds."""

    n: int
    upper: int


class BackendHealth(Struct, frozen=True):
    ready: bool
    reason: str = ""
    queue_depth: int = 0
    estimated_wait_s: float = 0.0


class RateLimit(Struct, frozen=True):
    """What a provider said is left of its rate limits. Resets are in seconds from then."""

    requests_limit: int | None = None
    requests_remaining: int | None = None
    requests_reset_s: float | None = None
    tokens_limit: int | None = None
    tokens_remaining: int | None = None
    tokens_reset_s: float | None = None


class AttemptRecord(Struct):
    """One attempt at one backend: made by the caller, filled by the backend while it runs, readable after the stream was closed or broke."""

    backend: str
    model: str | None = None
    provider_request_id: str | None = None
    reference: str = ""
    """What our side calls the attempt towards a provider that keeps such a name: the request's id, the purpose and the number, `ID/answer/1`."""

    usage: Usage | None = None
    delivered_characters: int = 0
    ignored: tuple[str, ...] = ()
    service_tier: str | None = None
    rate_limit: RateLimit | None = None
    events: int = 0
    called: bool = False
    started_at: float = 0.0
    first_event_at: float | None = None
    ended_at: float | None = None
    outcome: Literal["open", "ok", "error", "cancelled"] = "open"
    error: str | None = None


def decode_json_object(text: str | bytes) -> JsonObject:
    """Parse JSON text that must be an object. Raises `msgspec.DecodeError` otherwise."""
    return msgspec.json.decode(text, type=dict[str, Any])
