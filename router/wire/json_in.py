"""A request's JSON body as an object, before anybody asks what its fields are."""

from __future__ import annotations

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
