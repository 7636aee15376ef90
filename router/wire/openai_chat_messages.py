"""OpenAI's chat dialect in: messages and their parts."""

from __future__ import annotations

import mimetypes
from collections.abc import Set
from typing import TYPE_CHECKING

from adapters.openai.chat_request import ContentAudio, ContentFile, ContentImage, ContentPart, ContentRefusal, ContentText, ToolCall
from adapters.openai.chat_stream import PROVIDER
from adapters.types import AudioPart, FilePart, ImagePart, JsonObject, Message, Part, ProviderPart, RefusalPart, TextPart, ToolCallPart
from router.http.errors import ApiError

if TYPE_CHECKING:
    from router.wire.openai_chat import ChatMessage

__all__ = ["PROVIDER", "core_message", "refuse", "unknown"]

_ROLES_ALONE = {"refusal": "assistant", "audio": "assistant", "tool_calls": "assistant", "tool_call_id": "tool"}
"""Fields that only one role's messages have."""

_FIELDS = frozenset({"role", "content", "name", "refusal", "audio", "tool_calls", "tool_call_id", "function_call", "headgate"})


def refuse(param: str, why: str) -> ApiError:
    return ApiError(400, "invalid_request", f"{param}: {why}", param=param)


def unknown(raw: JsonObject, known: Set[str]) -> JsonObject:
    """The fields of an object that this service does not know."""
    return {name: value for name, value in raw.items() if name not in known} if raw.keys() - known else {}


def core_message(message: ChatMessage, raw: JsonObject, at: str, opened: tuple[ProviderPart, ...]) -> Message:
    """`at` is the message's place in the body, `opened` the opaque parts that came back with it. Raises `ApiError` 400."""
    role = message.role
    if role == "function":
        raise refuse(f"{at}.role", "the legacy role 'function' is not supported; answer a tool call with a message of role 'tool'.")
    if message.function_call is not None:
        raise refuse(f"{at}.function_call", "the legacy field is not supported; send 'tool_calls'.")
    if raw.keys() & _ROLES_ALONE.keys():
        for field, alone in _ROLES_ALONE.items():
            if getattr(message, field) is not None and role != alone:
                raise refuse(f"{at}.{field}", f"only a message of role '{alone}' has it.")
    parts: list[Part] = list(opened)
    match message.content:
        case str():
            parts.append(TextPart(message.content))
        case list():
            parts += [_part(part, piece, f"{at}.content[{index}]") for index, (part, piece) in enumerate(zip(message.content, raw["content"], strict=True))]
        case None:
            if role != "assistant":
                raise refuse(f"{at}.content", f"a {role} message needs content.")
    if role == "tool" and not message.tool_call_id:
        raise refuse(f"{at}.tool_call_id", "a tool message names the call it answers.")
    if message.audio is not None:
        parts.append(ProviderPart(PROVIDER, {"audio": {"id": message.audio.id}}, required=True))
    if message.refusal is not None:
        parts.append(RefusalPart(message.refusal))
    for index, call in enumerate(message.tool_calls or ()):
        parts.append(_call(call, raw["tool_calls"][index], f"{at}.tool_calls[{index}]"))
    return Message(role=role, parts=tuple(parts), name=message.name, tool_call_id=message.tool_call_id, extra=unknown(raw, _FIELDS))


def _part(part: ContentPart, raw: JsonObject, at: str) -> Part:
    match part:
        case ContentText():
            return TextPart(part.text, part.prompt_cache_breakpoint, _beside(raw, "text"))
        case ContentImage():
            return ImagePart(part.image_url.url, part.image_url.detail, part.prompt_cache_breakpoint, _beside(raw, "image_url", "url", "detail"))
        case ContentAudio():
            return AudioPart(part.input_audio.data, part.input_audio.format, part.prompt_cache_breakpoint, _beside(raw, "input_audio", "data", "format"))
        case ContentFile():
            return _file(part, raw, at)
        case ContentRefusal():
            return RefusalPart(part.refusal)


def _file(part: ContentFile, raw: JsonObject, at: str) -> Part:
    file = part.file
    if file.file_id is not None:
        return ProviderPart(PROVIDER, raw, required=True)
    if file.file_data is None:
        raise refuse(f"{at}.file", "it needs 'file_data' or 'file_id'.")
    url = file.file_data
    if not url.startswith(("data:", "https:", "http:")):
        url = f"data:{_media_type(file.filename)};base64,{url}"
    return FilePart(url, file.filename, part.prompt_cache_breakpoint, _beside(raw, "file", "file_data", "filename", "file_id"))


def _media_type(filename: str | None) -> str:
    return (mimetypes.guess_type(filename)[0] if filename else None) or "application/pdf"


def _beside(raw: JsonObject, kind: str, *fields: str) -> JsonObject:
    """What else stands on a part, and inside the object that holds its content."""
    if len(raw) == 2 and not fields:
        return {}
    extra = unknown(raw, {"type", kind, "prompt_cache_breakpoint"})
    if fields and (inner := unknown(raw[kind], set(fields))):
        extra[kind] = inner
    return extra


def _call(call: ToolCall, raw: JsonObject, at: str) -> ToolCallPart:
    if call.type == "custom":
        if call.custom is None:
            raise refuse(f"{at}.custom", "a call of type 'custom' has it.")
        extra = unknown(raw, {"id", "custom", "function"})
        return ToolCallPart(call.id, call.custom.name, call.custom.input, extra=extra)
    if call.function is None:
        raise refuse(f"{at}.function", "a call of type 'function' has it.")
    return ToolCallPart(call.id, call.function.name, call.function.arguments, extra=unknown(raw, {"id", "type", "function", "custom"}))
