"""A request's JSON body as an object, before anybody asks what its fields are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from adapters.types import JsonObject
from router.http.errors import ApiError, require_shallow

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def json_object(body: bytes, wanted: str = "'model' and 'messages'") -> JsonObject:
    """Raises `ApiError` 400 `invalid_json` for anything else; `wanted` says what a body must hold."""
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_json", f"The body is not a JSON object: {error}. Send a JSON object with {wanted}.") from error
    except RecursionError as error:
        raise ApiError(400, "invalid_json", "The body is nested too deeply.") from error
    require_shallow(body, fields)
    return fields


def unread(fields: JsonObject, known: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The fields inside a body's objects that no backend will get, by their path, for the list of what was ignored.

    `known` names the objects by their path (`text.format`), each with the fields that are read.
    """
    return tuple(
        f"{path}.{name}"
        for path, read in known.items()
        if isinstance(inner := _at(fields, path), dict)
        for name, value in inner.items()
        if name not in read and value is not None
    )


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
