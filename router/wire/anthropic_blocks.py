"""Content blocks of Anthropic's messages to parts and messages, each checked, with the place of what is wrong."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from adapters.anthropic.content import INVALID_JSON
from adapters.anthropic.wire import (
    Base64Source,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    TextSource,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
)
from adapters.types import FilePart, ImagePart, JsonObject, Message, Part, ProviderPart, TextPart, ToolCallPart
from router.http.errors import ApiError, invalid
from router.kept.sealing import PREFIX, Seal

T = TypeVar("T")
PROVIDER = "anthropic"
Role: TypeAlias = Literal["user", "assistant", "system"]


def read(value: Any, into: type[T], where: str) -> T:
    """Convert what stands at `where` in the body. Raises `ApiError` 400 that names the field from the body's root."""
    try:
        return msgspec.convert(value, into)
    except msgspec.ValidationError as error:
        failure = invalid(error)
        if not where:
            raise failure from error
        path = f"{where}.{failure.param}" if failure.param else where
        text = failure.message.removeprefix(f"{failure.param}: ") if failure.param else failure.message
        raise ApiError(400, "invalid_request", f"{path}: {text}", param=path) from error


def rest(value: JsonObject, known: Iterable[str]) -> JsonObject:
    """What else stands there."""
    names = frozenset(known)
    return {name: kept for name, kept in value.items() if name not in names}


def fields_of(struct: Struct) -> tuple[str, ...]:
    return (*struct.__struct_fields__, "type")


def messages_of(role: Role, content: str | list[JsonObject], extra: JsonObject, where: str, seal: Seal) -> tuple[Message, ...]:
    """A message of the client's as one of ours; each tool result in it as one of its own, in the order in which they stand."""
    if isinstance(content, str):
        return (Message(role, (TextPart(content),), extra=extra),)
    messages: list[Message] = []
    parts: list[Part] = []
    inside = where if where == "system" else f"{where}.content"
    for place, block in enumerate(content):
        at = f"{inside}[{place}]"
        if block.get("type") == "tool_result" and role == "user":
            if parts:
                messages.append(Message(role, tuple(parts), extra=extra))
                parts = []
            messages.append(_result(block, at, seal))
        else:
            parts += _parts(block, role, at, seal)
    if parts or not messages:
        messages.append(Message(role, tuple(parts), extra=extra))
    return tuple(messages)


def _result(block: JsonObject, where: str, seal: Seal) -> Message:
    result = read(block, ToolResultBlock, where)
    parts: list[Part] = []
    if isinstance(result.content, str):
        parts.append(TextPart(result.content))
    for place, inner in enumerate(result.content if isinstance(result.content, list) else ()):
        parts += _parts(inner, "user", f"{where}.content[{place}]", seal)
    return Message("tool", tuple(parts), tool_call_id=result.tool_use_id, is_error=result.is_error, extra=rest(block, fields_of(result)))


def _parts(block: JsonObject, role: Role, where: str, seal: Seal) -> list[Part]:
    """The parts of one block: several, one, or none for a token of ours that no longer opens (the conversation stands without it)."""
    match block.get("type"):
        case "text":
            text = read(block, TextBlock, where)
            return [TextPart(text.text, text.cache_control, rest(block, fields_of(text)))]
        case "image":
            return [_image(block, where)]
        case "document":
            return [_document(block, where)]
        case "tool_use" if role == "assistant":
            call = read(block, ToolUseBlock, where)
            return [ToolCallPart(call.id, call.name, _arguments(call.input), call.cache_control, rest(block, fields_of(call)))]
        case "thinking" if role == "assistant":
            thinking = read(block, ThinkingBlock, where)
            if not thinking.signature.startswith(PREFIX):
                return [ProviderPart(PROVIDER, block)]
            return list(seal.open(thinking.signature) or ())
        case "tool_use" | "tool_result" | "thinking" | "redacted_thinking" if role == "user":
            raise ApiError(400, "invalid_request", f"{where}.type: a user message has no `{block['type']}` block.", param=f"{where}.type")
        case str():
            # What a user's message holds, it means; what a turn of the model's or the system holds, another model can go on without.
            return [ProviderPart(PROVIDER, block, required=role == "user" and block["type"] != "tool_reference")]
        case _:
            raise ApiError(400, "invalid_request", f"{where}.type: every block has a `type`, a string.", param=f"{where}.type")


def _arguments(arguments: JsonObject) -> str:
    """The JSON text of a call's input; arguments that were none come back as they were."""
    said = arguments.get(INVALID_JSON)
    if isinstance(said, str) and len(arguments) == 1:
        return said
    return msgspec.json.encode(arguments).decode()


def _image(block: JsonObject, where: str) -> Part:
    image = read(block, ImageBlock, where)
    extra = rest(block, fields_of(image))
    at = f"{where}.source"
    match image.source.get("type"):
        case "base64":
            source = read(image.source, Base64Source, at)
            return ImagePart(f"data:{source.media_type};base64,{source.data}", cache=image.cache_control, extra=extra)
        case "url":
            return ImagePart(read(image.source, UrlSource, at).url, cache=image.cache_control, extra=extra)
        case _:
            return ProviderPart(PROVIDER, block, required=True)


def _document(block: JsonObject, where: str) -> Part:
    document = read(block, DocumentBlock, where)
    extra = rest(block, fields_of(document))
    at = f"{where}.source"
    match document.source.get("type"):
        case "base64":
            source = read(document.source, Base64Source, at)
            url = f"data:{source.media_type};base64,{source.data}"
        case "text":
            text = read(document.source, TextSource, at)
            url = f"data:{text.media_type};base64,{base64.b64encode(text.data.encode()).decode()}"
        case "url":
            url = read(document.source, UrlSource, at).url
        case _:
            return ProviderPart(PROVIDER, block, required=True)
    return FilePart(url, document.title, document.cache_control, extra)
