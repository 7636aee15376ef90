"""Anthropic's messages (`kind: anthropic`)."""

from __future__ import annotations

import msgspec

from adapters.anthropic.messages_stream import PROVIDER, MessageDecoder
from adapters.backend import BackendContext, RemoteSpec, register
from adapters.remote import RemoteBackend, WireCall, credentials
from adapters.remote_content import call_arguments, data_url, ignored_knobs
from adapters.sender import Endpoint, RawResponse
from adapters.types import Capabilities, GenerateRequest, ImagePart, JsonObject, Message, ProviderPart, TextPart, TokenCount, Tool, ToolCallPart

OFFICIAL_URL = "https://api.anthropic.com"
KEY_ENV = "ANTHROPIC_API_KEY"
DEFAULT_MAX_TOKENS = 4096
"""The API demands a limit; this one stands where neither the request nor the table gives one."""

TOOL_PROMPT_TOKENS = 700
"""A request with tools is charged for a system prompt of the provider's own: 264 to 530 tokens by model, as its documentation lists them."""

CAPABILITIES = Capabilities(streaming=True, tools=True, parallel_tools=True, vision=True)


class AnthropicSpec(RemoteSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """No keys of its own."""


@register("anthropic", AnthropicSpec, remote=True, provider=PROVIDER)
class AnthropicBackend(RemoteBackend):
    provider = PROVIDER

    def __init__(self, name: str, spec: AnthropicSpec, context: BackendContext) -> None:
        url, key, missing = credentials(spec, context.environ, OFFICIAL_URL, KEY_ENV)
        sender = None
        if not missing:
            from adapters.sender.sdk import anthropic_sender

            sender = anthropic_sender(Endpoint(url, key, spec.connect_s))
        super().__init__(name, spec, CAPABILITIES, sender, missing)
        self._limit = spec.max_output_tokens or DEFAULT_MAX_TOKENS

    def request_id(self, response: RawResponse) -> str | None:
        return response.headers.get("request-id")

    def count(self, request: GenerateRequest, /) -> TokenCount:
        counted = super().count(request)
        if not request.tools:
            return counted
        return TokenCount(n=counted.n + TOOL_PROMPT_TOKENS // 2, upper=counted.upper + TOOL_PROMPT_TOKENS)

    def decoder(self, request: GenerateRequest, request_id: str | None) -> MessageDecoder:
        return MessageDecoder(request_id)

    def encode(self, request: GenerateRequest) -> WireCall:
        system = [message.text for message in request.messages if message.role in ("system", "developer")]
        body: JsonObject = {
            "model": self.model,
            "max_tokens": request.max_output_tokens or self._limit,
            "messages": _turns(request.messages),
            "stream": True,
        }
        settings = {
            "system": "\n\n".join(text for text in system if text) or None,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop_sequences": list(request.stop) or None,
        }
        body.update((key, value) for key, value in settings.items() if value is not None)
        if request.tools:
            body["tools"] = [_tool(tool) for tool in request.functions]
            body["tool_choice"] = _tool_choice(request)
        return WireCall("/v1/messages", msgspec.json.encode(body), ignored=ignored_knobs(request, "seed", "reasoning"))


def _turns(messages: tuple[Message, ...]) -> list[JsonObject]:
    """User and assistant turns. Neighbours of one role become one turn: all results of parallel tool calls must stand in the same one."""
    turns: list[JsonObject] = []
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _tool_result(message) if message.role == "tool" else _blocks(message)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _tool_result(message: Message) -> list[JsonObject]:
    return [{"type": "tool_result", "tool_use_id": message.tool_call_id or "", "content": _blocks(message)}]


def _blocks(message: Message) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    for part in message.parts:
        match part:
            case TextPart():
                if part.text:  # the API refuses an empty text block
                    blocks.append({"type": "text", "text": part.text})
            case ImagePart():
                blocks.append({"type": "image", "source": _source(part)})
            case ToolCallPart():
                blocks.append({"type": "tool_use", "id": part.id, "name": part.name, "input": call_arguments(part)})
            case ProviderPart():
                if part.provider == PROVIDER:
                    blocks.append(part.item)
    return blocks


def _source(part: ImagePart) -> JsonObject:
    inline = data_url(part)
    if inline is None:
        return {"type": "url", "url": part.url}
    return {"type": "base64", "media_type": inline[0], "data": inline[1]}


def _tool(tool: Tool) -> JsonObject:
    wire: JsonObject = {"name": tool.name, "input_schema": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description is not None:
        wire["description"] = tool.description
    if tool.strict is not None:
        wire["strict"] = tool.strict
    return wire


def _tool_choice(request: GenerateRequest) -> JsonObject:
    choice: JsonObject
    match request.tool_choice.mode:
        case "auto":
            choice = {"type": "auto"}
        case "required":
            choice = {"type": "any"}
        case "none":
            return {"type": "none"}
        case "function":
            choice = {"type": "tool", "name": request.tool_choice.name}
    if request.parallel_tool_calls is False:
        choice["disable_parallel_tool_use"] = True
    return choice
