"""Errors in Anthropic's shape, for everything under `/v1/messages`."""

from __future__ import annotations

import msgspec

from adapters.types import JsonObject
from router.http.errors import ErrorDetail
from router.wire.headgate import Headgate

PATH = "/v1/messages"

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    405: "invalid_request_error", 408: "timeout_error", 409: "invalid_request_error", 413: "request_too_large", 415: "invalid_request_error",
    422: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip

_encode = msgspec.json.Encoder().encode


def speaks_anthropic(path: str) -> bool:
    """Whether errors of this path have Anthropic's shape."""
    return path == PATH or path.startswith(f"{PATH}/")


def error_type(status: int) -> str:
    """Anthropic's word for a status."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def error_object(error: ErrorDetail, status: int, request_id: str, details: JsonObject | None = None, headgate: Headgate | None = None) -> bytes:
    """The body of an error: Anthropic's fields, and beside its type our own code and the field at fault."""
    inner: JsonObject = {"type": error_type(status), "message": error.message, "code": error.code, "param": error.param}
    if details is not None:
        inner["details"] = details
    body: JsonObject = {"type": "error", "error": inner, "request_id": request_id}
    if headgate is not None:
        body["headgate"] = headgate
    return _encode(body)
