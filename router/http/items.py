"""Items of the responses dialect as this service keeps and shows them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adapters.types import JsonObject
from router.http.errors import ApiError
from router.kept.conversations import LARGEST_ITEM, item_id
from router.kept.keeping import usable_id


def kept_items(given: str | Sequence[JsonObject] | None) -> tuple[JsonObject, ...]:
    """A request's input as a list of whole items: with type and id, a message's text as a part. Checked before, by the dialect's decoder."""
    if given is None:
        return ()
    if isinstance(given, str):
        given = ({"role": "user", "content": given},)
    return tuple(_kept(item) for item in given)


def require_small(items: Sequence[JsonObject], where: str) -> None:
    """Raises `ApiError` 400 that names the first item that is too large for a conversation."""
    for index, item in enumerate(items):
        if (size := len(msgspec.json.encode(item))) > LARGEST_ITEM:
            message = f"{where}[{index}]: has {size} bytes; an item of a conversation has at most {LARGEST_ITEM}. Split it, or send it without a conversation."
            raise ApiError(400, "item_too_large", message, param=f"{where}[{index}]")


def _kept(item: JsonObject) -> JsonObject:
    kept: JsonObject = {"type": "message", **{name: value for name, value in item.items() if value is not None}}
    if kept["type"] == "message" and isinstance(content := kept.get("content"), str):
        said = kept["role"] == "assistant"
        kept["content"] = [{"type": "output_text", "text": content, "annotations": []} if said else {"type": "input_text", "text": content}]
    if kept["type"] in ("message", "function_call", "function_call_output"):
        kept.setdefault("status", "completed")
    if not usable_id(kept.get("id")):
        kept["id"] = item_id(kept)
    return kept
