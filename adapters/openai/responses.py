"""OpenAI's responses (`kind: openai` with `api: responses`): the API of its newest models, of its own tools, and of reasoning that comes back.

Every request tells OpenAI to keep nothing (`store: false`) and to hand out reasoning encrypted, so that the next turn can bring it back.
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.backend import BackendContext
from adapters.errors import UnsupportedFeature
from adapters.openai.formats import json_support
from adapters.openai.responses_items import INSTRUCTIONS, PROVIDER, Target, held_by_the_provider, input_items
from adapters.openai.responses_stream import ResponsesDecoder
from adapters.openai.spec import OpenAISpec, connect
from adapters.remote import RemoteBackend, WireCall
from adapters.types import Capabilities, FilePart, GenerateRequest, JsonObject, Message, ProviderPart, ProviderTool, Reasoning, TokenCount, Tool, ToolChoice

CAPABILITIES = Capabilities(
    streaming=True,
    tools=True,
    parallel_tools=True,
    vision=True,
    files=True,
    json_schema="native",
    reasoning=True,
    logprobs=True,
    provider_tools=("openai/custom", "openai/namespace"),
)
"""Custom tools and namespaces are run and described by the client, so they cost no more than their text."""

NOT_SENT = frozenset({
    "service_tier", "store", "background", "context_management", "prompt", "models", "route", "provider", "plugins", "reasoning.mode", "file_id",
})  # fmt: skip
"""Fields that would change the price, choose another model, name what only the provider keeps or add tokens that nobody reserved; `pass_through`
sends them all the same. `reasoning.mode` is a field of `reasoning`; `file_id` stands for files and pictures by their id."""

SHARED = frozenset({"user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""Unknown fields of a chat completion that mean the same here."""

ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
FEWEST_TOKENS = 16
"""OpenAI refuses a lower limit of an answer."""

LONGEST_FILE = 1_050_000
"""Tokens reserved for a file by its address or id where the backend's context window is not configured: the widest window there is."""

_NOT_REASONING = ("gpt-3", "gpt-4", "chatgpt-4", "gpt-5-chat", "ft:gpt-3", "ft:gpt-4")


class OpenAIResponsesBackend(RemoteBackend):
    provider = "openai"
    api = "responses"

    def __init__(self, name: str, spec: OpenAISpec, context: BackendContext) -> None:
        connection = connect(spec, context)
        schemas, objects = json_support(spec.model or "", official=connection.official, configured=spec.json_schema)
        capabilities = msgspec.structs.replace(CAPABILITIES, json_schema=schemas, json_object=objects)
        self._word = connection.word(PROVIDER)
        self.opaque = tuple(dict.fromkeys((PROVIDER, "openai.chat", self._word)))
        super().__init__(name, spec, capabilities, connection.sender, connection.missing)
        self._official = connection.official
        self._limit = spec.max_output_tokens
        self._withheld = NOT_SENT - set(spec.pass_through)

    def decoder(self, request: GenerateRequest, request_id: str | None) -> ResponsesDecoder:
        return ResponsesDecoder(request_id, self._word)

    def encode(self, request: GenerateRequest) -> WireCall:
        limit = request.max_output_tokens or self._limit
        if request.stop:
            raise UnsupportedFeature("OpenAI's responses have no stop sequences", param="stop")
        if self._official and limit is not None and limit < FEWEST_TOKENS:
            raise UnsupportedFeature(f"OpenAI's responses are at least {FEWEST_TOKENS} tokens long", param="max_output_tokens")
        instructions, messages = _split(request)
        # Unknown fields of the client's request go out as they came; they cannot replace what Headgate itself says.
        body: JsonObject = {
            **self._extra(request),
            "model": self.model,
            "input": input_items(messages, self._target(request)),
            "stream": self.streaming,
            "store": "store" not in self._withheld and request.extra.get("store") is True,
        }
        settings = {
            "instructions": instructions,
            "max_output_tokens": limit,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_logprobs": request.logprobs or None,
            "include": self._include(request),
            "reasoning": self._reasoning(request.reasoning) or None,
            "text": _text(request) or None,
            "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
            "metadata": request.metadata or None,
            # Padding that hides how long each piece is: between two servers it is only traffic.
            "stream_options": {"include_obfuscation": False} if self._official and self.streaming else None,
        }
        body.update((key, value) for key, value in settings.items() if value is not None)
        if request.tools:
            body["tools"] = [_tool(tool, own=request.dialect == "openai.responses") for tool in request.tools]
            if request.tool_choice != ToolChoice():
                body["tool_choice"] = _tool_choice(request)
        return WireCall("/responses", msgspec.json.encode(body), ignored=self._ignored(request))

    def count(self, request: GenerateRequest, /) -> TokenCount:
        counted = super().count(request)
        sent = [self._extra(request), request.metadata]
        unknown = 0
        for message in request.messages:
            sent.append(message.extra)
            for part in message.parts:
                if isinstance(part, ProviderPart):
                    unknown += held_by_the_provider(part.item)
                elif isinstance(part, FilePart) and not part.url.startswith("data:"):
                    unknown += 1
                sent.append(getattr(part, "extra", {}))
        size = sum(len(msgspec.json.encode(each)) for each in sent if each)
        longest = min(unknown, 1) * (self.capabilities.context_window or LONGEST_FILE)  # all of them share one window
        return TokenCount(n=counted.n + size // 4, upper=counted.upper + size + longest)

    def _target(self, request: GenerateRequest) -> Target:
        return Target(
            official=self._official,
            own=request.dialect == "openai.responses",
            cached=request.dialect != "anthropic.messages",
            references="file_id" not in self._withheld,
            word=self._word,
        )

    def _extra(self, request: GenerateRequest) -> JsonObject:
        """The unknown fields that are sent."""
        match request.dialect:
            case "openai.responses":
                return {name: value for name, value in request.extra.items() if name not in self._withheld and name not in ("include", "store")}
            case "openai.chat":
                return {name: value for name, value in request.extra.items() if name in SHARED}
            case "anthropic.messages":
                return {}

    def _ignored(self, request: GenerateRequest) -> tuple[str, ...]:
        """What of the request is not sent. `store` is Headgate's own to obey."""
        known = {*self._extra(request), "include", "store"} if request.dialect == "openai.responses" else {*self._extra(request)}
        ignored = [name for name in request.extra if name not in known]
        ignored += [name for name in ("seed", "top_k") if getattr(request, name) is not None]
        if any(message.name for message in request.messages):
            ignored.append("name")
        wanted = request.reasoning
        if wanted is not None:
            ignored += [f"reasoning.{name}" for name in wanted.extra if f"reasoning.{name}" in self._withheld]
            if wanted.enabled is False and wanted.effort is None:
                ignored.append("reasoning")
        return tuple(ignored)

    def _include(self, request: GenerateRequest) -> list[str] | None:
        asked = list(request.extra.get("include", ())) if request.dialect == "openai.responses" else []
        # A model that does not reason refuses the request for its reasoning.
        if self._official and not self.model.startswith(_NOT_REASONING):
            asked.append(ENCRYPTED)
        if request.logprobs is not None:
            asked.append(LOGPROBS)
        return list(dict.fromkeys(asked)) or None

    def _reasoning(self, wanted: Reasoning | None) -> JsonObject:
        if wanted is None:
            return {}
        said: JsonObject = {name: value for name, value in wanted.extra.items() if f"reasoning.{name}" not in self._withheld}
        effort = _effort(wanted)
        return said | {name: value for name, value in (("effort", effort), ("summary", wanted.summary)) if value is not None}


def _split(request: GenerateRequest) -> tuple[str | None, tuple[Message, ...]]:
    """The `instructions`, where the request said some, and the other messages."""
    first = request.messages[0] if request.messages else None
    if first is None or request.dialect != "openai.responses" or first.extra != INSTRUCTIONS:
        return None, request.messages
    return first.text, request.messages[1:]


def _effort(wanted: Reasoning) -> str | None:
    """OpenAI's word. A budget in tokens becomes the nearest one; models differ in what they use for each."""
    if wanted.effort is not None or wanted.budget_tokens is None:
        return wanted.effort
    return "low" if wanted.budget_tokens < 4_096 else "medium" if wanted.budget_tokens < 16_384 else "high"


def _text(request: GenerateRequest) -> JsonObject:
    wanted = request.response_format
    text: JsonObject = {} if request.verbosity is None else {"verbosity": request.verbosity}
    match wanted.kind:
        case "text":
            return text
        case "json_object":
            return {"format": {"type": "json_object"}, **text}
        case "json_schema":
            schema: JsonObject = {"type": "json_schema", "name": wanted.name or "answer", "schema": wanted.schema or {}}
            said = {"strict": wanted.strict, "description": wanted.description}
            return {"format": schema | {key: value for key, value in said.items() if value is not None}, **text}


def _tool(tool: Tool | ProviderTool, *, own: bool) -> JsonObject:
    match tool:
        case ProviderTool():
            return tool.item
        case Tool():
            # Where nothing is said this API is strict, chat completions and messages are not.
            strict = tool.strict if own or tool.strict is not None else False
            said: JsonObject = {"type": "function", "name": tool.name, "parameters": tool.parameters or {"type": "object", "properties": {}}, "strict": strict}
            if tool.description is not None:
                said["description"] = tool.description
            return {**(tool.extra if own else {}), **said}


def _tool_choice(request: GenerateRequest) -> Any:
    choice = request.tool_choice
    if choice.item is not None:
        if request.dialect != "openai.responses":
            raise UnsupportedFeature("this choice of tools can be said only in the dialect it came in", param="tool_choice")
        return choice.item
    return {"type": "function", "name": choice.name} if choice.mode == "function" else choice.mode
