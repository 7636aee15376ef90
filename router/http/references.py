"""`{"type": "item_reference", "id": ...}` in a request's input: the item itself, from the stored response that holds it."""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

from adapters.backend import DataClass
from adapters.types import JsonObject
from policies.access import Principal
from policies.features import highest
from retrieval.values import NotFound
from router.http.errors import ApiError
from router.kept.keeping import LARGEST
from router.kept.turns import Turns
from router.wire.openai_responses_out import response_id

REFERENCE = "item_reference"
_MADE_HERE = re.compile(r"[a-z]+_hg_([0-9a-f]{32})_\d+")
"""An output item's id, with the request that made it."""


class _Body(Struct):
    input: str | list[JsonObject] | None = None


def given_input(body: bytes) -> str | list[JsonObject] | None:
    """The input of a body that was decoded before."""
    return msgspec.json.decode(body, type=_Body).input


async def resolved(turns: Turns, principal: Principal, body: bytes) -> tuple[bytes, DataClass]:
    """The body with its references replaced, and the highest data class of the responses they led to. Any other body as it is, checked or not.

    Raises `ApiError` 404 for a reference to what the tenant does not have, or the key may not see; 400 where they lead to more than `LARGEST` bytes.
    """
    if REFERENCE.encode() not in body:
        return body, "public"
    try:
        fields = msgspec.json.decode(body, type=dict[str, object])
        given = msgspec.convert(fields, _Body).input
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body, "public"  # the decoder says what is wrong with it
    if not isinstance(given, list):
        return body, "public"
    items: list[JsonObject] = []
    data_class: DataClass = "public"
    left = LARGEST
    for index, item in enumerate(given):
        if item.get("type") == REFERENCE:
            item, found = await _item(turns, principal, str(item.get("id")), f"input[{index}]")
            data_class = highest(data_class, found)
            left -= len(msgspec.json.encode(item))
            if left < 0:
                message = f"input[{index}]: the stored items that are referred to are more than one request may carry; refer to fewer."
                raise ApiError(400, "context_length_exceeded", message, param=f"input[{index}]")
        items.append(item)
    return msgspec.json.encode({**fields, "input": items}), data_class


async def _item(turns: Turns, principal: Principal, id: str, where: str) -> tuple[JsonObject, DataClass]:
    try:
        made = _MADE_HERE.fullmatch(id)
        if made is None:
            raise NotFound("item in any stored response", id[:200])
        turn, data_class = await turns.with_class(principal.tenant, response_id(made[1]), principal.max_data_class)
        for item in turn.response["output"]:
            if item.get("id") == id:
                return item, data_class
        raise NotFound("item in any stored response", id)
    except NotFound as error:
        raise ApiError(404, "item_not_found", f"{where}: no stored item has this id; send the item itself.", param=where) from error
