"""OpenAI's chat completions (`kind: openai`), and any server that speaks them: only `base_url` differs."""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.backend import BackendContext
from adapters.errors import UnsupportedFeature
from adapters.openai.chat_messages import REFERENCES, RESULT_MEDIA_TOKENS, THOUGHTS, Server, held_by_the_provider, wire_messages
from adapters.openai.chat_stream import PROVIDER, ChatDecoder
from adapters.openai.formats import json_support
from adapters.openai.spec import OpenAISpec, connect
from adapters.remote import RemoteBackend, WireCall
from adapters.types import (
    AudioPart,
    Capabilities,
    FilePart,
    GenerateRequest,
    ImagePart,
    JsonObject,
    Message,
    ProviderPart,
    ProviderTool,
    Reasoning,
    TokenCount,
    Tool,
    ToolChoice,
)

CAPABILITIES = Capabilities(
    streaming=True,
    tools=True,
    parallel_tools=True,
    vision=True,
    files=True,
    audio=True,
    json_schema="native",
    reasoning=True,
    logprobs=True,
    multiple_choices=True,
    # The client runs it itself: like a function, but its input is any text.
    provider_tools=(f"{PROVIDER}/custom",),
)

NOT_SENT = frozenset({
    "service_tier", "web_search_options", "search_parameters", "modalities", "audio", "models", "route", "provider", "plugins",
    "best_of", "use_beam_search", "prediction", "store", "background",
})  # fmt: skip
"""Unknown fields that would change the price, choose another model or add tokens that nobody reserved; `pass_through` sends them all the same.

So it does with the content of `REFERENCES`, and to a server that is not OpenAI's with `file` and `input_audio` parts."""

WINDOW = 1_050_000
"""What content of unknown length counts where the table gives no `context_window`: the largest window of OpenAI's models."""

_NEVER_REASON = ("gpt-3", "gpt-4", "chatgpt-4", "ft:gpt-3", "ft:gpt-4")
"""OpenAI's models that refuse `reasoning_effort`."""

_EFFORT_OF_BUDGET = ((4_608, "low"), (16_384, "medium"))
"""A budget of thinking tokens in OpenAI's words, by the nearest of what Google's documentation of this dialect says they are: 1,024, 8,192, 24,576."""


class OpenAIBackend(RemoteBackend):
    provider = "openai"

    def __init__(self, name: str, spec: OpenAISpec, context: BackendContext) -> None:
        connection = connect(spec, context)
        self._official = connection.official
        self._word = connection.word(PROVIDER)
        self.opaque = (PROVIDER,) if self._official else (PROVIDER, self._word)
        reasons = not (self._official and (spec.model or "").startswith(_NEVER_REASON))
        # Images are read almost everywhere, files and speech hardly anywhere but at OpenAI itself.
        files, audio = (self._official or kind in spec.pass_through for kind in ("file", "input_audio"))
        schemas, objects = json_support(spec.model or "", official=self._official, configured=spec.json_schema)
        capabilities = msgspec.structs.replace(CAPABILITIES, reasoning=reasons, files=files, audio=audio, json_schema=schemas, json_object=objects)
        super().__init__(name, spec, capabilities, connection.sender, connection.missing)
        self._limit_field = spec.max_tokens_field or ("max_completion_tokens" if self._official else "max_tokens")
        self._limit = spec.max_output_tokens
        self._withheld = NOT_SENT - set(spec.pass_through)
        self._references = frozenset(REFERENCES) & frozenset(spec.pass_through)
        self._thoughts = THOUGHTS & frozenset(spec.pass_through)

    def decoder(self, request: GenerateRequest, request_id: str | None) -> ChatDecoder:
        return ChatDecoder(request.n, request_id, self._word)

    def encode(self, request: GenerateRequest) -> WireCall:
        server = self._server(request)
        # Unknown fields of the client's request go out as they came; they cannot replace what Headgate itself says.
        body: JsonObject = {
            **self._extra(request),
            "model": self.model,
            "messages": wire_messages(request.messages, server),
            **({"stream": True, "stream_options": {"include_usage": True}} if self.streaming else {"stream": False}),
        }
        settings = {
            self._limit_field: request.max_output_tokens or self._limit,
            "temperature": request.temperature,
            "top_p": request.top_p,
            # An extension of servers that speak this dialect; OpenAI itself refuses it.
            "top_k": None if self._official else request.top_k,
            "stop": list(request.stop) or None,
            "seed": request.seed,
            "n": request.n if request.n > 1 else None,
            "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
            "reasoning_effort": self._effort(request.reasoning),
            "verbosity": request.verbosity,
            "logprobs": None if request.logprobs is None else True,
            "top_logprobs": request.logprobs or None,
            "response_format": _response_format(request),
            # OpenAI takes metadata only for completions that it is told to store.
            "metadata": self._metadata(request) or None,
        }
        body.update((key, value) for key, value in settings.items() if value is not None)
        if request.tools:
            body["tools"] = [self._tool(tool, request) for tool in request.tools]
            if request.tool_choice != ToolChoice():
                body["tool_choice"] = _tool_choice(request)
        return WireCall("/chat/completions", msgspec.json.encode(body), ignored=self._ignored(request, server))

    def count(self, request: GenerateRequest, /) -> TokenCount:
        """What stands beside the messages' parts counts where it is sent, and content that the provider keeps as much as its model can take."""
        counted = super().count(request)
        size = _size_beside(request.messages) if _verbatim(request) else 0
        if extra := self._extra(request):
            size += len(msgspec.json.encode((extra, self._metadata(request))))
        for message in request.messages:
            if message.role == "tool" and any(isinstance(part, ImagePart | FilePart | AudioPart) for part in message.parts):
                size += 4 * RESULT_MEDIA_TOKENS + len((message.tool_call_id or "").encode())
            for part in message.parts:
                if isinstance(part, ProviderPart) and part.provider in self.opaque and held_by_the_provider(part.item):
                    size += self.capabilities.context_window or WINDOW
        return TokenCount(n=counted.n + size // 4, upper=counted.upper + size)

    def _server(self, request: GenerateRequest) -> Server:
        # The responses dialect marks what may be cached in the same words.
        cached = request.dialect in ("openai.chat", "openai.responses")
        return Server(
            official=self._official,
            verbatim=_verbatim(request),
            cached=cached,
            references=self._references,
            thoughts=self._thoughts,
            word=self._word,
        )

    def _extra(self, request: GenerateRequest) -> JsonObject:
        """The unknown fields that are sent: those of another dialect mean something else here, or nothing."""
        return {name: value for name, value in request.extra.items() if name not in self._withheld} if _verbatim(request) else {}

    def _metadata(self, request: GenerateRequest) -> dict[str, str]:
        return request.metadata if self._extra(request).get("store") else {}

    def _effort(self, reasoning: Reasoning | None) -> str | None:
        """How hard to think, in OpenAI's word. A budget of tokens becomes the nearest one; to leave it to the model, or not to think, has none."""
        if reasoning is None or not self.capabilities.reasoning:
            return None
        if reasoning.effort is not None or reasoning.budget_tokens is None or reasoning.enabled is False:
            return reasoning.effort
        return next((effort for most, effort in _EFFORT_OF_BUDGET if reasoning.budget_tokens <= most), "high")

    def _ignored(self, request: GenerateRequest, server: Server) -> tuple[str, ...]:
        verbatim = server.verbatim
        ignored = [name for name in request.extra if not verbatim or name in self._withheld]
        if verbatim:
            ignored += sorted({name for message in request.messages for name in message.extra.keys() & THOUGHTS} - self._thoughts)
        if request.top_k is not None and self._official:
            ignored.append("top_k")
        reasoning = request.reasoning
        if reasoning is not None and (self._effort(reasoning) is None or reasoning.summary is not None or reasoning.extra):
            ignored.append("reasoning_effort" if verbatim else "reasoning")
        if request.tool_choice.item is not None and not verbatim:
            ignored.append("tool_choice")
        if not server.cached and _marked_for_cache(request):
            ignored.append("cache_control")
        if any(message.is_error is not None for message in request.messages):
            ignored.append("is_error")
        return tuple(ignored)

    def _tool(self, tool: Tool | ProviderTool, request: GenerateRequest) -> JsonObject:
        if isinstance(tool, ProviderTool):
            if tool.provider != PROVIDER:
                raise UnsupportedFeature(f"chat completions do not have the tool {tool.qualified}", param="tools")
            return tool.item
        function: JsonObject = {"name": tool.name}
        if tool.parameters or not self._official:
            # OpenAI takes a function without parameters; templates of other servers may not.
            function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.strict is not None:
            function["strict"] = tool.strict
        if not tool.extra or not _verbatim(request):
            return {"type": "function", "function": function}
        return {**tool.extra, "type": "function", "function": {**tool.extra.get("function", {}), **function}}


def _verbatim(request: GenerateRequest) -> bool:
    """Whether unknown fields of the request are in this dialect."""
    return request.dialect == PROVIDER


def _marked_for_cache(request: GenerateRequest) -> bool:
    marked = (part for message in request.messages for part in message.parts if getattr(part, "cache", None) is not None)
    return any(True for _ in marked) or any(tool.cache is not None for tool in request.functions)


def _size_beside(messages: tuple[Message, ...]) -> int:
    """Bytes of what stands beside the messages' own fields and parts."""
    beside: list[JsonObject] = [message.extra for message in messages if message.extra]
    for message in messages:
        for part in message.parts:
            beside += [extra for extra in (getattr(part, "extra", None), getattr(part, "cache", None)) if extra]
    return len(msgspec.json.encode(beside)) if beside else 0


def _tool_choice(request: GenerateRequest) -> Any:
    choice = request.tool_choice
    if choice.item is not None and _verbatim(request):
        return choice.item
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "function" else choice.mode


def _response_format(request: GenerateRequest) -> JsonObject | None:
    wanted = request.response_format
    match wanted.kind:
        case "text":
            return None
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            schema: JsonObject = {"name": wanted.name or "answer", "schema": wanted.schema or {}}
            if wanted.description is not None:
                schema["description"] = wanted.description
            if wanted.strict is not None:
                schema["strict"] = wanted.strict
            return {"type": "json_schema", "json_schema": schema}
