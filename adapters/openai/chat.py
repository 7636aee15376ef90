"""OpenAI's chat completions (`kind: openai`), and any server that speaks them: only `base_url` differs."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from adapters.backend import BackendContext, RemoteSpec, register
from adapters.openai.chat_stream import ChatDecoder
from adapters.remote import RemoteBackend, WireCall, credentials
from adapters.sender import Endpoint
from adapters.types import (
    AudioPart,
    Capabilities,
    FilePart,
    GenerateRequest,
    ImagePart,
    JsonObject,
    Message,
    ProviderPart,
    RefusalPart,
    TextPart,
    TokenCount,
    Tool,
    ToolCallPart,
    ToolChoice,
)

OFFICIAL_URL = "https://api.openai.com/v1"
KEY_ENV = "OPENAI_API_KEY"
CAPABILITIES = Capabilities(
    streaming=True, tools=True, parallel_tools=True, vision=True, json_schema="native", reasoning=True, logprobs=True, multiple_choices=True
)


NOT_SENT = frozenset({
    "service_tier", "web_search_options", "search_parameters", "modalities", "audio", "functions", "function_call", "models", "route", "provider",
    "plugins", "best_of", "use_beam_search", "prediction", "store", "background",
})  # fmt: skip
"""Unknown fields that would change the price, choose another model or add tokens that nobody reserved; `pass_through` sends them all the same."""


class OpenAISpec(RemoteSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`max_tokens_field` is what the server calls the output limit: `max_completion_tokens` at OpenAI itself, `max_tokens` elsewhere.

    `pass_through` names fields of `NOT_SENT` that this server may get: what they cost must be in the backend's price.
    """

    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] | None = None
    pass_through: tuple[str, ...] = ()


@register("openai", OpenAISpec, remote=True, provider="openai")
class OpenAIBackend(RemoteBackend):
    provider = "openai"

    def __init__(self, name: str, spec: OpenAISpec, context: BackendContext) -> None:
        url, key, missing = credentials(spec, context.environ, OFFICIAL_URL, KEY_ENV)
        sender = None
        if not missing:
            from adapters.sender.sdk import openai_sender

            sender = openai_sender(Endpoint(url, key, spec.connect_s))
        super().__init__(name, spec, CAPABILITIES, sender, missing)
        self._official = urlsplit(url).hostname == urlsplit(OFFICIAL_URL).hostname
        self._limit_field = spec.max_tokens_field or ("max_completion_tokens" if self._official else "max_tokens")
        self._limit = spec.max_output_tokens
        self._withheld = NOT_SENT - set(spec.pass_through)

    def decoder(self, request: GenerateRequest, request_id: str | None) -> ChatDecoder:
        return ChatDecoder(request.n, request_id)

    def encode(self, request: GenerateRequest) -> WireCall:
        # Unknown fields of the client's request go out as they came; they cannot replace what Headgate itself says.
        body: JsonObject = {
            **self._extra(request),
            "model": self.model,
            "messages": [self._message(message) for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        settings = {
            self._limit_field: request.max_output_tokens or self._limit,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": list(request.stop) or None,
            "seed": request.seed,
            "n": request.n if request.n > 1 else None,
            "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
            "reasoning_effort": None if request.reasoning is None else request.reasoning.effort,
            "logprobs": None if request.logprobs is None else True,
            "top_logprobs": request.logprobs or None,
            "response_format": _response_format(request),
            # OpenAI takes metadata only for completions that it is told to store.
            "metadata": self._metadata(request) or None,
        }
        body.update((key, value) for key, value in settings.items() if value is not None)
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.functions]
            if request.tool_choice != ToolChoice():
                body["tool_choice"] = _tool_choice(request.tool_choice)
        return WireCall("/chat/completions", msgspec.json.encode(body), ignored=tuple(name for name in request.extra if name in self._withheld))

    def count(self, request: GenerateRequest, /) -> TokenCount:
        counted = super().count(request)
        extra = self._extra(request)
        if not extra:
            return counted
        size = len(msgspec.json.encode((extra, self._metadata(request))))
        return TokenCount(n=counted.n + size // 4, upper=counted.upper + size)

    def _extra(self, request: GenerateRequest) -> JsonObject:
        """The unknown fields that are sent."""
        return {name: value for name, value in request.extra.items() if name not in self._withheld}

    def _metadata(self, request: GenerateRequest) -> dict[str, str]:
        return request.metadata if request.extra.get("store") and "store" not in self._withheld else {}

    def _message(self, message: Message) -> JsonObject:
        role = message.role
        if role == "developer" and not self._official:
            # A role of OpenAI's own; other servers' chat templates refuse it.
            role = "system"
        wire: JsonObject = {"role": role, "content": _content(message)}
        if message.name is not None and role != "tool":
            wire["name"] = message.name
        if message.tool_call_id is not None:
            wire["tool_call_id"] = message.tool_call_id
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        if calls:
            wire["tool_calls"] = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
            wire["content"] = wire["content"] or None
        return wire


def _content(message: Message) -> str | list[JsonObject]:
    """A plain string for a single text: every server takes that."""
    parts: list[JsonObject] = []
    for part in message.parts:
        match part:
            case TextPart():
                parts.append({"type": "text", "text": part.text})
            case ImagePart():
                image = {"url": part.url} if part.detail is None else {"url": part.url, "detail": part.detail}
                parts.append({"type": "image_url", "image_url": image})
            case ToolCallPart() | ProviderPart() | RefusalPart() | FilePart() | AudioPart():
                pass
    if len(parts) == 1 and "text" in parts[0]:
        return str(parts[0]["text"])
    return parts or ""


def _tool(tool: Tool) -> JsonObject:
    function: JsonObject = {"name": tool.name, "parameters": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> Any:
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
            if wanted.strict is not None:
                schema["strict"] = wanted.strict
            return {"type": "json_schema", "json_schema": schema}
