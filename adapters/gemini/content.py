"""Google's Gemini (`kind: gemini`), through streamGenerateContent.

The SDK has no public raw stream, so the bytes go out over aiohttp. Its error classes are not imported either: they hold the same four
fields that `adapters.faults` reads, and importing them would stop the event loop for a third of a second at a provider's first error.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from adapters.backend import BackendContext, RemoteSpec, register
from adapters.errors import UnsupportedFeature
from adapters.gemini.content_stream import PROVIDER, ContentDecoder
from adapters.remote import RemoteBackend, WireCall, credentials
from adapters.remote_content import call_arguments, data_url, ignored_knobs
from adapters.sender import Endpoint
from adapters.types import Capabilities, GenerateRequest, ImagePart, JsonObject, Message, ProviderPart, TextPart, Tool, ToolCallPart, decode_json_object

OFFICIAL_URL = "https://generativelanguage.googleapis.com"
KEY_ENV = "GEMINI_API_KEY"
CAPABILITIES = Capabilities(streaming=True, tools=True, parallel_tools=True, vision=True, json_schema="native")

NO_SIGNATURE = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
"""Google's stand-in ("skip_thought_signature_validator") for tool calls that another model made, or whose signature the client lost."""


class GeminiSpec(RemoteSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`api_version` is the first part of the path."""

    api_version: str = "v1beta"


@register("gemini", GeminiSpec, remote=True, provider=PROVIDER)
class GeminiBackend(RemoteBackend):
    provider = PROVIDER

    def __init__(self, name: str, spec: GeminiSpec, context: BackendContext) -> None:
        url, key, missing = credentials(spec, context.environ, OFFICIAL_URL, KEY_ENV)
        sender = None
        if not missing:
            from adapters.sender.direct import DirectSender

            sender = DirectSender(Endpoint(url, key, spec.connect_s))
        super().__init__(name, spec, CAPABILITIES, sender, missing)
        self._key = key
        self._limit = spec.max_output_tokens
        self._path = f"/{quote(spec.api_version)}/models/{quote(self.model.removeprefix('models/'))}:streamGenerateContent?alt=sse"
        # Gemini 1 and 2 do not ask for signatures; from 3 on a call without one is refused.
        self._signs = self.model.startswith("gemini-") and not self.model.startswith(("gemini-1", "gemini-2"))

    def decoder(self, request: GenerateRequest, request_id: str | None) -> ContentDecoder:
        return ContentDecoder(request_id)

    def encode(self, request: GenerateRequest) -> WireCall:
        system = [{"text": message.text} for message in request.messages if message.role in ("system", "developer") and message.text]
        body: JsonObject = {"contents": self._contents(request.messages)}
        if system:
            body["systemInstruction"] = {"parts": system}
        if request.tools:
            body["tools"] = [{"functionDeclarations": [_tool(tool) for tool in request.functions]}]
            body["toolConfig"] = {"functionCallingConfig": _tool_choice(request)}
        config = self._config(request)
        if config:
            body["generationConfig"] = config
        ignored = ignored_knobs(request, "reasoning", "parallel_tool_calls")
        return WireCall(self._path, msgspec.json.encode(body), {"x-goog-api-key": self._key}, ignored)

    def _config(self, request: GenerateRequest) -> JsonObject:
        wanted = request.response_format
        settings: JsonObject = {
            "maxOutputTokens": request.max_output_tokens or self._limit,
            "temperature": request.temperature,
            "topP": request.top_p,
            "stopSequences": list(request.stop) or None,
            "seed": request.seed,
            "responseMimeType": None if wanted.kind == "text" else "application/json",
            "responseJsonSchema": wanted.schema if wanted.kind == "json_schema" else None,
        }
        return {key: value for key, value in settings.items() if value is not None}

    def _contents(self, messages: tuple[Message, ...]) -> list[JsonObject]:
        """User and model turns. Neighbours of one role become one turn: all results of parallel calls must stand in the same one."""
        names = {part.id: part.name for message in messages for part in message.parts if isinstance(part, ToolCallPart)}
        turns: list[JsonObject] = []
        for message in messages:
            match message.role:
                case "system" | "developer":
                    continue
                case "tool":
                    role, parts = "user", [_tool_result(message, names)]
                case "assistant":
                    role, parts = "model", self._parts(message)
                case "user":
                    role, parts = "user", self._parts(message)
            if not parts:
                continue
            if turns and turns[-1]["role"] == role:
                turns[-1]["parts"] += parts
            else:
                turns.append({"role": role, "parts": parts})
        return turns

    def _parts(self, message: Message) -> list[JsonObject]:
        own = [part.item for part in message.parts if isinstance(part, ProviderPart) and part.provider == PROVIDER]
        signatures = {item.get("toolCallId"): item["thoughtSignature"] for item in own if "thoughtSignature" in item}
        first_call = True
        parts: list[JsonObject] = []
        for part in message.parts:
            match part:
                case TextPart():
                    if part.text:
                        parts.append({"text": part.text})
                case ImagePart():
                    parts.append({"inlineData": _inline(part)})
                case ToolCallPart():
                    wire: JsonObject = {"functionCall": {"id": part.id, "name": part.name, "args": call_arguments(part)}}
                    signature = signatures.get(part.id) or (NO_SIGNATURE if self._signs and first_call else None)
                    if signature is not None:
                        wire["thoughtSignature"] = signature
                    first_call = False
                    parts.append(wire)
                case ProviderPart():
                    if part.provider == PROVIDER:
                        parts += _sent_back(part.item)
        return parts


def _sent_back(item: JsonObject) -> list[JsonObject]:
    if "part" in item:
        return [item["part"]]
    if item.get("toolCallId") is None and "thoughtSignature" in item:
        return [{"text": "", "thoughtSignature": item["thoughtSignature"]}]
    return []  # a call's signature stands in the call's own part


def _inline(part: ImagePart) -> JsonObject:
    inline = data_url(part)
    if inline is None:
        raise UnsupportedFeature("Gemini takes images as data: URLs only", param="messages")
    return {"mimeType": inline[0], "data": inline[1]}


def _tool_result(message: Message, names: dict[str, str]) -> JsonObject:
    """A result must be an object: JSON text that is one goes as it is, anything else as its `result`."""
    call_id = message.tool_call_id or ""
    try:
        response = decode_json_object(message.text)
    except msgspec.DecodeError:
        response = {"result": message.text}
    return {"functionResponse": {"id": call_id, "name": names.get(call_id) or message.name or call_id, "response": response}}


def _tool(tool: Tool) -> JsonObject:
    wire: JsonObject = {"name": tool.name}
    if tool.description is not None:
        wire["description"] = tool.description
    if tool.parameters:
        wire["parametersJsonSchema"] = tool.parameters
    return wire


def _tool_choice(request: GenerateRequest) -> JsonObject:
    match request.tool_choice.mode:
        case "auto":
            return {"mode": "AUTO"}
        case "none":
            return {"mode": "NONE"}
        case "required":
            return {"mode": "ANY"}
        case "function":
            return {"mode": "ANY", "allowedFunctionNames": [request.tool_choice.name]}
