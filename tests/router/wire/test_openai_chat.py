"""What a chat request's body may say."""

from __future__ import annotations

import json

import pytest

from router.http.errors import ApiError
from router.sealing import Sealer
from router.wire.openai_chat import decode_chat

SEAL = Sealer(b"a secret of the tests, long enough").of("acme")


def body(**fields: object) -> bytes:
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()


@pytest.mark.parametrize(
    ("field", "value"), [("max_tokens", 2**31), ("max_completion_tokens", 10**30), ("seed", 2**63), ("seed", -(10**30)), ("max_tokens", 0)]
)
def test_numbers_beyond_what_anything_stores_are_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(ApiError) as raised:
        decode_chat(body(**{field: value}), SEAL)
    assert (raised.value.status, raised.value.detail.param) == (400, field)


def test_the_largest_numbers_are_taken() -> None:
    request = decode_chat(body(max_tokens=2**31 - 1, seed=-(2**63)), SEAL).request
    assert (request.max_output_tokens, request.seed) == (2**31 - 1, -(2**63))
