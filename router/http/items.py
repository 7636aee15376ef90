"""Items of the responses dialect as this service keeps and shows them."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.types import JsonObject
from router.kept.conversations import item_id
from router.kept.keeping import usable_id


def kept_items(given: str | Sequence[JsonObject] | None) -> tuple[JsonObject, ...]:
    """A request's input as a list of whole items: with type and id, a message's text as a part. Checked before, by the dialect's decoder."""
    if given is None:
        return ()
    if isinstance(given, str):
        given = ({"role": "user", "content": given},)
    return tuple(_kept(item) for item in given)


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
