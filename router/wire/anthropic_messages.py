"""Anthropic's messages dialect in: a request body to core values.

Types are checked strictly, with the field that is wrong. A field this service does not know is kept: in `GenerateRequest.extra`, and in the
`extra` of the part, message or tool that it stood on.
"""

from __future__ import annotations

from adapters.anthropic.wire import CountBody, CustomTool, FileSearchTool, JsonFormat, MessagesBody, Metadata, OutputConfig, ThinkingIn, ToolChoiceIn
from adapters.types import GenerateRequest, JsonObject, Message, ProviderTool, Reasoning, ResponseFormat, Tool, ToolChoice
from router.http.errors import ApiError
from router.kept.sealing import Seal
from router.wire.anthropic_blocks import PROVIDER, fields_of, messages_of, read, rest
from router.wire.call import Call, Hints
from router.wire.json_in import json_object, unread


class ThreadUnsupported(ApiError):
    """The body names a conversation kept by the provider (`thread`). `details` makes Anthropic's SDK send the whole conversation instead."""

    details: JsonObject = {"error_code": "thread_unsupported_request"}

    def __init__(self) -> None:
        super().__init__(400, "unsupported_feature", "thread: conversations are not kept here; send all messages, without 'thread'.", param="thread")


_READ = {
    "tool_choice": ToolChoiceIn.__struct_fields__,
    "output_config.format": JsonFormat.__struct_fields__,
    "output_format": JsonFormat.__struct_fields__,
    "metadata": Metadata.__struct_fields__,
}
"""The body's objects of which only these fields are read."""


def decode_messages(body: bytes, seal: Seal, betas: tuple[str, ...] = ()) -> Call:
    """Decode a request for an answer. `seal` opens the parts that an earlier answer gave the client; `betas` are those of the `anthropic-beta` header.

    Raises `ApiError` 400 that names the field at fault.
    """
    return _decode(body, seal, MessagesBody, betas)


def decode_count(body: bytes, seal: Seal, betas: tuple[str, ...] = ()) -> Call:
    """Decode a request to count a prompt's tokens, which needs no limit."""
    return _decode(body, seal, CountBody, betas)


def _decode(body: bytes, seal: Seal, into: type[CountBody], betas: tuple[str, ...]) -> Call:
    raw = json_object(body)
    if raw.get("thread") is not None:
        raise ThreadUnsupported()
    wire = read(raw, into, "")
    hints = read(raw["headgate"], Hints, "headgate") if "headgate" in raw else Hints()
    choice = wire.tool_choice
    tools, searches = _tools(wire.tools or [])
    request = GenerateRequest(
        messages=_all_messages(wire, raw, seal),
        dialect="anthropic.messages",
        max_output_tokens=wire.max_tokens,
        temperature=wire.temperature,
        top_p=wire.top_p,
        top_k=wire.top_k,
        stop=tuple(wire.stop_sequences or ()),
        tools=tools,
        tool_choice=_tool_choice(choice),
        parallel_tool_calls=None if choice is None or choice.disable_parallel_tool_use is None else not choice.disable_parallel_tool_use,
        response_format=_format(wire),
        reasoning=_reasoning(wire, raw),
        metadata={} if wire.metadata is None or wire.metadata.user_id is None else {"user_id": wire.metadata.user_id},
        extra=_extra(raw, betas),
    )
    return Call(
        request=request,
        model=wire.model,
        stream=bool(wire.stream),
        include_usage=True,
        hints=hints,
        stores=tuple(store for _, tool in searches for store in tool.vector_store_ids),
        stores_param=f"tools[{searches[0][0]}].vector_store_ids" if searches else "tools",
        search_limit=searches[0][1].max_num_results if searches else None,
        unread=unread(raw, _READ),
    )


def _all_messages(wire: CountBody, raw: JsonObject, seal: Seal) -> tuple[Message, ...]:
    system = messages_of("system", wire.system, {}, "system", seal) if wire.system else ()
    turns = [
        message
        for place, (said, kept) in enumerate(zip(wire.messages, raw["messages"], strict=True))
        for message in messages_of(said.role, said.content, rest(kept, fields_of(said)), f"messages[{place}]", seal)
    ]
    return (*system, *turns)


def _extra(raw: JsonObject, betas: tuple[str, ...]) -> JsonObject:
    known = (*CountBody.__struct_fields__, "headgate")
    extra = rest(raw, known)
    if isinstance(raw.get("output_config"), dict) and (config := rest(raw["output_config"], OutputConfig.__struct_fields__)):
        extra["output_config"] = config
    if betas or "betas" in extra:
        said = extra.get("betas")
        extra["betas"] = [*betas, *(said if isinstance(said, list) else ())]
    return {name: value for name, value in extra.items() if value is not None}


def _tools(items: list[JsonObject]) -> tuple[tuple[Tool | ProviderTool, ...], list[tuple[int, FileSearchTool]]]:
    """The request's tools, and the searches in documents that stand among them, each with its place."""
    tools: list[Tool | ProviderTool] = []
    searches: list[tuple[int, FileSearchTool]] = []
    for place, item in enumerate(items):
        where = f"tools[{place}]"
        kind = item.get("type")
        if kind is None or kind == "custom":
            tool = read(item, CustomTool, where)
            tools.append(Tool(tool.name, tool.description, tool.input_schema, tool.strict, tool.cache_control, rest(item, fields_of(tool))))
        elif kind == "file_search":
            searches.append((place, read(item, FileSearchTool, where)))
        elif isinstance(kind, str):
            tools.append(ProviderTool(PROVIDER, item))
        else:
            raise ApiError(400, "invalid_request", f"{where}.type: Expected `str`.", param=f"{where}.type")
    return tuple(tools), searches


def _tool_choice(choice: ToolChoiceIn | None) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    match choice.type:
        case "auto":
            return ToolChoice("auto")
        case "any":
            return ToolChoice("required")
        case "none":
            return ToolChoice("none")
        case "tool":
            if not choice.name:
                raise ApiError(400, "invalid_request", "tool_choice.name: a choice of one tool names it.", param="tool_choice.name")
            return ToolChoice("function", choice.name)


def _format(wire: CountBody) -> ResponseFormat:
    wanted = (wire.output_config.format if wire.output_config is not None else None) or wire.output_format
    return ResponseFormat() if wanted is None else ResponseFormat("json_schema", None, wanted.schema, True)


def _reasoning(wire: CountBody, raw: JsonObject) -> Reasoning | None:
    effort = wire.output_config.effort if wire.output_config is not None else None
    thinking = wire.thinking
    if thinking is None:
        return None if effort is None else Reasoning(effort=effort)
    extra = rest(raw["thinking"], ThinkingIn.__struct_fields__)
    match thinking.type:
        case "enabled":
            if thinking.budget_tokens is None:
                raise ApiError(400, "invalid_request", "thinking.budget_tokens: thinking that is enabled needs a budget.", param="thinking.budget_tokens")
            return Reasoning(effort=effort, enabled=True, budget_tokens=thinking.budget_tokens, extra=extra)
        case "adaptive":
            return Reasoning(effort=effort, adaptive=True, extra=extra)
        case "disabled":
            return Reasoning(effort=effort, enabled=False, extra=extra)
        case _:
            return Reasoning(effort=effort, extra={"thinking": raw["thinking"]})
