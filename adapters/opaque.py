"""Which strings of a provider's own item nobody can read: signatures, encrypted content, ids, pictures. Pure.

Everything else in an item repeats what the model said, thought, ran or found, and a client could read it. A name counts only where the provider
gives it: inside an object whose names the model chose (a tool's arguments, a result) nothing is opaque. Sources: the providers' own type
definitions in the SDKs `anthropic` 2.11, `openai` 3.52 and `google-genai` 3.4.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from adapters.types import JsonObject

Path = tuple[str | int, ...]
"""Keys and positions from the item down to a string."""

_IDS = frozenset(
    {"id", "type", "tool_use_id", "tool_call_id", "toolCallId", "call_id", "container_id", "file_id", "item_id", "response_id", "approval_request_id"}
)
_SEALED = frozenset(
    {"signature", "thoughtSignature", "thought_signature", "encrypted_content", "encrypted_index", "encrypted_stdout", "encrypted_function_output"}
)
_CHOSEN_BY_THE_MODEL = frozenset({"input", "arguments", "args", "response", "structured_content", "parameters", "output_json"})
_READABLE_TYPES = ("text/", "application/json", "application/xml", "application/csv", "application/x-ndjson", "application/javascript", "image/svg")


def is_opaque(parent: JsonObject, key: str) -> bool:
    """Whether `parent[key]`, a string that the provider named, is something that nobody but the provider reads."""
    if key in _IDS or key in _SEALED:
        return True
    if key == "data":
        return parent.get("type") in ("redacted_thinking", "base64") or "transcript" in parent or _is_binary(parent)
    if key == "result":
        return parent.get("type") == "image_generation_call"
    return False


def _is_binary(parent: JsonObject) -> bool:
    media = parent.get("mimeType") or parent.get("media_type")
    return isinstance(media, str) and not media.lower().startswith(_READABLE_TYPES)


def _is_encoded_text(parent: JsonObject, key: str) -> bool:
    """Whether the string is base64 of a text: a file in a text format, as Gemini holds it in `inlineData`."""
    return key == "data" and isinstance(parent.get("mimeType"), str) and not _is_binary(parent)


class Leaf:
    """A readable string, number or key of an item. `text` may be given another value, and `rebuilt` shows it."""

    __slots__ = ("is_string", "path", "text", "was")

    def __init__(self, path: Path, text: str, *, is_string: bool = True) -> None:
        self.path = path
        self.text = self.was = text
        self.is_string = is_string


def leaves(item: JsonObject) -> list[Leaf]:
    """Every readable string, number and key, in the order in which they stand. A key's path ends with the key and -1."""
    found: list[Leaf] = []
    _walk(item, (), False, found)
    return found


def _walk(value: Any, path: Path, chosen: bool, found: list[Leaf]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if chosen:
                found.append(Leaf((*path, key, -1), key))
            if not chosen and isinstance(inner, str):
                if is_opaque(value, key):
                    continue
                if _is_encoded_text(value, key) and (text := _decoded(inner)) is not None:
                    found.append(Leaf((*path, key), text))
                    continue
            _walk(inner, (*path, key), chosen or key in _CHOSEN_BY_THE_MODEL, found)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _walk(inner, (*path, index), chosen, found)
    elif isinstance(value, str):
        found.append(Leaf(path, value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found.append(Leaf(path, repr(value), is_string=False))


def _decoded(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def rebuilt(item: JsonObject, found: list[Leaf]) -> JsonObject:
    """The item with what was changed in its leaves. A changed number becomes a string; sound whose transcript was changed is left out."""
    changed = {leaf.path: leaf.text for leaf in found if leaf.text != leaf.was}
    result: JsonObject = _rebuild(item, (), changed.get)
    return result


def _rebuild(value: Any, path: Path, changed: Callable[[Path], str | None]) -> Any:
    if isinstance(value, dict):
        made: JsonObject = {}
        for key, inner in value.items():
            name = changed((*path, key, -1))
            text = changed((*path, key)) if isinstance(inner, str) and _is_encoded_text(value, key) else None
            made[key if name is None else name] = _rebuild(inner, (*path, key), changed) if text is None else _encoded_like(inner, text)
        if "data" in made and changed((*path, "transcript")) is not None:
            made["data"] = ""
        return made
    if isinstance(value, list):
        return [_rebuild(inner, (*path, index), changed) for index, inner in enumerate(value)]
    text = changed(path)
    return value if text is None else text


def _encoded_like(was: str, text: str) -> str:
    """A text in place of another, encoded where that one was."""
    return text if _decoded(was) is None else base64.b64encode(text.encode()).decode()
