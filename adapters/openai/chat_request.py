"""A chat completion request, as clients send it: the wire structs that `router.wire.openai_chat` reads strictly.

Only types are said here. What stands beside these fields is kept as the dialect's own (`extra`).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from adapters.types import JsonObject

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]


class ContentText(Struct, tag_field="type", tag="text"):
    text: str
    prompt_cache_breakpoint: JsonObject | None = None


class ImageUrl(Struct):
    url: str
    detail: str | None = None


class ContentImage(Struct, tag_field="type", tag="image_url"):
    image_url: ImageUrl
    prompt_cache_breakpoint: JsonObject | None = None


class InputAudio(Struct):
    data: str
    format: str


class ContentAudio(Struct, tag_field="type", tag="input_audio"):
    input_audio: InputAudio
    prompt_cache_breakpoint: JsonObject | None = None


class FileData(Struct):
    """`file_data` is a `data:` URL, or base64 alone; `file_id` names a file that the provider keeps."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class ContentFile(Struct, tag_field="type", tag="file"):
    file: FileData
    prompt_cache_breakpoint: JsonObject | None = None


class ContentRefusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


ContentPart: TypeAlias = ContentText | ContentImage | ContentAudio | ContentFile | ContentRefusal


class FunctionCall(Struct):
    name: str
    arguments: str


class CustomCall(Struct):
    name: str
    input: str


class ToolCall(Struct):
    id: str
    type: Literal["function", "custom"] = "function"
    function: FunctionCall | None = None
    custom: CustomCall | None = None


class AudioReference(Struct):
    """Spoken output of an earlier answer, which the provider keeps."""

    id: str


class FunctionSpec(Struct):
    name: Name
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class FunctionTool(Struct):
    function: FunctionSpec
    type: Literal["function"] = "function"


class CustomSpec(Struct):
    name: Name


class CustomTool(Struct):
    custom: CustomSpec
    type: Literal["custom"] = "custom"


class Named(Struct):
    name: str


class ChooseFunction(Struct, tag_field="type", tag="function"):
    function: Named


class ChooseCustom(Struct, tag_field="type", tag="custom"):
    custom: Named


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: list[JsonObject]


class ChooseAllowed(Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


ToolChoiceWord: TypeAlias = Literal["none", "auto", "required"]
ToolChoiceObject: TypeAlias = ChooseFunction | ChooseCustom | ChooseAllowed


class FormatText(Struct, tag_field="type", tag="text"):
    pass


class FormatJson(Struct, tag_field="type", tag="json_object"):
    pass


class SchemaSpec(Struct, forbid_unknown_fields=True):
    name: str
    schema: JsonObject | None = None
    strict: bool | None = None
    description: str | None = None


class FormatSchema(Struct, tag_field="type", tag="json_schema"):
    json_schema: SchemaSpec


Format: TypeAlias = FormatText | FormatJson | FormatSchema


class StreamOptions(Struct):
    include_usage: bool | None = None
