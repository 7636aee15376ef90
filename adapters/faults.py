"""From a provider's failure to the error tree: one table for statuses and codes, one for broken connections.

Shared by every remote adapter, so that the same trouble has the same name whoever reports it.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from adapters.errors import (
    AuthenticationFailed,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ContentRefused,
    ContextTooLong,
    InvalidRequest,
    Overloaded,
    ProviderFault,
    RateLimited,
    StreamBroken,
)

MAX_MESSAGE = 2_000
"""Characters of a provider's error message that are kept."""

MAX_WAIT_S = 86_400.0
"""The longest wait that is believed: a day."""

_STATUS_OF_CODE = {
    # Anthropic's error types, which also come in the middle of a stream, where there is no status.
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403, "not_found_error": 404,
    "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504, "overloaded_error": 529,
    # OpenAI's, and those of servers that speak its dialect.
    "server_error": 500, "internal_server_error": 500, "rate_limit_exceeded": 429, "insufficient_quota": 402, "invalid_api_key": 401,
    "model_not_found": 404, "service_unavailable": 503, "overloaded": 503,
    # Google's canonical codes.
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429, "CANCELLED": 499, "INTERNAL": 500, "UNKNOWN": 500, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
}  # fmt: skip

_OWN_ACCOUNT = frozenset({"insufficient_quota", "billing_error", "invalid_api_key", "API_KEY_INVALID", "billing_not_active"})
"""Codes that speak of Headgate's own account, whatever their status: no retry and no client can mend them."""

_CONTENT = frozenset({"content_policy_violation", "content_filter", "moderation_blocked"})

_TOO_LONG_CODES = frozenset({"context_length_exceeded"})
_TOO_LONG_WORDS = ("context length", "context window", "prompt is too long", "input token count", "exceeds the maximum number of tokens")


class Failure(Struct, frozen=True, kw_only=True):
    """What a provider said of a failure. `codes` are its words for it (code, type, reason), the most telling first."""

    status: int | None = None
    message: str = ""
    codes: tuple[str, ...] = ()
    param: str | None = None
    request_id: str | None = None
    retry_after: float | None = None


def to_error(failure: Failure) -> BackendError:
    """The error of the tree for a provider's failure; it keeps the provider's status, code, request id and `retry_after`."""
    cls = _class_of(failure)
    message = failure.message[:MAX_MESSAGE] or f"the provider answered with status {failure.status}"
    if cls is AuthenticationFailed:
        # The provider's own words may quote part of the key.
        message = "the provider refused the service's credentials or account"
    return cls(
        message,
        provider_status=failure.status,
        provider_code=failure.codes[0] if failure.codes else None,
        provider_request_id=failure.request_id,
        retry_after=failure.retry_after,
        param=failure.param,
    )


def _class_of(failure: Failure) -> type[BackendError]:
    codes = frozenset(failure.codes)
    if codes & _OWN_ACCOUNT:
        return AuthenticationFailed
    if codes & _CONTENT:
        return ContentRefused
    status = failure.status
    if status is None or status < 300:
        status = next((_STATUS_OF_CODE[code] for code in failure.codes if code in _STATUS_OF_CODE), None)
    if status is None:
        return ProviderFault
    if status in (400, 413, 422) and (codes & _TOO_LONG_CODES or any(words in failure.message.lower() for words in _TOO_LONG_WORDS)):
        return ContextTooLong
    return _class_of_status(status)


def _class_of_status(status: int) -> type[BackendError]:
    if status in (401, 402, 403):
        return AuthenticationFailed
    if status == 404:
        # The model or the path is unknown there: what is configured is wrong, not what the client asked.
        return BackendUnavailable
    if status in (408, 504):
        return BackendTimeout
    if status == 429:
        return RateLimited
    if status in (503, 529):
        return Overloaded
    if 400 <= status < 499:
        return InvalidRequest
    return ProviderFault


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After` (seconds or an HTTP date): from 0 to `MAX_WAIT_S`. `now` is `time.time()`.

    None where neither says a time.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _wait(milliseconds / 1000)
    value = headers.get("retry-after")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is not None:
        return _wait(seconds)
    try:
        at = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return _wait(at - (time.time() if now is None else now))


def _number(value: str | None) -> float | None:
    """A finite number, else None."""
    try:
        number = math.nan if value is None else float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _wait(seconds: float) -> float:
    return min(max(0.0, seconds), MAX_WAIT_S)


class _Detail(Struct, frozen=True):
    """One of Google's typed error details: `ErrorInfo` has a reason, `RetryInfo` a delay ("17s")."""

    reason: str | None = None
    retry_delay: str | None = msgspec.field(name="retryDelay", default=None)


class WireError(Struct, frozen=True):
    """The error object of the three providers: OpenAI and Anthropic name a type, OpenAI also a code and a param, Google a code and a status."""

    message: str | None = None
    type: str | None = None
    code: str | int | None = None
    status: str | None = None
    param: str | None = None
    details: Any = None


class _Body(Struct, frozen=True):
    error: WireError | str | None = None
    message: str | None = None
    detail: Any = None
    request_id: str | None = None


_decode_body = msgspec.json.Decoder(_Body | list[_Body]).decode
_decode_plain = msgspec.json.Decoder(_Body).decode


def body_failure(body: bytes, *, status: int | None = None, request_id: str | None = None, wait: float | None = None) -> Failure:
    """Read an error body in any provider's shape, or in none (a proxy's HTML page)."""
    try:
        parsed = _decode_body(body)
    except msgspec.MsgspecError:
        return Failure(status=status, request_id=request_id, retry_after=wait)
    if isinstance(parsed, list):
        parsed = parsed[0] if parsed else _Body()
    error = parsed.error
    if isinstance(error, WireError):
        return wire_failure(error, status=status, request_id=request_id or parsed.request_id, wait=wait)
    message = error or parsed.message or (parsed.detail if isinstance(parsed.detail, str) else None) or ""
    return Failure(status=status, message=message, request_id=request_id or parsed.request_id, retry_after=wait)


def wire_failure(error: WireError, *, status: int | None = None, request_id: str | None = None, wait: float | None = None) -> Failure:
    """Read an error object, from a body or from the middle of a stream."""
    if status is None and isinstance(error.code, int) and 400 <= error.code < 600:
        status = error.code
    details = _details(error.details)
    reasons = [detail.reason for detail in details]
    words = (*reasons, error.code if isinstance(error.code, str) else None, error.status, error.type)
    if wait is None:
        delays = (_number(detail.retry_delay.removesuffix("s")) for detail in details if detail.retry_delay)
        wait = next((_wait(delay) for delay in delays if delay is not None), None)
    return Failure(
        status=status,
        message=error.message or "",
        codes=tuple(word for word in words if word),
        param=error.param,
        request_id=request_id,
        retry_after=wait,
    )


def _details(value: Any) -> list[_Detail]:
    try:
        return msgspec.convert(value, list[_Detail])
    except msgspec.ValidationError:
        return []


def connection_error(error: BaseException) -> BackendError:
    """Name a transport's failure: `BackendUnavailable` where no connection came about (nothing was sent), else `StreamBroken`.

    The SDKs' own classes do not tell the two apart (a refused connection is OpenAI's `APITimeoutError`), so the chain of causes is read.
    """
    import aiohttp

    refused = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
    if any(isinstance(cause, refused) for cause in _chain(error)):
        return BackendUnavailable("the provider cannot be reached")
    return StreamBroken("the connection to the provider broke")


def transport_errors() -> tuple[type[Exception], ...]:
    """What aiohttp and the operating system raise when a connection fails. `asyncio.IncompleteReadError` comes from TLS proxies."""
    import aiohttp

    return (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
