from __future__ import annotations

import pytest

from adapters.errors import ERRORS, BackendError, InvalidRequest, RateLimited
from adapters.llama import LlamaSpec
from adapters.types import GenerateRequest, Message, TextPart, Usage
from config.prices import Price
from router.compute import protocol as wire


def carried(message: wire.FromClient | wire.FromServer) -> bytes:
    data = wire.frame(message)
    assert wire.body_length(data[: wire.HEADER]) == len(data) - wire.HEADER
    return data[wire.HEADER :]


def test_a_request_arrives_as_it_was_sent() -> None:
    request = GenerateRequest(messages=(Message("user", (TextPart("Grüße 👋"),)),), temperature=0.5, stop=("x",), deadline=1.5, extra={"a": [1, None]})
    sent = wire.Generate(id=7, kind="llama", spec=wire.raw({}), request=request)
    received = wire.decode_from_client(carried(sent))
    assert isinstance(received, wire.Generate)
    assert (received.id, received.request) == (7, request)


def test_a_backends_table_arrives_as_its_own_kind() -> None:
    price = Price(input=0.1, output=0.2)
    spec = LlamaSpec(kind="llama", model="x", threads=2, price=price)
    assert wire.decode_spec("llama", wire.raw(spec)) == spec


@pytest.mark.parametrize("kind", ERRORS.values())
def test_every_error_arrives_as_its_own_class_with_its_fields(kind: type[BackendError]) -> None:
    error = kind("why", backend="b", provider_status=1, provider_code="c", provider_request_id="r", retry_after=1.5, param="p")
    received = wire.decode_from_server(carried(wire.failure(3, error)))
    assert isinstance(received, wire.Failure)
    rebuilt = wire.error_of(received)
    assert type(rebuilt) is kind
    assert vars(rebuilt) == vars(error)
    assert str(rebuilt) == "why"


def test_an_unknown_error_code_is_still_a_backend_error() -> None:
    assert type(wire.error_of(wire.Failure(1, "new_code", "why"))) is BackendError


def test_a_number_messagepack_cannot_hold_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="64 bits"):
        wire.frame(wire.Generate(1, "llama", wire.raw({}), GenerateRequest(messages=(), extra={"n": 2**64})))


def test_what_is_not_the_protocol_is_refused() -> None:
    with pytest.raises(wire.ProtocolError):
        wire.body_length(b"\xff\xff\xff\xff")
    with pytest.raises(wire.ProtocolError):
        wire.decode_from_client(b"GET / HTTP/1.1")
    with pytest.raises(wire.ProtocolError, match="version"):
        wire.check_hello(wire.Hello(wire.VERSION + 1, 1))
    with pytest.raises(wire.ProtocolError, match="greeting"):
        wire.check_hello(wire.Cancel(1))


def test_usage_so_far_rides_with_a_failure() -> None:
    from adapters.types import AttemptRecord

    attempt = AttemptRecord(backend="b", usage=Usage(input_tokens=5, output_tokens=2, source="counted"))
    assert wire.failure(1, RateLimited("x"), attempt).usage == attempt.usage
