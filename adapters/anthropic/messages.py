"""Anthropic's messages (`kind: anthropic`)."""

from __future__ import annotations

from typing import Literal

import msgspec

from adapters.anthropic.bounds import input_bound
from adapters.anthropic.content import cache_mark, conversation
from adapters.anthropic.messages_stream import PROVIDER, MessageDecoder
from adapters.anthropic.models import Traits, traits_of
from adapters.anthropic.thinking import sampling_of, thinking_of, without
from adapters.backend import BackendContext, RemoteSpec, register
from adapters.errors import UnsupportedFeature
from adapters.remote import RemoteBackend, WireCall, credentials
from adapters.sender import Endpoint, RawResponse
from adapters.types import Capabilities, GenerateRequest, JsonObject, ProviderTool, TokenCount, Tool, ToolChoice

OFFICIAL_URL = "https://api.anthropic.com"
KEY_ENV = "ANTHROPIC_API_KEY"
DEFAULT_MAX_TOKENS = 4096
"""The API demands a limit; this one stands where neither the request nor the table gives one."""

API_VERSION = "2023-06-01"
"""The version whose requests may sample (temperature, top_p, top_k), which later ones refuse. `headers` in the backend's table can say another."""

CLIENT_TOOLS = ("bash_*", "text_editor_*", "computer_*", "browser_toolset_*", "memory_*", "tool_search_tool_*")
"""Anthropic's own tools that cost nothing but their tokens: the client runs them, or they search its tools."""

CAPABILITIES = Capabilities(
    streaming=True,
    tools=True,
    parallel_tools=True,
    vision=True,
    files=True,
    reasoning=True,
    provider_tools=tuple(f"{PROVIDER}/{name}" for name in CLIENT_TOOLS),
)

NOT_SENT = frozenset({
    "service_tier", "speed", "inference_geo", "container", "mcp_servers", "context_management", "compaction", "fallbacks", "betas", "workspace_id",
    "user_profile_id", "cache_ttl", "task_budget", "file_id",
})  # fmt: skip
"""What would change the price, reach out, run something, keep something or need a beta; `pass_through` sends it all the same.

`file_id`: files that Anthropic keeps belong to the account, so every tenant could name another's.
"""


class AnthropicSpec(RemoteSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`pass_through` names what of `NOT_SENT` this backend may be sent: what it costs must be in the backend's price.

    `json_schema` says whether the model is told an answer's schema (`native`) or only its prompt asks for it (`prompted`), where the model's name
    does not tell.
    """

    pass_through: tuple[str, ...] = ()
    json_schema: Literal["native", "prompted"] | None = None


@register("anthropic", AnthropicSpec, remote=True, provider=PROVIDER)
class AnthropicBackend(RemoteBackend):
    provider = PROVIDER

    def __init__(self, name: str, spec: AnthropicSpec, context: BackendContext) -> None:
        url, key, missing = credentials(spec, context.environ, OFFICIAL_URL, KEY_ENV)
        sender = None
        if not missing:
            from adapters.sender.sdk import anthropic_sender

            sender = anthropic_sender(Endpoint(url, key, spec.connect_s))
        if "cache_ttl" in spec.pass_through and spec.price is None:
            # The price book's rate is that of a cache of five minutes, and the provider's report is billed at one rate.
            raise ValueError(
                "`pass_through: [cache_ttl]` lets writes to an hour's cache out, which cost more: give the backend a `price` with their `cache_write`"
            )
        self._traits: Traits = traits_of(spec.model or "")
        self._structured = spec.json_schema == "native" if spec.json_schema else self._traits.structured
        capabilities = msgspec.structs.replace(CAPABILITIES, json_schema="native" if self._structured else "prompted", json_object="prompted")
        super().__init__(name, spec, capabilities, sender, missing)
        self._headers = {"anthropic-version": API_VERSION, **{name.lower(): value for name, value in spec.headers.items()}}
        self._limit = spec.max_output_tokens or DEFAULT_MAX_TOKENS
        self._withheld = NOT_SENT - set(spec.pass_through)

    def request_id(self, response: RawResponse) -> str | None:
        return response.headers.get("request-id")

    def count(self, request: GenerateRequest, /) -> TokenCount:
        return input_bound(request, super().count(request), self._traits, self._extra(request))

    def decoder(self, request: GenerateRequest, request_id: str | None) -> MessageDecoder:
        return MessageDecoder(request_id, native=_native(request))

    def encode(self, request: GenerateRequest) -> WireCall:
        limit = request.max_output_tokens or self._limit
        talk = conversation(request, self._traits, long_cache="cache_ttl" not in self._withheld, kept_files="file_id" not in self._withheld)
        thinking = thinking_of(request, self._traits, limit)
        forced = request.tool_choice.mode in ("required", "function") and bool(request.tools)
        if thinking.budgeted and (talk.unsigned_calls or (forced and not _native(request))):
            thinking = without(thinking, self._traits)
        if talk.prefilled and not self._traits.prefill:
            raise UnsupportedFeature("this model does not go on with an answer that the last message began", param="messages")
        sampling = sampling_of(request, self._traits, thinking=thinking.on)
        # Unknown fields of the client's request go out as they came; they cannot replace what Headgate itself says.
        body: JsonObject = {
            **self._extra(request),
            "model": self.model,
            "max_tokens": limit,
            "messages": talk.turns,
            "stream": self.streaming,
            **sampling.fields,
        }
        user = request.metadata.get("user_id") if _native(request) else None
        stop = [text for text in request.stop if text.strip()]  # the API refuses one of white space alone
        settings: JsonObject = {
            "system": talk.system,
            "stop_sequences": stop or None,
            "thinking": thinking.thinking,
            "output_config": self._output_config(request, thinking.effort),
            "metadata": {"user_id": user} if user is not None else None,
        }
        body.update((key, value) for key, value in settings.items() if value is not None)
        if request.tools:
            body["tools"] = [self._tool(tool, request) for tool in request.tools]
            if (choice := _tool_choice(request)) is not None:
                body["tool_choice"] = choice
        knobs = [name for name in ("seed", "verbosity") if getattr(request, name) is not None]
        if len(stop) < len(request.stop):
            knobs.append("stop")
        ignored = (*knobs, *thinking.ignored, *sampling.ignored, *talk.ignored, *self._ignored(request))
        return WireCall("/v1/messages", msgspec.json.encode(body), headers=self._betas(request), ignored=tuple(dict.fromkeys(ignored)))

    def _extra(self, request: GenerateRequest) -> JsonObject:
        """The unknown fields that are sent: those of Anthropic's own dialect that cost nothing more. `betas` go as a header."""
        if not _native(request):
            return {}
        extra = {name: value for name, value in request.extra.items() if name not in self._withheld and name not in ("betas", "output_config")}
        mark = extra.get("cache_control")
        if isinstance(mark, dict):
            extra["cache_control"] = cache_mark(mark, long_cache="cache_ttl" not in self._withheld)[0]
        return extra

    def _ignored(self, request: GenerateRequest) -> list[str]:
        """Fields of the request that are not sent, by name."""
        if not _native(request):
            tools = [name for tool in request.functions for name in tool.extra]
            unsaid = [tool for tool in request.functions if tool.strict and self._traits.known and not self._structured]
            return [*(("tool_choice",) if request.tool_choice.item is not None else ()), *request.extra, *tools, *(("strict",) if unsaid else ())]
        inner = [name for name in request.extra.get("output_config", ()) if name in self._withheld]
        return [*(name for name in request.extra if name in self._withheld), *inner]

    def _betas(self, request: GenerateRequest) -> dict[str, str]:
        betas = request.extra.get("betas") if _native(request) and "betas" not in self._withheld else None
        return {"anthropic-beta": ",".join(map(str, betas))} if betas else {}

    def _output_config(self, request: GenerateRequest, effort: str | None) -> JsonObject | None:
        config: JsonObject = {}
        if _native(request):
            config |= {name: value for name, value in request.extra.get("output_config", {}).items() if name not in self._withheld}
        if effort is not None:
            config["effort"] = effort
        wanted = request.response_format
        if wanted.kind == "json_schema" and self._structured:
            schema = {"type": "object"} if wanted.schema is None else wanted.schema
            config["format"] = {"type": "json_schema", "schema": schema if _native(request) else narrowed(schema)}
        return config or None

    def _tool(self, tool: Tool | ProviderTool, request: GenerateRequest) -> JsonObject:
        if isinstance(tool, ProviderTool):
            mark = tool.item.get("cache_control")
            wire = dict(tool.item)
        else:
            mark = tool.cache
            wire = self._function(tool, native=_native(request))
        if isinstance(mark, dict):
            wire["cache_control"] = cache_mark(mark, long_cache="cache_ttl" not in self._withheld)[0]
        return wire

    def _function(self, tool: Tool, *, native: bool) -> JsonObject:
        schema: JsonObject = tool.parameters or {"type": "object", "properties": {}}
        wire: JsonObject = dict(tool.extra) if native else {}
        if tool.strict is not None and (native or not self._traits.known or self._structured):
            wire["strict"] = tool.strict
        if not native:
            schema = narrowed(schema) if wire.get("strict") else {"type": "object", **schema}
        wire |= {"name": tool.name, "input_schema": schema if not native else tool.parameters}
        if tool.description is not None:
            wire["description"] = tool.description
        return wire


def _native(request: GenerateRequest) -> bool:
    return request.dialect == "anthropic.messages"


def narrowed(schema: JsonObject) -> JsonObject:
    """A schema of another dialect with what Anthropic's grammar takes of it; limits it has no word for stand in the descriptions.

    Raises `UnsupportedFeature` for one that cannot be said so.
    """
    import anthropic

    try:
        return anthropic.transform_schema(schema)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError) as error:
        raise UnsupportedFeature("this JSON schema cannot be said to this provider", param="response_format") from error


def _tool_choice(request: GenerateRequest) -> JsonObject | None:
    choice: JsonObject
    match request.tool_choice.mode:
        case "auto":
            choice = dict(request.tool_choice.item) if request.tool_choice.item is not None and _native(request) else {"type": "auto"}
        case "required":
            choice = {"type": "any"}
        case "none":
            return {"type": "none"}
        case "function":
            choice = {"type": "tool", "name": request.tool_choice.name}
    if request.parallel_tool_calls is False:
        choice["disable_parallel_tool_use"] = True
    return None if choice == {"type": "auto"} and request.tool_choice == ToolChoice() and _native(request) else choice
