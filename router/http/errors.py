"""The one error a route raises, and its body in OpenAI's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

T = TypeVar("T")
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_FIELD = re.compile(r"(?:missing required field|contains unknown field) `(.+?)`")
_TYPES = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ErrorDetail(Struct, frozen=True):
    message: str
    type: str
    code: str | None
    param: str | None


class ErrorBody(Struct, frozen=True):
    error: ErrorDetail


class ApiError(Exception):
    """A refusal the client sees: status, stable code, a message that says what to do next, and the field (`param`) where one is at fault."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.type = type or _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.headers = dict(headers or {})

    @property
    def detail(self) -> ErrorDetail:
        return ErrorDetail(message=self.message, type=self.type, code=self.code, param=self.param)

    def body(self) -> bytes:
        return msgspec.json.encode(ErrorBody(self.detail))


def invalid(error: msgspec.ValidationError) -> ApiError:
    """The 400 for a body of the wrong shape, naming the field at fault."""
    text = str(error)
    found = _PATH.search(text)
    path = found[1] if found else ""
    text = _PATH.sub("", text)
    if named := _FIELD.search(text):
        path = f"{path}.{named[1]}" if path else named[1]
    return ApiError(400, "invalid_request", f"{path}: {text}." if path else f"{text}.", param=path or None)


def decode_body(body: bytes, into: type[T]) -> T:
    """Decode a JSON body. Raises `ApiError` 400: `invalid_json`, or `invalid_request` with the field at fault."""
    try:
        return msgspec.json.decode(body, type=into)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_json", f"The body is not JSON: {error}.") from error
    except RecursionError as error:
        raise ApiError(400, "invalid_json", "The body is nested too deeply.") from error
