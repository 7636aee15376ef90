"""Messages of the core to the items of a Responses request.

An answer of this API is a list of items, and some say more than a message of the core can: a message its `phase`, a call its `namespace`, a
text its annotations. The decoder (`responses_stream`) notes that in opaque parts beside the part that they are about, and here it goes back:

- `{"type": "message", ...}` without content stands before the texts of one message item;
- `{"type": "function_call", "call_id": ...}` without a name stands before the call with that id;
- `{"type": "annotations", "annotations": [...]}` stands behind its text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from adapters.errors import UnsupportedFeature
from adapters.remote_content import own_item
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
)

PROVIDER = "openai"
"""Whose words this API's opaque parts and tools are. What another server made is `openai@` and that server."""

INSTRUCTIONS = {"instructions": True}
"""`Message.extra` of a request's `instructions`: they hold for one request, and are no item of the conversation."""


class Target(Struct, frozen=True):
    """Who is asked. `official`: OpenAI itself, which keeps no answers for us, so that reasoning without its encrypted content means nothing to it.

    `own`: the request came in this dialect, so that its parts' `extra` are this API's words. `cached`: its cache marks are OpenAI's. `references`:
    this server may be sent ids of files that the provider keeps, whose length and owner nobody here knows. `word`: whose opaque parts are its own.
    """

    official: bool
    own: bool
    cached: bool
    references: bool
    word: str = PROVIDER

    def item_of(self, part: ProviderPart) -> JsonObject | None:
        """The item of a part that this server understands, None for one that is left out: its own, and what anybody can read of this dialect.

        Raises `UnsupportedFeature` where the message means nothing without another's part.
        """
        if self.word != PROVIDER and part.provider == PROVIDER and is_sealed(part.item):
            return own_item(part)
        return own_item(part, PROVIDER, self.word)


def is_note(item: JsonObject) -> bool:
    """Whether an opaque part is only a note on the part beside it, no item of its own."""
    match item.get("type"):
        case "annotations":
            return True
        case "message":
            return "content" not in item
        case "function_call":
            return "name" not in item
        case _:
            return False


def is_sealed(item: JsonObject) -> bool:
    """Whether only the server that made an item can use it: thoughts, and what it encrypted."""
    return item.get("type") == "reasoning" or "encrypted_content" in item


def held_by_the_provider(item: JsonObject) -> bool:
    """Whether an opaque part stands for content of unknown length, as a file by its id."""
    return "file_id" in item or "file_id" in (item.get("file") or ())


def input_items(messages: Iterable[Message], target: Target) -> list[JsonObject]:
    """Raises `UnsupportedFeature` for a part that this server cannot be given."""
    items: list[JsonObject] = []
    for message in messages:
        match message.role:
            case "assistant":
                items += _Turn(target).items(message)
            case "tool":
                items += _result(message, target)
            case "system" | "developer" | "user":
                # `developer` is a role of OpenAI's own; other servers' chat templates refuse it.
                role = "system" if message.role == "developer" and not target.official else message.role
                items += _said(message, role, target)
    return items


def _said(message: Message, role: str, target: Target) -> list[JsonObject]:
    items = [part.item for part in message.parts if isinstance(part, ProviderPart) and _is_item(part)]
    content = content_parts((part for part in message.parts if not (isinstance(part, ProviderPart) and _is_item(part))), target)
    if content or not items:
        items.append({**(message.extra if target.own else {}), "role": role, "content": _plain(content)})
    return items


def _result(message: Message, target: Target) -> list[JsonObject]:
    """A tool's result. One of a tool of OpenAI's own is an item as it came."""
    items = [part.item for part in message.parts if isinstance(part, ProviderPart) and _is_item(part)]
    if items:
        return items
    output = _plain(content_parts(message.parts, target))
    return [{**(message.extra if target.own else {}), "type": "function_call_output", "call_id": message.tool_call_id or "", "output": output}]


def _is_item(part: ProviderPart) -> bool:
    return part.provider == PROVIDER and not str(part.item.get("type", "")).startswith("input_")


def _plain(content: list[JsonObject]) -> str | list[JsonObject]:
    """A plain string for a single text: every server takes that."""
    if not content:
        return ""
    if len(content) == 1 and content[0]["type"] in ("input_text", "output_text") and content[0].keys() == {"type", "text"}:
        return str(content[0]["text"])
    return content


def content_parts(parts: Iterable[Part], target: Target) -> list[JsonObject]:
    """What is said to the model. Raises `UnsupportedFeature` for what this API has no word for."""
    content: list[JsonObject] = []
    for part in parts:
        match part:
            case TextPart():
                content.append({**_marks(part, target), "type": "input_text", "text": part.text})
            case ImagePart():
                detail = {} if part.detail is None else {"detail": part.detail}
                content.append({**_marks(part, target), "type": "input_image", "image_url": part.url, **detail})
            case FilePart():
                content.append({**_marks(part, target), **_file(part)})
            case AudioPart():
                raise UnsupportedFeature("OpenAI's responses take no spoken input", param="messages")
            case ProviderPart():
                content += _opaque_content(part, target)
            case RefusalPart():
                content.append({"type": "input_text", "text": part.text})
            case ToolCallPart():
                raise UnsupportedFeature("only the assistant calls tools", param="messages")
    return content


def _marks(part: TextPart | ImagePart | FilePart, target: Target) -> JsonObject:
    """What else stood on the part, in this dialect. A mark of another provider's has no counterpart: OpenAI caches by itself."""
    extra = part.extra if target.own else {}
    return extra if part.cache is None or not target.cached else {**extra, "prompt_cache_breakpoint": part.cache}


def _file(part: FilePart) -> JsonObject:
    named = {} if part.filename is None else {"filename": part.filename}
    if part.url.startswith("data:"):
        # OpenAI wants a name for every file whose data it is given.
        return {"type": "input_file", "filename": "document.pdf", **named, "file_data": part.url}
    return {"type": "input_file", **named, "file_url": part.url}


def _opaque_content(part: ProviderPart, target: Target) -> list[JsonObject]:
    """A file of OpenAI's by id, from this API or from chat completions."""
    item = own_item(part, PROVIDER, "openai.chat")
    if item is None:
        return []
    file = item.get("file")
    if part.provider != PROVIDER:
        if not isinstance(file, dict) or "file_id" not in file:
            raise UnsupportedFeature("the conversation holds a part that only chat completions understand", param="messages")
        item = {"type": "input_file", "file_id": file["file_id"]}
    if held_by_the_provider(item) and not target.references:
        raise UnsupportedFeature("this backend is not sent what the provider keeps (`pass_through: [file_id]` would allow it)", param="messages")
    return [item]


class _Turn:
    """The items of one assistant message, in order."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._own = target.own
        self._official = target.official
        self._items: list[JsonObject] = []
        self._head: JsonObject | None = None
        self._content: list[JsonObject] = []
        self._notes: dict[str, JsonObject] = {}
        self._left_out = False

    def items(self, message: Message) -> list[JsonObject]:
        for part in message.parts:
            self._add(part)
        self._close()
        if not self._left_out:
            return self._items
        # OpenAI wants an item that it knows by id together with the reasoning that led to it.
        return [{key: value for key, value in item.items() if key != "id"} if item["type"] in ("message", "function_call") else item for item in self._items]

    def _add(self, part: Part) -> None:
        match part:
            case TextPart():
                if part.text or self._own:  # other dialects have an empty text beside calls
                    self._content.append({"type": "output_text", "text": part.text, **(part.extra if self._own else {})})
            case RefusalPart():
                self._content.append({"type": "refusal", "refusal": part.text})
            case ToolCallPart():
                self._close()
                noted = {**(part.extra if self._own else {}), **self._notes.pop(part.id, {})}
                self._items.append({**noted, "type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments})
            case ProviderPart():
                if (item := self._target.item_of(part)) is None:
                    self._left_out = True
                else:
                    self._opaque(item)
            case ImagePart() | FilePart() | AudioPart():
                raise UnsupportedFeature("OpenAI's responses take no pictures, files or speech of the assistant's", param="messages")

    def _opaque(self, item: JsonObject) -> None:
        if not is_note(item):
            self._close()
            if item.get("type") != "reasoning":
                self._items.append(item)
            elif item.get("encrypted_content") or (item.get("content") and not self._official):
                self._items.append({key: value for key, value in item.items() if value or key == "summary"})
            else:
                self._left_out = True
            return
        match item["type"]:
            case "message":
                self._close()
                self._head = item
            case "function_call":
                self._notes[str(item["call_id"])] = {key: value for key, value in item.items() if key not in ("type", "call_id")}
            case _:
                texts = [part for part in self._content if part["type"] == "output_text"]
                if texts:
                    texts[-1]["annotations"] = [*texts[-1].get("annotations", []), *item["annotations"]]

    def _close(self) -> None:
        """The message item whose texts have been gathered, if any were."""
        head, content = self._head or {}, self._content
        self._head, self._content = None, []
        if not content:
            return
        bare: Any = content
        if "id" in head:
            bare = [{"annotations": [], **part} if part["type"] == "output_text" else part for part in content]
        elif len(content) == 1 and content[0]["type"] == "output_text":
            bare = content[0]["text"]
        self._items.append({**head, "type": "message", "role": "assistant", "content": bare})
