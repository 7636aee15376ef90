"""A request to `/v1/messages` as it stands on the wire: the fields that are checked. What else stands there is kept and passed on.

Blocks are told apart by `type`; one that is not listed here is the provider's own and is never read.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from adapters.types import JsonObject

Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]


class TextBlock(Struct):
    text: str
    cache_control: JsonObject | None = None


class ImageBlock(Struct):
    source: JsonObject
    cache_control: JsonObject | None = None


class DocumentBlock(Struct):
    source: JsonObject
    title: str | None = None
    cache_control: JsonObject | None = None


class ToolUseBlock(Struct):
    id: Annotated[str, Meta(min_length=1)]
    name: Annotated[str, Meta(min_length=1)]
    input: JsonObject
    cache_control: JsonObject | None = None


class ToolResultBlock(Struct):
    tool_use_id: Annotated[str, Meta(min_length=1)]
    content: str | list[JsonObject] | None = None
    is_error: bool | None = None


class ThinkingBlock(Struct):
    thinking: str
    signature: str = ""


class Base64Source(Struct, tag_field="type", tag="base64"):
    media_type: Annotated[str, Meta(pattern=r"^[\w.+-]+/[\w.+-]+$")]
    data: str


class UrlSource(Struct, tag_field="type", tag="url"):
    url: Annotated[str, Meta(pattern="^https?:")]


class TextSource(Struct, tag_field="type", tag="text"):
    data: str
    media_type: Annotated[str, Meta(pattern=r"^text/[\w.+-]+$")] = "text/plain"


class MessageIn(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[JsonObject]


class CustomTool(Struct):
    """A tool the client runs: `type` is `custom` or absent."""

    name: Name
    input_schema: JsonObject
    description: str | None = None
    strict: bool | None = None
    cache_control: JsonObject | None = None


class FileSearchTool(Struct):
    """Headgate's own: ground the answer on the tenant's documents."""

    vector_store_ids: Annotated[list[str], Meta(min_length=1)]
    max_num_results: Annotated[int, Meta(ge=1, le=50)] | None = None


class ToolChoiceIn(Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingIn(Struct):
    type: str
    budget_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


class JsonFormat(Struct):
    type: Literal["json_schema"]
    schema: JsonObject


class OutputConfig(Struct):
    effort: str | None = None
    format: JsonFormat | None = None


class Metadata(Struct):
    user_id: str | None = None


class CountBody(Struct, kw_only=True):
    """What both routes take: everything that makes a prompt."""

    model: Annotated[str, Meta(min_length=1)]
    messages: Annotated[list[MessageIn], Meta(min_length=1)]
    system: str | list[JsonObject] | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    tools: list[JsonObject] | None = None
    tool_choice: ToolChoiceIn | None = None
    thinking: ThinkingIn | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None  # its name while it was in beta, which clients still send
    metadata: Metadata | None = None
    max_tokens: Count | None = None


class MessagesBody(CountBody, kw_only=True):
    max_tokens: Count = field()  # required here, and only here
