"""What opens without a key, and what only looks as if it did."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.middleware import is_open
from tests.e2e.auth_attacks import OPEN, PROTECTED


@given(st.text(alphabet="/.%2eEfFaz\\; \x00", max_size=12), st.sampled_from(OPEN), st.sampled_from(PROTECTED))
def test_an_open_path_holds_no_way_out(steps: str, start: bytes, end: str) -> None:
    path = start.decode() + steps + end
    if is_open(path):
        inside = path.split("/")[1:]
        assert inside[0] in ("health", "schema", "docs")
        assert not {"", ".", ".."} & set(inside)
        assert "%" not in path
        assert path.isprintable()


@pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/docs", "/schema/openapi.json"])
def test_what_is_open_is_open(path: str) -> None:
    assert is_open(path)


@pytest.mark.parametrize(
    "path", ["", "//", "/healthy", "/health/../admin", "/docs/./x", "/docs//x", "//docs", "/docs/", "/docs\\..\\x", "/docs/%2e%2e", "/schema/a\x00"]
)
def test_what_only_looks_open_is_not(path: str) -> None:
    assert not is_open(path)
