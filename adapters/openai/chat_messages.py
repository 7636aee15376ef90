"""Messages in the words of OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from adapters.errors import UnsupportedFeature
from adapters.openai.chat_stream import PROVIDER
from adapters.remote_content import own_item
from adapters.types import AudioPart, FilePart, ImagePart, JsonObject, Message, Part, ProviderPart, RefusalPart, TextPart, ToolCallPart

REFERENCES = ("file_id", "audio")
"""Content that the provider itself keeps: nobody here knows how long it is, nor whose it was."""

THOUGHTS = frozenset({"reasoning_content", "reasoning"})
"""Fields of an earlier answer that clients send back with it: maybe another provider's thoughts. Only a server that is said to want them gets them."""

ONLY_SAID = frozenset({"annotations"})
"""Fields that an answer has and no request: clients send them back, nobody wants them."""

Content = str | list[JsonObject] | None
RESULT_MEDIA_TOKENS = 40
"""At most what the message that carries a tool result's pictures adds, without the call's id."""


class Server(Struct, frozen=True):
    """Who is spoken to. `official`: OpenAI itself. `verbatim`: the request came in this dialect, so what stood beside its parts goes out again.

    `cached`: marks for prompt caching are in OpenAI's words. `references`: those of `REFERENCES` that this server may be sent, `thoughts` those of
    `THOUGHTS`. `word`: whose opaque parts are this server's own.
    """

    official: bool
    verbatim: bool
    cached: bool
    references: frozenset[str]
    thoughts: frozenset[str] = frozenset()
    word: str = PROVIDER


def wire_messages(messages: Sequence[Message], server: Server) -> list[JsonObject]:
    """Raises `UnsupportedFeature` for a part that this server cannot be given.

    A tool's result may only be text. Its pictures and files follow in a user's message, behind all results of the same turn: between these, the API
    allows nothing.
    """
    wire: list[JsonObject] = []
    pending: list[JsonObject] = []
    for message in messages:
        if message.role == "tool":
            text = tuple(part for part in message.parts if isinstance(part, TextPart))
            wire.append(_message(message, text, server))
            if media := [part for part in message.parts if isinstance(part, ImagePart | FilePart | AudioPart)]:
                pending.append({"type": "text", "text": f"From the result of tool call {message.tool_call_id}:"})
                pending += [_content_part(part, server) for part in media]
            continue
        if pending:
            wire.append({"role": "user", "content": pending})
            pending = []
        wire.append(_message(message, message.parts, server))
    return [*wire, {"role": "user", "content": pending}] if pending else wire


def _message(message: Message, parts: Sequence[Part], server: Server) -> JsonObject:
    # The developer's role is OpenAI's own; other servers' chat templates refuse it.
    role = "system" if message.role == "developer" and not server.official else message.role
    wire: JsonObject = dict(_beside(message, server)) if message.extra else {}
    wire["role"] = role
    only = parts[0] if len(parts) == 1 else None
    if isinstance(only, TextPart) and only.cache is None and not only.extra:
        wire["content"] = only.text  # nearly every message
    else:
        _say(wire, parts, server)
    if message.name is not None and role != "tool":
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _beside(message: Message, server: Server) -> JsonObject:
    if not server.verbatim:
        return {}
    left_out = ONLY_SAID | (THOUGHTS - server.thoughts)
    return {name: value for name, value in message.extra.items() if name not in left_out}


def _say(wire: JsonObject, parts: Sequence[Part], server: Server) -> None:
    content: list[JsonObject] = []
    calls: list[JsonObject] = []
    last_said = next((part for part in reversed(parts) if isinstance(part, TextPart | RefusalPart)), None)
    for part in parts:
        match part:
            case ToolCallPart():
                calls.append(_call(part, server))
            case ProviderPart():
                if (item := own_item(part, PROVIDER, server.word)) is not None:
                    _item(item, content, wire, server)
            case RefusalPart():
                if not server.official:
                    content.append({"type": "text", "text": part.text})
                elif part is last_said:
                    wire["refusal"] = part.text
                else:
                    content.append({"type": "refusal", "refusal": part.text})
            case TextPart() | ImagePart() | FilePart() | AudioPart():
                content.append(_content_part(part, server))
    if not server.official:
        _give_back(parts, calls, wire, server.word)
    wire["content"] = _content(content, nothing=None if calls or "refusal" in wire or "audio" in wire else "")
    if calls:
        wire["tool_calls"] = calls


def _content(parts: list[JsonObject], nothing: str | None) -> Content:
    """A plain string for a single text: every server takes that."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return str(parts[0]["text"])
    return parts or nothing


def _content_part(part: TextPart | ImagePart | FilePart | AudioPart, server: Server) -> JsonObject:
    wire: JsonObject
    match part:
        case TextPart():
            wire = {"type": "text", "text": part.text}
        case ImagePart():
            wire = {"type": "image_url", "image_url": {"url": part.url} if part.detail is None else {"url": part.url, "detail": part.detail}}
        case FilePart():
            if not part.url.startswith("data:"):
                raise UnsupportedFeature("OpenAI's chat completions take a file as a data: URL only", param="messages")
            # Without a name the API refuses the file.
            wire = {"type": "file", "file": {"filename": part.filename or "document.pdf", "file_data": part.url}}
        case AudioPart():
            wire = {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
    if part.cache is not None and server.cached:
        wire["prompt_cache_breakpoint"] = part.cache
    if part.extra and server.verbatim:
        _merge(wire, part.extra)
    return wire


def _call(part: ToolCallPart, server: Server) -> JsonObject:
    beside = part.extra if server.verbatim else {}
    if beside.get("type") == "custom":
        return {**beside, "id": part.id, "custom": {"name": part.name, "input": part.arguments}}
    return {**beside, "id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}


def _item(item: JsonObject, content: list[JsonObject], wire: JsonObject, server: Server) -> None:
    """An opaque part that is content. What belongs only to an answer (annotations, the provider's moderation) does not go back."""
    for kind in REFERENCES:
        if kind in (item if kind == "audio" else item.get("file", ())):
            if kind not in server.references:
                raise UnsupportedFeature(f"this backend is not sent what the provider keeps (`pass_through: [{kind}]` would allow it)", param="messages")
            if kind == "audio":
                wire["audio"] = {"id": item["audio"].get("id")}
            else:
                content.append(item)


def _give_back(parts: Sequence[Part], calls: list[JsonObject], wire: JsonObject, word: str) -> None:
    """`extra_content` to where it stood: a call, or the message. It is Gemini's, when it speaks this dialect; OpenAI knows no such field."""
    for part in parts:
        if isinstance(part, ProviderPart) and part.provider == word and "extra_content" in part.item:
            where = part.item.get("toolCallId")
            for place in [wire] if where is None else [call for call in calls if call["id"] == where]:
                place["extra_content"] = part.item["extra_content"]


def _merge(wire: JsonObject, extra: JsonObject) -> None:
    """Unknown fields where they stood: beside a part's own, or one level inside it."""
    for name, value in extra.items():
        inner = wire.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            wire[name] = {**value, **inner}
        else:
            wire.setdefault(name, value)


def held_by_the_provider(item: JsonObject) -> bool:
    """Whether an opaque part of this dialect stands for content of unknown length."""
    return "audio" in item or "file_id" in item.get("file", ())
