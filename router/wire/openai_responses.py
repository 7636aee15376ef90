"""OpenAI's responses dialect in: a request body to core values.

Types are checked strictly, with the field that is wrong; a field this service does not know is kept in `GenerateRequest.extra`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from adapters.types import GenerateRequest, JsonObject, Message, ProviderTool, Reasoning, ResponseFormat, TextPart, Tool, ToolChoice
from router.http.errors import invalid
from router.kept.sealing import Seal
from router.wire.call import Call, Hints
from router.wire.json_in import json_object, unread
from router.wire.openai_responses_items import converted, messages_of, refuse

Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"


class FormatText(Struct, tag_field="type", tag="text"):
    pass


class FormatJson(Struct, tag_field="type", tag="json_object"):
    pass


class FormatSchema(Struct, tag_field="type", tag="json_schema"):
    name: str
    schema: JsonObject
    strict: bool | None = None
    description: str | None = None


class TextConfig(Struct):
    format: FormatText | FormatJson | FormatSchema | None = None
    verbosity: str | None = None


class ReasoningConfig(Struct):
    effort: str | None = None
    summary: str | None = None


class FunctionTool(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FileSearchTool(Struct):
    vector_store_ids: Annotated[list[str], Meta(min_length=1)]
    max_num_results: Annotated[int, Meta(ge=1, le=50)] | None = None
    filters: JsonObject | None = None
    ranking_options: JsonObject | None = None


class NamedTool(Struct):
    name: str


class ConversationId(Struct):
    id: str


class ResponsesBody(Struct):
    model: Annotated[str, Meta(min_length=1)]
    input: str | list[JsonObject] | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: JsonObject | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationId | None = None
    prompt: JsonObject | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[JsonObject] | None = None
    tool_choice: Literal["none", "auto", "required"] | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: JsonObject | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = None
    headgate: Hints | UnsetType = UNSET


_KNOWN = frozenset(ResponsesBody.__struct_fields__)
_READ = {"text": ("format", "verbosity"), "text.format": ("type", "name", "schema", "strict", "description"), "stream_options": ()}
"""The body's objects of which only these fields are read."""


class ResponsesCall(Struct, frozen=True):
    """`echo` is what the answer repeats of the request: the fields of OpenAI's `Response` that say how it was asked for.

    `given` is the request's `input` as it came, each of its items checked, for whoever keeps it.
    """

    call: Call
    echo: JsonObject
    given: str | list[JsonObject] | None = None


def decode_responses(body: bytes, seal: Seal) -> ResponsesCall:
    """Decode a request; `seal` opens the parts that an earlier answer gave the client. Raises `ApiError` 400 that names the field at fault."""
    fields = json_object(body, "'model' and 'input'")
    try:
        asked = msgspec.convert(fields, ResponsesBody)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    _check(asked)
    tools, searches = _tools(asked.tools or [])
    include = asked.include or []
    extra = {name: value for name, value in fields.items() if name not in _KNOWN and value is not None}
    if other := [name for name in include if name not in (LOGPROBS, ENCRYPTED)]:
        extra["include"] = other
    if asked.store:
        extra["store"] = True
    request = GenerateRequest(
        dialect="openai.responses",
        messages=(*_instructions(asked), *messages_of(asked.input or [], seal)),
        max_output_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        tools=tools,
        tool_choice=_tool_choice(asked.tool_choice),
        parallel_tool_calls=asked.parallel_tool_calls,
        response_format=_response_format(asked.text),
        reasoning=_reasoning(asked.reasoning),
        verbosity=asked.text.verbosity if asked.text else None,
        logprobs=(asked.top_logprobs or 0) if LOGPROBS in include or asked.top_logprobs else None,
        metadata=asked.metadata or {},
        extra=extra,
    )
    place, search = searches[0] if searches else (0, None)
    call = Call(
        request=request,
        model=asked.model,
        stream=bool(asked.stream),
        include_usage=True,
        hints=Hints() if asked.headgate is UNSET else asked.headgate,
        stores=tuple(store for _, each in searches for store in each.vector_store_ids),
        stores_param=f"tools[{place}].vector_store_ids" if search else "tools",
        search_limit=search.max_num_results if search else None,
        store=asked.store is not False,
        previous_response_id=asked.previous_response_id,
        conversation=asked.conversation.id if isinstance(asked.conversation, ConversationId) else asked.conversation,
        unread=unread(fields, {**_READ, **({"tool_choice": ("type", "name")} if request.tool_choice.item is None else {})}),
    )
    return ResponsesCall(call, _echo(asked, call, fields), asked.input)


def _check(asked: ResponsesBody) -> None:
    if asked.prompt is not None:
        raise refuse("prompt", "prompts that OpenAI keeps cannot be used here; send their text as 'instructions' and 'input'")
    if asked.previous_response_id and asked.conversation:
        raise refuse("previous_response_id", "a response continues another one or a conversation, not both")
    if not asked.input and not (asked.previous_response_id or asked.conversation):
        raise refuse("input", "say something: a text, or a list of items")


def _instructions(asked: ResponsesBody) -> tuple[Message, ...]:
    """The instructions of this request alone: `extra` says so, for whoever keeps the conversation."""
    return () if asked.instructions is None else (Message("system", (TextPart(asked.instructions),), extra={"instructions": True}),)


def _tools(given: list[JsonObject]) -> tuple[tuple[Tool | ProviderTool, ...], list[tuple[int, FileSearchTool]]]:
    """The tools a model is told of, and the searches that Headgate makes itself, each with its place in the list."""
    tools: list[Tool | ProviderTool] = []
    searches: list[tuple[int, FileSearchTool]] = []
    for index, item in enumerate(given):
        where = f"tools[{index}]"
        match item.get("type"):
            case "function":
                spec = converted(item, FunctionTool, where)
                beyond = {key: value for key, value in item.items() if key not in ("type", *FunctionTool.__struct_fields__)}
                tools.append(Tool(spec.name, spec.description, spec.parameters or {}, spec.strict, extra=beyond))
            case "file_search":
                search = converted(item, FileSearchTool, where)
                if search.filters is not None or search.ranking_options is not None:
                    raise refuse(
                        f"{where}.{'filters' if search.filters is not None else 'ranking_options'}", "the search here knows neither filters nor ranking"
                    )
                searches.append((index, search))
            case str():
                tools.append(ProviderTool("openai", item))
            case _:
                raise refuse(f"{where}.type", "a tool has a type")
    return tuple(tools), searches


def _tool_choice(choice: str | JsonObject | None) -> ToolChoice:
    match choice:
        case None | "auto":
            return ToolChoice("auto")
        case "none":
            return ToolChoice("none")
        case "required":
            return ToolChoice("required")
        case {"type": "function"}:
            return ToolChoice("function", converted(choice, NamedTool, "tool_choice").name)
        case {"type": "file_search"}:  # Headgate searches before the model is asked, whatever it chooses
            return ToolChoice("auto")
        case dict() if isinstance(choice.get("type"), str):
            return ToolChoice("auto", item=choice)
        case _:
            raise refuse("tool_choice.type", "a choice of tools has a type")


def _response_format(text: TextConfig | None) -> ResponseFormat:
    match text.format if text else None:
        case None | FormatText():
            return ResponseFormat()
        case FormatJson():
            return ResponseFormat("json_object")
        case FormatSchema() as chosen:
            return ResponseFormat("json_schema", chosen.name, chosen.schema, chosen.strict, chosen.description)


def _reasoning(given: JsonObject | None) -> Reasoning | None:
    if not given:
        return None
    known = converted(given, ReasoningConfig, "reasoning")
    beyond = {key: value for key, value in given.items() if key not in ReasoningConfig.__struct_fields__ and value is not None}
    return Reasoning(effort=known.effort, summary=known.summary, extra=beyond)


def _echo(asked: ResponsesBody, call: Call, fields: JsonObject) -> JsonObject:
    text: JsonObject = {"format": fields["text"]["format"] if asked.text and asked.text.format else {"type": "text"}}
    if asked.text and asked.text.verbosity:
        text["verbosity"] = asked.text.verbosity
    echo: JsonObject = {
        "background": False,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "reasoning": {"effort": None, "summary": None, **(asked.reasoning or {})},
        "store": call.store,
        "temperature": asked.temperature,
        "text": text,
        "tool_choice": asked.tool_choice or "auto",
        "tools": [_tool_echo(tool) for tool in asked.tools or ()],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": asked.top_p,
        "truncation": fields["truncation"] if fields.get("truncation") in ("auto", "disabled") else "disabled",
    }
    if call.conversation is not None:
        echo["conversation"] = {"id": call.conversation}
    return echo | {name: fields[name] for name in ("user", "safety_identifier", "prompt_cache_key") if isinstance(fields.get(name), str)}


def _tool_echo(tool: JsonObject) -> JsonObject:
    """A function's `strict` and `parameters` stand in every answer, also where the request left them out."""
    said = {key: value for key, value in tool.items() if value is not None}
    return {"parameters": None, "strict": True, **said} if said["type"] == "function" else said
