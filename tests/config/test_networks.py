"""Ranges of addresses: what is one, what is inside."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.networks import contains, parse_address, parse_network, parse_networks, within

V4 = st.builds(lambda number, bits: str(ip_network((number, bits), strict=False)), st.integers(0, 2**32 - 1), st.integers(0, 32))
V6 = st.builds(lambda number, bits: str(ip_network((number, bits), strict=False)), st.integers(0, 2**128 - 1), st.integers(0, 128))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a range"),
        ("10.0.0", "is not a range"),
        ("10.0.0.0/33", "is not a range"),
        ("example.com", "is not a range"),
        ("10.0.0.1/8", "did you mean 10.0.0.0/8?"),
        ("2001:db8::1/32", "did you mean 2001:db8::/32?"),
    ],
)
def test_what_is_no_range_is_refused_in_words_that_help(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        parse_network(text)


def test_one_address_is_a_range_of_one() -> None:
    assert [str(each) for each in parse_networks(["203.0.113.7", " 2001:db8::1 "])] == ["203.0.113.7/32", "2001:db8::1/128"]


def test_an_ipv4_address_on_an_ipv6_socket_is_the_ipv4_one() -> None:
    assert within(parse_address("::ffff:10.1.2.3"), parse_networks(["10.0.0.0/8"]))
    assert not within(parse_address("::ffff:10.1.2.3"), parse_networks(["::/0"]))


@given(st.one_of(st.tuples(V4, V4), st.tuples(V6, V6), st.tuples(V4, V6), st.tuples(V6, V4)))
def test_a_range_contains_another_exactly_when_it_has_its_first_and_its_last_address(pair: tuple[str, str]) -> None:
    outer, inner = (ip_network(each) for each in pair)
    both = (inner.network_address, inner.broadcast_address)
    assert contains(*pair) == (outer.version == inner.version and all(within(ip_address(each), [outer]) for each in both))
