"""The client's address: who is believed, and from which end the header is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.networks import parse_networks
from router.http.peer import client_address

PROXIES = parse_networks(["10.0.0.0/8", "2001:db8:1::/48"])
TRUSTED = st.sampled_from(["10.0.0.1", "10.9.9.9", "2001:db8:1::7", "10.0.0.3:5123", "[2001:db8:1::8]:443", "::ffff:10.0.0.4"])
OTHERS = st.sampled_from(["203.0.113.7", "2001:db8:2::1", "192.168.0.1", "127.0.0.1"])


def scope(peer: str | None, *headers: str) -> Any:
    return {"client": None if peer is None else (peer, 1234), "headers": [(b"x-forwarded-for", header.encode("latin-1")) for header in headers]}


def seen(peer: str | None, *headers: str, proxies: Any = PROXIES) -> str | None:
    found = client_address(scope(peer, *headers), proxies)
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("203.0.113.7", (), "203.0.113.7"),
        ("203.0.113.7", ("198.51.100.1",), "203.0.113.7"),
        ("10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.1.1.1, 198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", ("1.1.1.1, 198.51.100.1, 10.0.0.2",), "198.51.100.1"),
        ("10.0.0.1", ("1.1.1.1", "198.51.100.1, 10.0.0.2"), "198.51.100.1"),
        ("10.0.0.1", ("198.51.100.1:443",), "198.51.100.1"),
        ("10.0.0.1", ("[2001:db8:2::1]:443",), "2001:db8:2::1"),
        ("10.0.0.1", ("2001:db8:2::1",), "2001:db8:2::1"),
        ("2001:db8:1::1", ("198.51.100.1",), "198.51.100.1"),
        ("::ffff:10.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("10.0.0.9, 10.0.0.2",), "10.0.0.9"),
        ("10.0.0.1", ("",), "10.0.0.1"),
        ("10.0.0.1", ("unknown",), None),
        ("10.0.0.1", ("198.51.100.1, unknown",), None),
        ("10.0.0.1", ("garbage, 198.51.100.1",), "198.51.100.1"),
        ("not an address", (), None),
        (None, ("198.51.100.1",), None),
    ],
)
def test_the_header_is_read_from_its_right_over_trusted_proxies_only(peer: str | None, headers: tuple[str, ...], client: str | None) -> None:
    assert seen(peer, *headers) == client


@given(OTHERS, st.lists(st.text(alphabet=st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=40)))
def test_without_a_trusted_proxy_no_header_counts(peer: str, headers: list[str]) -> None:
    assert seen(peer, *headers) == seen(peer, *headers, proxies=()) == seen(peer)


@given(st.text(alphabet=st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=60), OTHERS, st.lists(TRUSTED, max_size=4))
def test_whatever_a_client_writes_its_address_is_the_one_that_the_first_trusted_proxy_saw(written: str, client: str, hops: list[str]) -> None:
    header = ", ".join([*([written] if written else []), client, *hops])
    assert seen("10.0.0.1", header) == client
    assert seen("10.0.0.1", *([written] if written else []), client, *hops) == client
