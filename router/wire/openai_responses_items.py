"""The input of OpenAI's responses dialect: a list of items to messages.

What one turn of the assistant said (reasoning, texts, calls, items of OpenAI's own tools) is one message with its parts in order. Items of
OpenAI's own stay as they are, as opaque parts; `adapters.openai.responses_items` says how what stands beside a text or a call is noted.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from adapters.types import AudioPart, FilePart, ImagePart, JsonObject, Message, Part, ProviderPart, RefusalPart, Role, TextPart, ToolCallPart
from router.http.errors import ApiError, invalid
from router.kept.sealing import PREFIX, Seal

PROVIDER = "openai"

OWN_ID = "_hg_"
"""In every item's id that Headgate makes: OpenAI would look for it in vain, so it stays here."""

_TELLING = frozenset({"web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_list_tools", "mcp_call", "reasoning"})
"""Items of OpenAI's own whose conversation another provider can go on with: what came of them was told in the answer."""

_ROLES: dict[str, Role] = {"system": "system", "developer": "developer", "user": "user", "assistant": "assistant"}

T = TypeVar("T")


def refuse(where: str, message: str) -> ApiError:
    return ApiError(400, "invalid_request", f"{where}: {message}.", param=where)


def converted(value: Any, into: type[T], where: str) -> T:
    """Raises `ApiError` 400 that names the field under `where`."""
    try:
        return msgspec.convert(value, into)
    except msgspec.ValidationError as error:
        wrong = invalid(error)
        path = f"{where}.{wrong.param}" if wrong.param else where
        message = wrong.message.removeprefix(f"{wrong.param}: ")
        raise ApiError(400, "invalid_request", f"{path}: {message}", param=path) from error


class FunctionCall(Struct):
    call_id: str
    name: str
    arguments: str


class FunctionResult(Struct):
    call_id: str
    output: str | list[JsonObject]


class SaidText(Struct):
    text: str


class SaidRefusal(Struct):
    refusal: str


class Image(Struct):
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class File(Struct):
    file_data: str | None = None
    file_url: str | None = None
    file_id: str | None = None
    filename: str | None = None


class AudioData(Struct):
    data: str
    format: str


class Audio(Struct):
    input_audio: AudioData


def messages_of(given: str | list[JsonObject], seal: Seal) -> tuple[Message, ...]:
    """Raises `ApiError` 400 that names the item at fault."""
    if isinstance(given, str):
        return (Message("user", (TextPart(given),)),)
    history = _History(seal)
    for index, item in enumerate(given):
        history.add(item, f"input[{index}]")
    return history.end()


class _History:
    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._messages: list[Message] = []
        self._turn: list[Part] = []

    def end(self) -> tuple[Message, ...]:
        self._close()
        return tuple(self._messages)

    def add(self, item: JsonObject, where: str) -> None:
        kind = item.get("type", "message" if "role" in item else None)
        match kind:
            case "message":
                self._message(item, where)
            case "function_call":
                call = converted(item, FunctionCall, where)
                self._turn.append(ToolCallPart(call.call_id, call.name, call.arguments, extra=_beside(item, "type", "call_id", "name", "arguments")))
            case "function_call_output":
                result = converted(item, FunctionResult, where)
                parts = content_parts(result.output, f"{where}.output")
                self._said(Message("tool", parts, tool_call_id=result.call_id, extra=_beside(item, "type", "call_id", "output")))
            case "reasoning":
                self._reasoning(item)
            case "item_reference":
                raise refuse(where, "items are not kept here by their ids; send the item itself, or continue with 'previous_response_id'")
            case "additional_tools":
                self._said(Message("developer", (ProviderPart(PROVIDER, item, required=True),)))
            case str() if kind.endswith("_output") or kind == "mcp_approval_response":
                answers = item.get("call_id") or item.get("approval_request_id")
                self._said(Message("tool", (ProviderPart(PROVIDER, item, required=True),), tool_call_id=answers if isinstance(answers, str) else None))
            case str():
                self._turn.append(ProviderPart(PROVIDER, item, required=kind not in _TELLING))
            case _:
                raise refuse(f"{where}.type", "an item has a type, or is a message with a role")

    def _said(self, message: Message) -> None:
        self._close()
        self._messages.append(message)

    def _close(self) -> None:
        if self._turn:
            self._messages.append(Message("assistant", tuple(self._turn)))
            self._turn = []

    def _message(self, item: JsonObject, where: str) -> None:
        role = _ROLES.get(item["role"]) if isinstance(item.get("role"), str) else None
        if role is None:
            raise refuse(f"{where}.role", f"a message's role is one of {', '.join(_ROLES)}")
        parts = content_parts(item.get("content"), f"{where}.content")
        if role != "assistant":
            self._said(Message(role, parts, extra=_beside(item, "role", "content")))
            return
        beside = _beside(item, "role", "content", "type")
        if "id" not in beside:
            beside.pop("status", None)
        if beside or (self._turn and isinstance(self._turn[-1], TextPart | RefusalPart)):
            self._turn.append(ProviderPart(PROVIDER, {"type": "message", **beside}))
        self._turn += parts

    def _reasoning(self, item: JsonObject) -> None:
        """Reasoning of OpenAI's own as it is; what an answer here gave sealed, opened. What cannot be opened is left out: nobody could use it."""
        sealed = item.get("encrypted_content")
        if isinstance(sealed, str) and sealed.startswith(PREFIX):
            self._turn += self._seal.open(sealed) or ()
        elif OWN_ID not in str(item.get("id", "")):
            self._turn.append(ProviderPart(PROVIDER, item))


def _beside(item: JsonObject, *known: str) -> JsonObject:
    """What else stands on an item. An id of Headgate's own means nothing to OpenAI."""
    beside = {key: value for key, value in item.items() if key not in known and value is not None}
    if OWN_ID in str(beside.get("id", "")):
        del beside["id"]
    return beside


def content_parts(content: Any, where: str) -> tuple[Part, ...]:
    """Raises `ApiError` 400 that names the part at fault."""
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, list):
        raise refuse(where, "content is a text or a list of parts")
    return tuple(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> Part:
    if not isinstance(part, dict):
        raise refuse(where, "a part is an object")
    cache = part.get("prompt_cache_breakpoint")
    if cache is not None and not isinstance(cache, dict):
        raise refuse(f"{where}.prompt_cache_breakpoint", "a cache breakpoint is an object")
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            extra = _unread(part, "text")
            if notes := extra.get("annotations"):  # citations of this service's own documents are nothing to a provider
                if not isinstance(notes, list):
                    raise refuse(f"{where}.annotations", "annotations are a list")
                extra["annotations"] = [note for note in notes if not (isinstance(note, dict) and note.get("type") == "file_citation")]
            return TextPart(converted(part, SaidText, where).text, cache, extra)
        case "refusal":
            return RefusalPart(converted(part, SaidRefusal, where).refusal)
        case "input_image":
            image = converted(part, Image, where)
            if image.image_url is None:
                return _by_id(part, image.file_id, where)
            return ImagePart(image.image_url, image.detail, cache, _unread(part, "image_url", "detail"))
        case "input_file":
            file = converted(part, File, where)
            if file.file_data is not None and not file.file_data.startswith("data:"):
                raise refuse(f"{where}.file_data", "a file's data is a data: URL, as in data:application/pdf;base64,...")
            url = file.file_data or file.file_url
            if url is None:
                return _by_id(part, file.file_id, where)
            return FilePart(url, file.filename, cache, _unread(part, "file_data", "file_url", "filename"))
        case "input_audio":
            audio = converted(part, Audio, where).input_audio
            return AudioPart(audio.data, audio.format)
        case other:
            raise refuse(f"{where}.type", f"{other!r} is no kind of content; known: input_text, input_image, input_file, input_audio, output_text, refusal")


def _unread(part: JsonObject, *known: str) -> JsonObject:
    return {key: value for key, value in part.items() if key not in known and key not in ("type", "prompt_cache_breakpoint") and value is not None}


def _by_id(part: JsonObject, file_id: str | None, where: str) -> ProviderPart:
    if file_id is None:
        raise refuse(where, "an address, data or a file_id is missing")
    return ProviderPart(PROVIDER, part, required=True)
