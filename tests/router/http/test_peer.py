"""Who is at the other end: only trusted proxies are believed."""

from __future__ import annotations

from typing import Any

import pytest

from config.networks import parse_networks
from router.http.peer import client_address, from_trusted_proxy

TRUSTED = parse_networks(("10.0.0.0/8", "::1"))


def scope(peer: str | None, *forwarded: bytes) -> Any:
    return {"client": (peer, 1) if peer is not None else None, "headers": [(b"x-forwarded-for", value) for value in forwarded]}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", (), "203.0.113.7"),
        ("203.0.113.7", (b"1.2.3.4",), "203.0.113.7"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", (b"1.2.3.4",), "1.2.3.4"),
        ("10.0.0.1", (b"9.9.9.9, 1.2.3.4",), "1.2.3.4"),
        ("10.0.0.1", (b"9.9.9.9, 1.2.3.4, 10.2.2.2",), "1.2.3.4"),
        ("10.0.0.1", (b"9.9.9.9", b"1.2.3.4"), "1.2.3.4"),
        ("10.0.0.1", (b"10.1.1.1",), "10.1.1.1"),
        ("10.0.0.1", (b"9.9.9.9, unknown",), "10.0.0.1"),
        ("10.0.0.1", (b"9.9.9.9, unknown, 10.3.3.3",), "10.3.3.3"),
        ("10.0.0.1", (b"",), "10.0.0.1"),
        ("10.0.0.1", (b"\xff\xfe",), "10.0.0.1"),
        ("::1", (b"2001:db8::5",), "2001:db8::5"),
        ("::ffff:10.0.0.1", (b"1.2.3.4",), "1.2.3.4"),
        ("testclient", (b"1.2.3.4",), "None"),
        (None, (b"1.2.3.4",), "None"),
    ],
)
def test_the_client_is_the_last_address_that_no_trusted_proxy_has(peer: str | None, forwarded: tuple[bytes, ...], client: str) -> None:
    assert str(client_address(scope(peer, *forwarded), TRUSTED)) == client


def test_without_trusted_proxies_nobody_is_one() -> None:
    assert not from_trusted_proxy(scope("127.0.0.1"), ())
    assert from_trusted_proxy(scope("10.9.9.9"), TRUSTED)
    assert not from_trusted_proxy(scope(None), TRUSTED)
