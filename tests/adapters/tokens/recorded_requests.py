"""Recorded requests as core values, with the input tokens that the provider reported: what counting is measured on.

Only what counts as input is read. `simple` says that nothing stands in the request whose tokens no text tells: images, files, audio, tools of
the provider's own, a conversation that the provider kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from adapters.types import (
    FilePart,
    GenerateRequest,
    ImagePart,
    JsonObject,
    Message,
    Part,
    ProviderPart,
    ProviderTool,
    Reasoning,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
)
from tests.adapters.remote.recordings import interactions


class Counted(NamedTuple):
    id: str
    api: str
    model: str
    request: GenerateRequest
    reported: int
    simple: bool


def counted() -> Iterator[Counted]:
    """Every recorded exchange of the four chat interfaces that reports its input tokens."""
    for each in interactions():
        body, path = each["req"], each["path"].split("?")[0]
        if each["status"] != 200 or not isinstance(body, dict):
            continue
        if each["provider"] == "openai" and path.endswith("/chat/completions"):
            api, make, usage = "openai chat", _chat, _usage(each, "prompt_tokens")
        elif each["provider"] == "openai" and path.endswith("/responses"):
            api, make, usage = "openai responses", _responses, _usage(each, "input_tokens")
        elif each["provider"] == "anthropic" and path.endswith("/messages"):
            api, make = "anthropic", _messages
            usage = _usage(each, "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        elif each["provider"] == "gemini" and path.endswith("enerateContent"):
            api, make, usage = "gemini", _contents, _usage(each, "promptTokenCount", "toolUsePromptTokenCount")
        else:
            continue
        if usage:
            model = body.get("model") or path.rpartition("/")[2].partition(":")[0]
            builder = _Builder()
            make(builder, body)
            yield Counted(each["id"], api, model, builder.request(), usage, builder.simple)


def _usage(each: dict[str, Any], *names: str) -> int:
    """The largest report of the exchange: reports of a stream are cumulative."""
    text = each["body"]
    documents = [line[5:] for line in text.splitlines() if line.startswith("data:") and "[DONE]" not in line] if "event-stream" in each["ct"] else [text]
    best = 0
    for document in documents:
        value = json.loads(document)
        response = value.get("response") or value.get("message") or value
        usage = response.get("usage") or response.get("usageMetadata") or {}
        best = max(best, sum(usage.get(name) or 0 for name in names))
    return best


class _Builder:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.tools: list[Tool | ProviderTool] = []
        self.format = ResponseFormat()
        self.choice = ToolChoice()
        self.reasoning: Reasoning | None = None
        self.simple = True

    def request(self) -> GenerateRequest:
        return GenerateRequest(
            messages=tuple(self.messages), tools=tuple(self.tools), response_format=self.format, tool_choice=self.choice, reasoning=self.reasoning
        )

    def add(self, role: Any, *parts: Part, **fields: Any) -> None:
        self.messages.append(Message(role, parts, **fields))

    def opaque(self, provider: str, item: JsonObject) -> Part:
        self.simple = False
        return ProviderPart(provider, item)

    def schema(self, name: str | None, schema: JsonObject) -> None:
        self.format = ResponseFormat("json_schema", name, schema)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _chat(into: _Builder, body: JsonObject) -> None:
    for message in body["messages"]:
        parts: list[Part] = []
        content = message.get("content") or []
        parts += [_openai_part(into, part) for part in ([{"type": "text", "text": content}] if isinstance(content, str) else content)]
        parts += [ToolCallPart(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []]
        into.add(message["role"], *parts, name=message.get("name"), tool_call_id=message.get("tool_call_id"))
    for tool in body.get("tools") or []:
        spec = tool["function"]
        into.tools.append(Tool(spec["name"], spec.get("description"), spec.get("parameters") or {}, spec.get("strict")))
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        into.schema(wanted["json_schema"].get("name"), wanted["json_schema"]["schema"])
    into.simple &= not (body.get("web_search_options") or body.get("prediction") or "search" in body["model"])


def _openai_part(into: _Builder, part: JsonObject) -> Part:
    kind = part["type"]
    if kind in ("text", "input_text", "output_text"):
        return TextPart(part["text"])
    if kind == "refusal":
        return TextPart(part["refusal"])
    into.simple = False
    if kind in ("image_url", "input_image"):
        return ImagePart(_text(part.get("image_url") or part.get("file_id")))
    return FilePart(_text(part))


def _responses(into: _Builder, body: JsonObject) -> None:
    if body.get("previous_response_id") or body.get("conversation") or body.get("prompt"):
        into.simple = False
    if body.get("instructions"):
        into.add("system", TextPart(body["instructions"]))
    given = body.get("input") or []
    for item in [{"role": "user", "content": given}] if isinstance(given, str) else given:
        match item.get("type", "message"):
            case "message":
                content = item["content"]
                parts = [_openai_part(into, part) for part in ([{"type": "input_text", "text": content}] if isinstance(content, str) else content)]
                into.add(item["role"], *parts)
            case "function_call":
                into.add("assistant", ToolCallPart(item["call_id"], item["name"], item["arguments"]))
            case "function_call_output":
                into.add("tool", TextPart(_text(item["output"])), tool_call_id=item["call_id"])
            case _:
                into.add("assistant", into.opaque("openai", item))
    for tool in body.get("tools") or []:
        if tool["type"] == "function":
            into.tools.append(Tool(tool["name"], tool.get("description"), tool.get("parameters") or {}, tool.get("strict")))
        else:
            into.simple = False
            into.tools.append(ProviderTool("openai", tool))
    wanted = (body.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        into.schema(wanted.get("name"), wanted["schema"])


def _messages(into: _Builder, body: JsonObject) -> None:
    system = body.get("system") or []
    for part in [{"text": system}] if isinstance(system, str) else system:
        into.add("system", TextPart(part["text"]))
    for message in body["messages"]:
        content = message["content"]
        parts: list[Part] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            match part["type"]:
                case "text":
                    parts.append(TextPart(part["text"]))
                case "tool_use":
                    parts.append(ToolCallPart(part["id"], part["name"], _text(part["input"])))
                case "tool_result":
                    inner = part.get("content") or ""
                    texts = [inner] if isinstance(inner, str) else [each.get("text") or _text(into.opaque("anthropic", each).item) for each in inner]  # type: ignore[union-attr]
                    into.add("tool", *(TextPart(text) for text in texts), tool_call_id=part["tool_use_id"])
                case _:
                    parts.append(into.opaque("anthropic", part))
        if parts:
            into.add(message["role"], *parts)
    for tool in body.get("tools") or []:
        if tool.get("type", "custom") == "custom":
            into.tools.append(Tool(tool["name"], tool.get("description"), tool["input_schema"]))
        else:
            into.simple = False
            into.tools.append(ProviderTool("anthropic", tool))
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        into.choice = ToolChoice("required")
    if (body.get("thinking") or {}).get("type") == "enabled":
        into.reasoning = Reasoning(budget_tokens=body["thinking"]["budget_tokens"])
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    if wanted.get("schema"):
        into.schema(None, wanted["schema"])
    into.simple &= not (body.get("container") or body.get("mcp_servers") or body.get("thread"))


def _contents(into: _Builder, body: JsonObject) -> None:
    for part in (body.get("systemInstruction") or {}).get("parts") or []:
        into.add("system", TextPart(part["text"]))
    for content in body["contents"]:
        parts: list[Part] = []
        for part in content["parts"]:
            if signature := part.get("thoughtSignature"):
                parts.append(into.opaque("google", {"thoughtSignature": signature}))
            if "text" in part and not part.get("thought"):
                parts.append(TextPart(part["text"]))
            elif "functionCall" in part:
                call = part["functionCall"]
                parts.append(ToolCallPart(call.get("id") or "", call["name"], _text(call.get("args") or {})))
            elif "functionResponse" in part:
                reply = part["functionResponse"]
                parts.append(TextPart(_text(reply.get("response"))))
                into.simple &= not reply.get("parts")
            else:
                parts.append(into.opaque("google", part))
        role = "assistant" if content.get("role") == "model" else "user"
        into.add(role, *parts)
    for tool in body.get("tools") or []:
        for spec in tool.get("functionDeclarations") or []:
            parameters = spec.get("parameters") or spec.get("parametersJsonSchema") or spec.get("parameters_json_schema") or {}
            into.tools.append(Tool(spec["name"], spec.get("description"), parameters))
        if set(tool) - {"functionDeclarations"}:
            into.simple = False
            into.tools.append(ProviderTool("google", tool))
    settings = body.get("generationConfig") or {}
    schema = settings.get("responseSchema") or settings.get("responseJsonSchema")
    if schema:
        into.schema(None, schema)
    into.simple &= not body.get("cachedContent")
