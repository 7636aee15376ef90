"""A conversation in Gemini's words: user and model turns made of parts. Pure.

Sources: the API's reference for Content, Part, FunctionResponse and thought signatures, and what google-genai 3.4 sends.
"""

from __future__ import annotations

import mimetypes
import re
from urllib.parse import urlsplit

import msgspec

from adapters.errors import UnsupportedFeature
from adapters.gemini.content_stream import PROVIDER
from adapters.gemini.models import Model
from adapters.remote_content import call_arguments, data_url, own_item
from adapters.types import (
    AudioPart,
    FilePart,
    ImagePart,
    JsonObject,
    Message,
    Part,
    ProviderPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
    decode_json_object,
)

NO_SIGNATURE = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
"""Google's stand-in ("skip_thought_signature_validator") for tool calls that another model made, or whose signature the client lost."""

_LONG = re.compile(rb'"(?:fileData|file_data)"|"(?:mimeType|mime_type)":"(?:video/|application/pdf)')

AUDIO = {"wav": "audio/wav", "mp3": "audio/mp3", "aac": "audio/aac", "flac": "audio/flac", "ogg": "audio/ogg", "aiff": "audio/aiff"}


def system_parts(messages: tuple[Message, ...]) -> list[JsonObject]:
    """All instructions, wherever they stand: Gemini takes them beside the conversation only."""
    return [{"text": message.text} for message in messages if message.role in ("system", "developer") and message.text]


def contents(messages: tuple[Message, ...], model: Model) -> list[JsonObject]:
    """User and model turns. All results of parallel calls stand in one turn, and nothing else in it; other neighbours of one role become one turn.

    Raises `UnsupportedFeature` for a part that Gemini does not take and `InvalidRequest` for one that is malformed.
    """
    names = {part.id: part.name for message in messages for part in message.parts if isinstance(part, ToolCallPart)}
    turns = _Turns()
    for message in messages:
        match message.role:
            case "system" | "developer":
                pass
            case "tool":
                result, files = _result(message, names, model)
                turns.add("results", [result])
                turns.follow(files)
            case "assistant":
                turns.add("model", _model_parts(message, model))
            case "user":
                turns.add("user", [wire for part in message.parts for wire in _media(part, model)])
    return turns.finished()


class _Turns:
    """Turns as they come together. Files that came with results wait until the last of the results is there."""

    def __init__(self) -> None:
        self._turns: list[tuple[str, list[JsonObject]]] = []
        self._files: list[JsonObject] = []

    def follow(self, files: list[JsonObject]) -> None:
        self._files += files

    def add(self, kind: str, parts: list[JsonObject]) -> None:
        if kind != "results" and self._files:
            files, self._files = self._files, []
            self.add("user", files)
        if not parts:
            return
        if self._turns and self._turns[-1][0] == kind:
            self._turns[-1][1].extend(parts)
        else:
            self._turns.append((kind, parts))

    def finished(self) -> list[JsonObject]:
        """Gemini's turns begin with the user's: an empty one stands in where the conversation has none there, or is nothing but instructions."""
        self.add("user", [])
        turns = [{"role": "model" if kind == "model" else "user", "parts": parts} for kind, parts in self._turns]
        return turns if turns and turns[0]["role"] == "user" else [{"role": "user", "parts": [{"text": ""}]}, *turns]


def of_unknown_length(messages: tuple[Message, ...]) -> bool:
    """Whether something is sent whose tokens nobody here can know: a PDF (its pages count), a video, what Google fetches by itself."""
    for message in messages:
        for part in message.parts:
            if isinstance(part, FilePart) and part.url.startswith(("data:application/pdf", "data:video/")):
                return True
            if isinstance(part, FilePart) and not part.url.startswith("data:"):
                return True
            if isinstance(part, ProviderPart) and part.provider == PROVIDER and _LONG.search(msgspec.json.encode(part.item)):
                return True
    return False


# --- parts ---------------------------------------------------------------------------------------------------------------------------


def _media(part: Part, model: Model) -> list[JsonObject]:
    """What a user or a tool may say."""
    match part:
        case TextPart() | RefusalPart():
            return [{"text": part.text}] if part.text else []
        case ImagePart() | FilePart():
            return [_file(part, model)]
        case AudioPart():
            kind = AUDIO.get(part.format)
            if kind is None:
                raise UnsupportedFeature(f"Gemini does not take audio as {part.format!r}", param="messages")
            return [{"inlineData": {"mimeType": kind, "data": part.data}}]
        case ProviderPart():
            item = own_item(part, PROVIDER)
            return [] if item is None else _own(item)
        case ToolCallPart():
            return []


def _file(part: ImagePart | FilePart, model: Model) -> JsonObject:
    inline = data_url(part)
    if inline is not None:
        return {"inlineData": {"mimeType": inline[0], "data": inline[1]}}
    if not model.fetches:
        raise UnsupportedFeature("this Gemini model takes images and files as data: URLs only", param="messages")
    kind = mimetypes.guess_type(urlsplit(part.url).path)[0]
    if kind is None:
        raise UnsupportedFeature("Gemini must be told a file's media type, and this address does not show one", param="messages")
    return {"fileData": {"mimeType": kind, "fileUri": part.url}}


def _own(item: JsonObject) -> list[JsonObject]:
    """A part that Gemini made, or that only Gemini knows (a video by its address), as it is. What merely describes an answer does not go back."""
    if isinstance(item.get("part"), dict):
        return [item["part"]]
    return [item] if "fileData" in item or "inlineData" in item else []


def _model_parts(message: Message, model: Model) -> list[JsonObject]:
    """The model's turn. Signatures go back to the parts they came with; a part with a signature is never joined with another one.

    Some dialects give the opaque parts back before the text. A text's signature without a text before it belongs to the next one.
    """
    own = [part.item for part in message.parts if isinstance(part, ProviderPart) and part.provider == PROVIDER]
    signatures = {item["toolCallId"]: item["thoughtSignature"] for item in own if item.get("toolCallId") is not None and "thoughtSignature" in item}
    first_call = True
    parts: list[JsonObject] = []
    waiting: list[JsonObject] = []
    for part in message.parts:
        match part:
            case ToolCallPart():
                wire: JsonObject = {"functionCall": {"id": part.id, "name": part.name, "args": call_arguments(part)}}
                signature = signatures.get(part.id) or (NO_SIGNATURE if model.signs and first_call else None)
                if signature is not None:
                    wire["thoughtSignature"] = signature
                first_call = False
                parts.append(wire)
            case ProviderPart():
                item = part.item
                if part.provider == PROVIDER and "thoughtSignature" in item:
                    if item.get("toolCallId") is None and not _sign(parts, item):
                        waiting.append(item)
                else:
                    parts += _media(part, model)
            case _:
                parts += _media(part, model)
                waiting = [item for item in waiting if not _sign(parts, item)]
    return parts + [{"text": "", "thoughtSignature": item["thoughtSignature"]} for item in waiting]


def _sign(parts: list[JsonObject], item: JsonObject) -> bool:
    """Give the text before it its signature, as it came. False where there is no such text."""
    last = parts[-1] if parts else {}
    if "text" not in last or last.get("thought") or "thoughtSignature" in last:
        return False
    if item.get("onText"):
        last["thoughtSignature"] = item["thoughtSignature"]
    else:
        parts.append({"text": "", "thoughtSignature": item["thoughtSignature"]})
    return True


# --- results -------------------------------------------------------------------------------------------------------------------------


def _result(message: Message, names: dict[str, str], model: Model) -> tuple[JsonObject, list[JsonObject]]:
    """A tool's result, and its files where they cannot stand in it: a result holds them from Gemini 3 on."""
    call_id = message.tool_call_id or ""
    result: JsonObject = {"id": call_id, "name": names.get(call_id) or message.name or call_id, "response": _response(message)}
    files = [wire for part in message.parts if not isinstance(part, TextPart | RefusalPart) for wire in _media(part, model)]
    if files and model.signs:
        result["parts"], files = files, []
    return {"functionResponse": result}, files


def _response(message: Message) -> JsonObject:
    """A result must be an object: JSON text that is one goes as it is, anything else as its `result`; of a tool that failed, as its `error`."""
    text = "".join(part.text for part in message.parts if isinstance(part, TextPart | RefusalPart))
    if message.is_error:
        return {"error": text}
    try:
        return decode_json_object(text)
    except msgspec.DecodeError:
        return {"result": text} if text or not message.parts or isinstance(message.parts[0], TextPart) else {}
