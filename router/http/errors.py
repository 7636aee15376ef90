"""The one error a route raises, and its body in OpenAI's shape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

T = TypeVar("T")
MOST_NESTED = 128
"""Objects and lists inside each other in a body, itself counted. What is kept of a body is read and written again deeper in the stack than where it was
decoded, and with more Python between: there its own limit would come sooner."""

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


FAILED = ApiError(500, "internal_error", "The service failed; the request id says which log line.")


def invalid(error: msgspec.ValidationError) -> ApiError:
    """The 400 for a body of the wrong shape, naming the field at fault."""
    text = str(error)
    found = _PATH.search(text)
    path = found[1] if found else ""
    text = _PATH.sub("", text)
    if named := _FIELD.search(text):
        path = f"{path}.{named[1]}" if path else named[1]
    return ApiError(400, "invalid_request", f"{path}: {text}." if path else f"{text}.", param=path or None)


def nested_beyond(value: object, most: int = MOST_NESTED) -> bool:
    """Whether a decoded value has more than so many objects and lists inside each other."""
    level: list[object] = [value]
    for _ in range(most):
        level = [inner for each in level for inner in _inside(each) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _may_be_deep(body: bytes) -> bool:
    """Nothing is deeper than it has brackets: most bodies need no closer look."""
    return body.count(b"{") + body.count(b"[") > MOST_NESTED


def require_shallow(body: bytes, value: object) -> None:
    """Raises `ApiError` 400 for a value, decoded from the body, with more than `MOST_NESTED` objects and lists inside each other."""
    if _may_be_deep(body) and nested_beyond(value):
        raise ApiError(400, "invalid_json", f"The body is nested too deeply: at most {MOST_NESTED} objects and lists inside each other.")


def decode_body(body: bytes, into: type[T]) -> T:
    """Decode a JSON body. Raises `ApiError` 400: `invalid_json`, or `invalid_request` with the field at fault."""
    try:
        decoded = msgspec.json.decode(body, type=into)
        if _may_be_deep(body):
            require_shallow(body, msgspec.json.decode(body))
        return decoded
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_json", f"The body is not JSON: {error}.") from error
    except RecursionError as error:
        raise ApiError(400, "invalid_json", "The body is nested too deeply.") from error
