"""One credential, from two headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.credentials.presented import LONGEST, Malformed, presented_key

Headers = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"authorization", b"Bearer hg-a")], "hg-a"),
        ([(b"authorization", b"bearer  hg-a ")], "hg-a"),
        ([(b"x-api-key", b" hg-a\t")], "hg-a"),
        ([(b"x-api-key", b"hg-a"), (b"authorization", b"Bearer hg-a")], "hg-a"),
        ([(b"authorization", b"Basic dTpw"), (b"x-api-key", b"hg-a")], "hg-a"),
        ([(b"authorization", b"Bearer "), (b"x-api-key", b"hg-a")], "hg-a"),
        ([(b"authorization", b"Bearer hg-a"), (b"x-api-key", b"")], "hg-a"),
        ([(b"authorization", b"Basic dTpw")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"hg-a")], None),
        ([(b"authorization", b"Bearerhg-a")], None),
        ([(b"x-api-key", b"")], None),
        ([(b"cookie", b"authorization=Bearer hg-a")], None),
        ([(b"x-api-key", b"k" * LONGEST)], "k" * LONGEST),
    ],
)
def test_a_key_stands_in_either_header(headers: Headers, key: str | None) -> None:
    assert presented_key(headers) == key


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"hg-a")] * 2,
        [(b"authorization", b"Bearer hg-a")] * 2,
        [(b"authorization", b"Basic dTpw"), (b"authorization", b"Bearer hg-a")],
        [(b"x-api-key", b""), (b"x-api-key", b"hg-a")],
        [(b"x-api-key", b"hg-b"), (b"authorization", b"Bearer hg-a")],
        [(b"x-api-key", b"hg-a b")],
        [(b"x-api-key", b"hg-a,hg-b\x00")],
        [(b"x-api-key", b"hg-\xc3\xa9")],
        [(b"x-api-key", b"hg-\xff")],
        [(b"authorization", b"Bearer hg-a\x7f")],
        [(b"authorization", b"Bearer hg-a\thg-b")],
        [(b"x-api-key", b"k" * (LONGEST + 1))],
    ],
)
def test_what_is_no_single_credential_is_malformed(headers: Headers) -> None:
    with pytest.raises(Malformed):
        presented_key(headers)


@given(st.lists(st.tuples(st.sampled_from([b"x-api-key", b"authorization", b"host"]), st.binary(max_size=30)), max_size=5))
def test_any_headers_give_a_key_of_printable_ascii_or_none_or_are_malformed(headers: Headers) -> None:
    try:
        key = presented_key(headers)
    except Malformed:
        return
    assert key is None or (key.isascii() and key.isprintable() and " " not in key and key.encode() in b" ".join(value for _, value in headers))
