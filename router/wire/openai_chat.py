"""OpenAI's chat dialect in: a request body to core values.

Types are checked strictly, with the field that is wrong; what this service does not know is kept beside where it stood (`extra`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from adapters.openai.chat_request import (
    AudioReference,
    ChooseAllowed,
    ChooseCustom,
    ChooseFunction,
    ContentPart,
    CustomTool,
    Format,
    FormatJson,
    FormatSchema,
    FormatText,
    FunctionSpec,
    FunctionTool,
    StreamOptions,
    ToolCall,
    ToolChoiceObject,
    ToolChoiceWord,
)
from adapters.types import GenerateRequest, JsonObject, ProviderTool, Reasoning, ResponseFormat, Tool, ToolChoice
from router.http.errors import ApiError, invalid
from router.kept.sealing import Seal
from router.wire.call import Call, Hints
from router.wire.json_in import json_object, unread
from router.wire.openai_chat_messages import PROVIDER, core_message, refuse, unknown

Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
T = TypeVar("T")


class Sealed(Struct):
    """What an answer's `headgate` held: one token, or one for each delta of a stream."""

    sealed: str | list[str] = msgspec.field(default_factory=list)


class ChatMessage(Struct):
    """`function`, the legacy role, is known only to be refused in words of its own; so is `function_call`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    audio: AudioReference | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: JsonObject | None = None
    headgate: Sealed = msgspec.field(default_factory=Sealed)


class FileSearchTool(Struct):
    """Headgate's own: the documents of the tenant."""

    vector_store_ids: Annotated[list[str], Meta(min_length=1)]
    type: Literal["file_search"] = "file_search"
    max_num_results: Annotated[int, Meta(ge=1, le=50)] | None = None


class ChatBody(Struct):
    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    stop: str | list[str] | None = None
    seed: Seed | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    tools: Annotated[list[JsonObject], Meta(description="Functions, custom tools, `file_search` over vector stores, tools of a provider's own.")] | None = None
    tool_choice: ToolChoiceWord | ToolChoiceObject | None = None
    parallel_tool_calls: bool | None = None
    response_format: Format | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    metadata: dict[str, str] | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    headgate: Hints | UnsetType = UNSET


_KNOWN = frozenset(ChatBody.__struct_fields__)
_READ = {
    "stream_options": ("include_usage",),
    "response_format": ("type", "json_schema"),
    "tool_choice": ("type", "function", "custom", "allowed_tools"),
    "tool_choice.function": ("name",),
}
"""The body's objects of which only these fields are read."""
_FUNCTION_FIELDS = frozenset(FunctionSpec.__struct_fields__)


def decode_chat(body: bytes, seal: Seal) -> Call:
    """Decode a chat request; `seal` opens the parts that an earlier answer gave the client. Raises `ApiError` 400 that names the field at fault."""
    fields = json_object(body)
    chat = _converted(fields, ChatBody)
    _check(chat)
    tools, searches = _tools(chat.tools or [])
    stop = chat.stop
    request = GenerateRequest(
        messages=tuple(
            core_message(message, raw, f"messages[{index}]", _opened(message, seal))
            for index, (message, raw) in enumerate(zip(chat.messages, fields["messages"], strict=True))
        ),
        dialect="openai.chat",
        max_output_tokens=chat.max_completion_tokens or chat.max_tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        seed=chat.seed,
        tools=tuple(tools),
        tool_choice=_tool_choice(chat.tool_choice, fields.get("tool_choice")),
        parallel_tool_calls=chat.parallel_tool_calls,
        response_format=_response_format(chat.response_format),
        reasoning=None if chat.reasoning_effort is None else Reasoning(effort=chat.reasoning_effort),
        verbosity=chat.verbosity,
        logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        n=chat.n or 1,
        metadata=chat.metadata or {},
        extra=unknown(fields, _KNOWN),
    )
    return Call(
        request=request,
        model=chat.model,
        stream=bool(chat.stream),
        include_usage=bool(chat.stream_options and chat.stream_options.include_usage),
        hints=Hints() if chat.headgate is UNSET else chat.headgate,
        stores=tuple(store for _, search in searches for store in search.vector_store_ids),
        stores_param=f"tools[{searches[0][0]}].vector_store_ids" if searches else "tools",
        search_limit=searches[0][1].max_num_results if searches else None,
        unread=unread(fields, _READ),
    )


def _converted(value: Any, into: type[T], at: str = "") -> T:
    """Raises `ApiError` 400; `at` is the place of the value in the body."""
    try:
        return msgspec.convert(value, into)
    except msgspec.ValidationError as error:
        refusal = invalid(error)
        if not at:
            raise refusal from error
        param = f"{at}.{refusal.param}" if refusal.param else at
        message = f"{at}.{refusal.message}" if refusal.param else f"{at}: {refusal.message}"
        raise ApiError(400, refusal.code, message, param=param) from error


def _check(chat: ChatBody) -> None:
    """What types alone cannot say."""
    if chat.functions is not None:
        raise refuse("functions", "the legacy way to offer functions is not supported; send them as 'tools'.")
    if chat.function_call is not None:
        raise refuse("function_call", "the legacy way to choose a function is not supported; use 'tool_choice'.")
    if chat.top_logprobs and not chat.logprobs:
        raise refuse("top_logprobs", "it needs 'logprobs': true.")


def _opened(message: ChatMessage, seal: Seal) -> tuple[Any, ...]:
    """The opaque parts of an earlier answer that the client gave back. What cannot be opened is left out: the answer stands without it."""
    tokens = [message.headgate.sealed] if isinstance(message.headgate.sealed, str) else message.headgate.sealed
    return tuple(part for token in tokens for part in seal.open(token) or ())


def _tools(raw_tools: list[JsonObject]) -> tuple[list[Tool | ProviderTool], list[tuple[int, FileSearchTool]]]:
    """The tools for the backend, and this service's own searches with their places."""
    tools: list[Tool | ProviderTool] = []
    searches: list[tuple[int, FileSearchTool]] = []
    for index, raw in enumerate(raw_tools):
        at = f"tools[{index}]"
        match raw.get("type"):
            case "function":
                spec = _converted(raw, FunctionTool, at).function
                extra = unknown(raw, {"type", "function"})
                if inner := unknown(raw["function"], _FUNCTION_FIELDS):
                    extra["function"] = inner
                tools.append(Tool(name=spec.name, description=spec.description, parameters=spec.parameters or {}, strict=spec.strict, extra=extra))
            case "file_search":
                searches.append((index, _converted(raw, FileSearchTool, at)))
            case "custom":
                _converted(raw, CustomTool, at)
                tools.append(ProviderTool(PROVIDER, raw))
            case str():
                # A tool that some server of this dialect runs itself; which backends take it, the policy says.
                tools.append(ProviderTool(PROVIDER, raw))
            case _:
                raise refuse(f"{at}.type", "a tool has a type, such as 'function'.")
    return tools, searches


def _tool_choice(choice: str | ToolChoiceObject | None, raw: Any) -> ToolChoice:
    match choice:
        case None | "auto":
            return ToolChoice("auto")
        case "none":
            return ToolChoice("none")
        case "required":
            return ToolChoice("required")
        case ChooseFunction():
            return ToolChoice("function", choice.function.name)
        case ChooseCustom() | ChooseAllowed():
            return ToolChoice("auto", item=raw)
        case _:
            raise AssertionError(choice)


def _response_format(chosen: Format | None) -> ResponseFormat:
    match chosen:
        case None | FormatText():
            return ResponseFormat()
        case FormatJson():
            return ResponseFormat("json_object")
        case FormatSchema():
            spec = chosen.json_schema
            return ResponseFormat("json_schema", spec.name, spec.schema, spec.strict, spec.description)
