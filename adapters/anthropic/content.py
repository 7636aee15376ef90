"""A conversation in Anthropic's words: system blocks, and user and assistant turns of content blocks. Pure."""

from __future__ import annotations

import hashlib
import re

import msgspec
from msgspec import Struct

from adapters.anthropic.media import document_source, image_source
from adapters.anthropic.messages_stream import CALL_FIELDS, CITATIONS, MESSAGE_END, PROVIDER
from adapters.anthropic.models import Traits
from adapters.errors import UnsupportedFeature
from adapters.remote_content import own_item
from adapters.types import (
    AudioPart,
    FilePart,
    GenerateRequest,
    ImagePart,
    JsonObject,
    Message,
    ProviderPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
    decode_json_object,
)

INVALID_JSON = "INVALID_JSON"
"""The key under which arguments that are no JSON object go back to the model, as Anthropic's documentation has it."""

OPENING = "(The conversation begins.)"
"""The API wants a user's turn first; this one stands where the client's conversation has none."""

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_OUTSIDE_ID = re.compile(r"[^a-zA-Z0-9_-]")


class Conversation(Struct, frozen=True):
    """`system` is a text or blocks, None where nothing was said. `ignored` names what of it could not be said."""

    system: str | list[JsonObject] | None
    turns: list[JsonObject]
    ignored: tuple[str, ...] = ()

    @property
    def unsigned_calls(self) -> bool:
        """Whether the answer continues a turn whose tool calls follow no thinking: the API refuses to think with a budget then."""
        if not self.turns or not any(block["type"] == "tool_result" for block in self.turns[-1]["content"]):
            return False
        assistant: list[JsonObject] = []
        for turn in reversed(self.turns[:-1]):
            if turn["role"] != "assistant":
                break
            assistant = turn["content"] + assistant
        kinds = [block["type"] for block in assistant]
        return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")

    @property
    def prefilled(self) -> bool:
        """Whether the last turn is a text that the model shall go on with (and not a turn of the provider's own tools, to be resumed)."""
        if not self.turns or self.turns[-1]["role"] != "assistant":
            return False
        kinds = {block["type"] for block in self.turns[-1]["content"]}
        return kinds <= {"text", "thinking", "redacted_thinking"}


def conversation(request: GenerateRequest, traits: Traits, *, long_cache: bool = False, kept_files: bool = False) -> Conversation:
    """The request's messages. `long_cache` lets cache marks of an hour out; without it they last five minutes, the price that is reserved.

    `kept_files` lets files out that the provider keeps, by their ids.

    Raises `UnsupportedFeature` for content the API has no place for, `InvalidRequest` for malformed content.
    """
    return _Writer(request, traits, long_cache, kept_files).written()


def fitting_id(call_id: str) -> str:
    """The id of a tool call as the API takes it: its own, else the same for the same, and different for different ones."""
    if _ID.fullmatch(call_id):
        return call_id
    mark = hashlib.sha256(call_id.encode()).hexdigest()[:16]
    return f"{_OUTSIDE_ID.sub('_', call_id)[:40]}_{mark}"


def cache_mark(mark: JsonObject, *, long_cache: bool) -> tuple[JsonObject, bool]:
    """A cache mark as it may be sent, and whether something of it was taken away. Every dialect's mark means the same."""
    if mark.get("type") != "ephemeral":
        return {"type": "ephemeral"}, False
    if long_cache or mark.get("ttl") in (None, "5m"):
        return mark, False
    return {name: value for name, value in mark.items() if name != "ttl"}, True


class _Writer:
    def __init__(self, request: GenerateRequest, traits: Traits, long_cache: bool, kept_files: bool) -> None:
        self._request = request
        self._native = request.dialect == "anthropic.messages"
        self._inline = traits.inline_system or (self._native and not traits.known)
        self._long_cache = long_cache
        self._kept_files = kept_files
        self._turns: list[JsonObject] = []
        self._last: Message | None = None
        self._ignored: set[str] = set()

    def written(self) -> Conversation:
        system: list[JsonObject] = []
        messages = self._request.messages
        for place, message in enumerate(messages):
            if message.role in ("system", "developer"):
                if self._stays(messages, place):
                    self._turn("system", self._blocks(message), message)
                else:
                    system += [block for block in self._blocks(message) if block["type"] == "text"]
                continue
            blocks = self._tool_result(message) if message.role == "tool" else self._blocks(message)
            if blocks:
                self._turn("assistant" if message.role == "assistant" else "user", blocks, message)
        if not self._turns or self._turns[0]["role"] != "user":
            self._turns.insert(0, {"role": "user", "content": [{"type": "text", "text": OPENING}]})
        self._close()
        return Conversation(self._system(system), self._turns, tuple(sorted(self._ignored)))

    def _stays(self, messages: tuple[Message, ...], place: int) -> bool:
        """Whether a system message stays where it is. Where the model wants none there, it goes to the front."""
        if not self._inline or not self._turns:
            return False
        if self._native:
            return True
        follows = messages[place + 1].role if place + 1 < len(messages) else "assistant"
        return self._turns[-1]["role"] == "user" and follows == "assistant"

    def _turn(self, role: str, blocks: list[JsonObject], message: Message) -> None:
        """Neighbours of one role become one turn: all results of parallel calls must stand in the same. What a client of this API sent as two
        turns of plain content stays two."""
        last = self._turns[-1] if self._turns else None
        apart = self._native and self._last is not None and self._last.role != "tool" and message.role != "tool"
        if last is not None and last["role"] == role and not apart:
            last["content"] += blocks
        else:
            self._turns.append({"role": role, "content": blocks})
        self._last = message

    def _close(self) -> None:
        """The API refuses a last assistant text that ends in white space."""
        last = self._turns[-1]
        if last["role"] == "assistant" and last["content"][-1]["type"] == "text":
            last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()

    def _system(self, blocks: list[JsonObject]) -> str | list[JsonObject] | None:
        if not blocks:
            return None
        if all(block.keys() == {"type", "text"} for block in blocks) and (len(blocks) == 1 or not self._native):
            return "\n\n".join(block["text"] for block in blocks)
        return blocks

    def _tool_result(self, message: Message) -> list[JsonObject]:
        block: JsonObject = {"type": "tool_result", "tool_use_id": fitting_id(message.tool_call_id or "")}
        if content := self._blocks(message):
            block["content"] = content
        if message.is_error is not None:
            block["is_error"] = message.is_error
        return [self._with(block, message.extra.get("cache_control"), message.extra)]

    def _blocks(self, message: Message) -> list[JsonObject]:
        blocks: list[JsonObject] = []
        for part in message.parts:
            match part:
                case TextPart():
                    if part.text.strip():  # the API refuses a block without words
                        blocks.append(self._with({"type": "text", "text": part.text}, part.cache, part.extra))
                case RefusalPart():
                    if part.text.strip():
                        blocks.append({"type": "text", "text": part.text})
                case ImagePart():
                    if part.detail not in (None, "auto"):
                        self._ignored.add("detail")
                    blocks.append(self._with({"type": "image", "source": image_source(part)}, part.cache, part.extra))
                case FilePart():
                    block: JsonObject = {"type": "document", "source": document_source(part)}
                    if part.filename is not None:
                        block["title"] = part.filename
                    blocks.append(self._with(block, part.cache, part.extra))
                case ToolCallPart():
                    call = {"type": "tool_use", "id": fitting_id(part.id), "name": part.name, "input": call_input(part.arguments)}
                    blocks.append(self._with(call, part.cache, part.extra))
                case ProviderPart():
                    self._own(part, blocks)
                case AudioPart():
                    raise UnsupportedFeature("audio cannot be sent to this provider", param="messages")
        return [_joined_with_its_fields(block, blocks) for block in blocks if block["type"] != CALL_FIELDS]

    def _own(self, part: ProviderPart, blocks: list[JsonObject]) -> None:
        """An item of a provider: Anthropic's own goes back as it is; what another's says is left out, unless the message needs it."""
        item = own_item(part, PROVIDER)
        if item is None:
            return
        kind = item.get("type")
        if kind == CITATIONS:
            text = next((block for block in reversed(blocks) if block["type"] == "text"), None)
            if text is not None:
                text["citations"] = [*(text.get("citations") or ()), *item["citations"]]
        elif kind != MESSAGE_END:
            if not self._kept_files and names_a_file(item):
                raise UnsupportedFeature("files that the provider keeps are not passed on; send the file itself", param="messages")
            mark = item.get("cache_control")
            blocks.append(dict(item) if mark is None else self._with(dict(item), mark, {}))

    def _with(self, block: JsonObject, mark: JsonObject | None, extra: JsonObject) -> JsonObject:
        """The block with its cache mark, and, where the client speaks this API, with what else it said."""
        if self._native:
            block = {**extra, **block}
        if mark is not None:
            block["cache_control"], taken = cache_mark(mark, long_cache=self._long_cache)
            if taken:
                self._ignored.add("cache_control.ttl")
        return block


def names_a_file(item: JsonObject) -> bool:
    """Whether a block, or one inside it, is a file that the provider keeps."""
    source = item.get("source")
    if item.get("type") == "container_upload" or (isinstance(source, dict) and source.get("type") == "file"):
        return True
    lists = [value for value in (item.get("content"), source.get("content") if isinstance(source, dict) else None) if isinstance(value, list)]
    return any(names_a_file(inner) for value in lists for inner in value if isinstance(inner, dict))


def _joined_with_its_fields(block: JsonObject, blocks: list[JsonObject]) -> JsonObject:
    if block["type"] != "tool_use":
        return block
    fields: JsonObject = next((each["fields"] for each in blocks if each["type"] == CALL_FIELDS and each["id"] == block["id"]), {})
    return {**block, **fields}


def call_input(arguments: str) -> JsonObject:
    """A call's arguments as the object the API wants; a text that is none, under a key that says so."""
    try:
        return decode_json_object(arguments.strip() or "{}")
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return {INVALID_JSON: arguments}
