from __future__ import annotations

import json

import pytest

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
)
from adapters.faults import MAX_MESSAGE, MAX_WAIT_S, Failure, body_failure, retry_after, to_error

TABLE = [
    (Failure(status=400, codes=("invalid_request_error",)), InvalidRequest),
    (Failure(status=400, codes=("context_length_exceeded",)), ContextTooLong),
    (Failure(status=400, message="prompt is too long: 213462 tokens > 200000 maximum"), ContextTooLong),
    (Failure(status=400, message="The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."), ContextTooLong),
    (Failure(status=400, message="API key not valid.", codes=("API_KEY_INVALID", "INVALID_ARGUMENT")), AuthenticationFailed),
    (Failure(status=402), AuthenticationFailed),
    (Failure(status=403), AuthenticationFailed),
    (Failure(status=404), BackendUnavailable),
    (Failure(status=408), BackendTimeout),
    (Failure(status=413), InvalidRequest),
    (Failure(status=422), InvalidRequest),
    (Failure(status=429), RateLimited),
    (Failure(status=499), ProviderFault),
    (Failure(status=500), ProviderFault),
    (Failure(status=503), Overloaded),
    (Failure(status=504), BackendTimeout),
    (Failure(status=529), Overloaded),
    (Failure(codes=("overloaded_error",)), Overloaded),
    (Failure(codes=("DEADLINE_EXCEEDED",)), BackendTimeout),
    (Failure(codes=("content_filter",)), ContentRefused),
    (Failure(codes=("never heard of",)), ProviderFault),
    (Failure(), ProviderFault),
]


@pytest.mark.parametrize(("failure", "expected"), TABLE)
def test_a_failure_has_one_name(failure: Failure, expected: type[BackendError]) -> None:
    error = to_error(failure)
    assert type(error) is expected
    assert error.message


def test_googles_details_give_the_reason_and_the_delay() -> None:
    details = [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED", "domain": "googleapis.com"},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"},
    ]
    body = json.dumps([{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED", "details": details}}]).encode()
    error = to_error(body_failure(body, status=429))
    assert isinstance(error, RateLimited)
    assert (error.provider_code, error.retry_after) == ("RATE_LIMIT_EXCEEDED", 17.5)


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[]", b"null", b'"text"', b'{"error": 7}', b'{"detail": [{"loc": []}]}'])
def test_a_body_in_nobodys_shape_still_has_its_status(body: bytes) -> None:
    error = to_error(body_failure(body, status=502, request_id="r"))
    assert type(error) is ProviderFault
    assert (error.provider_status, error.provider_request_id) == (502, "r")
    assert "502" in error.message


def test_plain_messages_of_other_servers_are_read() -> None:
    assert body_failure(b'{"message": "model is loading"}', status=503).message == "model is loading"
    assert body_failure(b'{"error": "model not found, try pulling it"}', status=404).message == "model not found, try pulling it"
    assert body_failure(b'{"detail": "Not authenticated"}', status=401).message == "Not authenticated"


def test_a_message_is_cut_to_a_bound() -> None:
    assert len(to_error(Failure(status=400, message="x" * 100_000)).message) == MAX_MESSAGE


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e400"}, None),
        ({"retry-after-ms": "-inf", "retry-after": "7"}, 7.0),
        ({"retry-after": "1e300"}, MAX_WAIT_S),
        ({"retry-after": "-1e300"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, MAX_WAIT_S),
        ({"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359"}, MAX_WAIT_S),
    ],
)
def test_how_long_to_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=1445412480.0) == seconds
