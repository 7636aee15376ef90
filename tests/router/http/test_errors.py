"""Bodies of the wrong shape."""

from __future__ import annotations

from typing import Any

import pytest

from router.http.errors import ApiError, decode_body


def test_a_body_nested_too_deeply_is_refused_and_not_a_fault_of_the_service() -> None:
    with pytest.raises(ApiError) as refused:
        decode_body(b"[" * 100_000 + b"]" * 100_000, list[Any])
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")
