"""The error tree: the only exceptions that may leave `Backend.generate`.

Every error says whether another attempt at the same backend can help (`retryable`) and keeps the provider's status, code, request id and
`retry_after`; the original exception stands in `__cause__`.
"""

from __future__ import annotations

from typing import ClassVar


class BackendError(Exception):
    """A backend could not answer. `code` is Headgate's stable word for it, `status` the HTTP status a client should see."""

    code: ClassVar[str] = "backend_error"
    http_status: ClassVar[int] = 502
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        backend: str = "",
        provider_status: int | None = None,
        provider_code: str | None = None,
        provider_request_id: str | None = None,
        retry_after: float | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.backend = backend
        self.provider_status = provider_status
        self.provider_code = provider_code
        self.provider_request_id = provider_request_id
        self.retry_after = retry_after
        self.param = param

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, {k: v for k, v in vars(self).items() if k != "message"}))


def _rebuild(cls: type[BackendError], message: str, fields: dict[str, object]) -> BackendError:
    error = cls(message)
    vars(error).update(fields)
    return error


class UnsupportedFeature(BackendError):
    """The request needs something this backend does not do (tools, a JSON schema, images). Routing avoids the backend."""

    code = "unsupported_feature"
    http_status = 400


class InvalidRequest(BackendError):
    """The provider refused the request as malformed or impossible: every candidate of the same provider would refuse it too."""

    code = "invalid_request"
    http_status = 400


class ContextTooLong(InvalidRequest):
    """The prompt does not fit the model's context window."""

    code = "context_length_exceeded"


class AuthenticationFailed(BackendError):
    """The provider refused Headgate's own credentials; the client cannot mend it."""

    code = "backend_authentication_failed"


class RateLimited(BackendError):
    """The provider asked to slow down, or the local queue is full."""

    code = "backend_rate_limited"
    http_status = 429
    retryable = True


class Overloaded(BackendError):
    """The provider is up but overloaded (503, 529)."""

    code = "backend_overloaded"
    http_status = 503
    retryable = True


class BackendUnavailable(BackendError):
    """The backend cannot be reached, has no credentials, or is not loaded."""

    code = "backend_unavailable"
    http_status = 503
    retryable = True


class BackendTimeout(BackendError):
    """No event came in time, or the deadline passed."""

    code = "backend_timeout"
    http_status = 504
    retryable = True


class QueueFull(RateLimited):
    """All of the backend's `max_concurrency` slots were taken for as long as a request may wait for one. Nothing was sent."""

    retryable = False


class BreakerOpen(BackendUnavailable):
    """The backend's circuit breaker lets no request through now. Nothing was sent."""

    retryable = False


class DeadlinePassed(BackendTimeout):
    """The request's own deadline passed: no backend can mend that, and it says nothing about this one."""

    retryable = False


class ProviderFault(BackendError):
    """The provider failed on its side (5xx), or answered something that cannot be understood."""

    code = "provider_error"
    retryable = True


class StreamBroken(BackendError):
    """The stream ended without its end marker: cut, reset, or closed early."""

    code = "stream_broken"
    retryable = True


class ContentRefused(BackendError):
    """The provider refused the prompt for its content before any output."""

    code = "content_refused"
    http_status = 400


class InvalidOutput(BackendError):
    """A finished answer that is not the JSON that was asked for. `answer` and `problem` are for the model that is asked to mend it.

    The message names the place in the schema and holds none of the answer.
    """

    code = "invalid_output"
    answer: str = ""
    problem: str = ""


ERRORS: dict[str, type[BackendError]] = {
    cls.code: cls
    for cls in (
        BackendError, UnsupportedFeature, InvalidRequest, ContextTooLong, AuthenticationFailed, RateLimited, Overloaded,
        BackendUnavailable, BackendTimeout, ProviderFault, StreamBroken, ContentRefused,
        InvalidOutput,
    )
}  # fmt: skip
"""By code: how an error is rebuilt on the other side of the compute socket."""
