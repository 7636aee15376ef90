"""OpenAI's chat dialect in: a request body to core values.

Types are checked strictly, with the field that is wrong; a field this service does not know is kept in `GenerateRequest.extra`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from adapters.types import (
    GenerateRequest,
    ImagePart,
    JsonObject,
    Message,
    Part,
    ProviderPart,
    Reasoning,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
)
from router.http.errors import ApiError, invalid
from router.sealing import Seal
from router.wire.call import Call, Hints

Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class ContentText(Struct, tag_field="type", tag="text"):
    text: str


class ImageUrl(Struct):
    url: str
    detail: str | None = None


class ContentImage(Struct, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class ContentRefusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


Content: TypeAlias = str | list[ContentText | ContentImage | ContentRefusal] | None


class FunctionCall(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class Sealed(Struct):
    """What an answer's `headgate` held: one token, or one for each delta of a stream."""

    sealed: str | list[str] = msgspec.field(default_factory=list)


class ChatMessage(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    headgate: Sealed = msgspec.field(default_factory=Sealed)


class FunctionSpec(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FunctionTool(Struct, tag_field="type", tag="function"):
    function: FunctionSpec


class FileSearchTool(Struct, tag_field="type", tag="file_search"):
    vector_store_ids: Annotated[list[str], Meta(min_length=1)]
    max_num_results: Annotated[int, Meta(ge=1, le=50)] | None = None


class NamedFunction(Struct):
    name: str


class NamedToolChoice(Struct):
    function: NamedFunction
    type: Literal["function"] = "function"


class FormatText(Struct, tag_field="type", tag="text"):
    pass


class FormatJson(Struct, tag_field="type", tag="json_object"):
    pass


class SchemaSpec(Struct):
    name: str
    schema: JsonObject | None = None
    strict: bool | None = None
    description: str | None = None


class FormatSchema(Struct, tag_field="type", tag="json_schema"):
    json_schema: SchemaSpec


class StreamOptions(Struct):
    include_usage: bool | None = None


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
    tools: list[FunctionTool | FileSearchTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: FormatText | FormatJson | FormatSchema | None = None
    reasoning_effort: str | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    metadata: dict[str, str] | None = None
    headgate: Hints | UnsetType = UNSET


_KNOWN = frozenset(ChatBody.__struct_fields__)
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def decode_chat(body: bytes, seal: Seal) -> Call:
    """Decode a chat request; `seal` opens the parts that an earlier answer gave the client. Raises `ApiError` 400 that names the field at fault."""
    try:
        fields = _decode_object(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_json", f"The body is not a JSON object: {error}. Send a JSON object with 'model' and 'messages'.") from error
    except RecursionError as error:
        raise ApiError(400, "invalid_json", "The body is nested too deeply.") from error
    try:
        chat = msgspec.convert(fields, ChatBody)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    extra = {name: value for name, value in fields.items() if name not in _KNOWN}
    tools = chat.tools or []
    searches = [(index, tool) for index, tool in enumerate(tools) if isinstance(tool, FileSearchTool)]
    stop = chat.stop
    request = GenerateRequest(
        messages=tuple(_message(message, index, _opened(message, seal)) for index, message in enumerate(chat.messages)),
        max_output_tokens=chat.max_completion_tokens or chat.max_tokens,
        temperature=chat.temperature,
        top_p=chat.top_p,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        seed=chat.seed,
        tools=tuple(_tool(tool) for tool in tools if isinstance(tool, FunctionTool)),
        tool_choice=_tool_choice(chat.tool_choice),
        parallel_tool_calls=chat.parallel_tool_calls,
        response_format=_response_format(chat.response_format),
        reasoning=None if chat.reasoning_effort is None else Reasoning(effort=chat.reasoning_effort),
        logprobs=(chat.top_logprobs or 0) if chat.logprobs else None,
        n=chat.n or 1,
        metadata=chat.metadata or {},
        extra=extra,
    )
    return Call(
        request=request,
        model=chat.model,
        stream=bool(chat.stream),
        include_usage=bool(chat.stream_options and chat.stream_options.include_usage),
        hints=Hints() if chat.headgate is UNSET else chat.headgate,
        stores=tuple(store for _, tool in searches for store in tool.vector_store_ids),
        stores_param=f"tools[{searches[0][0]}].vector_store_ids" if searches else "tools",
        search_limit=searches[0][1].max_num_results if searches else None,
    )


def _opened(message: ChatMessage, seal: Seal) -> tuple[ProviderPart, ...]:
    """The opaque parts of an earlier answer that the client gave back. What cannot be opened is left out: the answer stands without it."""
    tokens = [message.headgate.sealed] if isinstance(message.headgate.sealed, str) else message.headgate.sealed
    return tuple(part for token in tokens for part in seal.open(token) or ())


def _message(message: ChatMessage, index: int, opened: tuple[ProviderPart, ...]) -> Message:
    parts: list[Part] = list(opened)
    match message.content:
        case str():
            parts.append(TextPart(message.content))
        case list():
            parts += [_part(part) for part in message.content]
        case None:
            if message.role != "assistant":
                where = f"messages[{index}].content"
                raise ApiError(400, "invalid_request", f"{where}: a {message.role} message needs content.", param=where)
    if message.role == "tool" and not message.tool_call_id:
        raise ApiError(
            400, "invalid_request", f"messages[{index}].tool_call_id: a tool message names the call it answers.", param=f"messages[{index}].tool_call_id"
        )
    parts += [ToolCallPart(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    return Message(role=message.role, parts=tuple(parts), name=message.name, tool_call_id=message.tool_call_id)


def _part(part: ContentText | ContentImage | ContentRefusal) -> Part:
    match part:
        case ContentText():
            return TextPart(part.text)
        case ContentImage():
            return ImagePart(part.image_url.url, part.image_url.detail)
        case ContentRefusal():
            return TextPart(part.refusal)


def _tool(tool: FunctionTool) -> Tool:
    spec = tool.function
    return Tool(name=spec.name, description=spec.description, parameters=spec.parameters or {}, strict=spec.strict)


def _tool_choice(choice: str | NamedToolChoice | None) -> ToolChoice:
    match choice:
        case None | "auto":
            return ToolChoice("auto")
        case "none":
            return ToolChoice("none")
        case "required":
            return ToolChoice("required")
        case NamedToolChoice():
            return ToolChoice("function", choice.function.name)
        case _:
            raise AssertionError(choice)


def _response_format(chosen: FormatText | FormatJson | FormatSchema | None) -> ResponseFormat:
    match chosen:
        case None | FormatText():
            return ResponseFormat()
        case FormatJson():
            return ResponseFormat("json_object")
        case FormatSchema():
            spec = chosen.json_schema
            return ResponseFormat("json_schema", spec.name, spec.schema, spec.strict)
