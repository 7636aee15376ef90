"""Ranges of addresses in CIDR notation, IPv4 and IPv6."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


def parse_network(text: str) -> Network:
    """A range such as `10.0.0.0/8`, `2001:db8::/32`, or one address. Raises `ValueError` in words that say what to write."""
    try:
        network = ip_network(text.strip(), strict=False)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not a range of addresses; write one as 10.0.0.0/8, 203.0.113.7 or 2001:db8::/32") from None
    written, _, bits = text.strip().partition("/")
    if bits and ip_address(written) != network.network_address:
        raise ValueError(f"{text[:80]!r} has bits set beyond its prefix; did you mean {network}?")
    return network


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Raises `ValueError` for the first that is none."""
    return tuple(parse_network(text) for text in texts)


def parse_address(text: str) -> Address:
    """An address; an IPv4 one that came over an IPv6 socket (`::ffff:203.0.113.7`) is the IPv4 one. Raises `ValueError`."""
    address = ip_address(text)
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of the ranges."""
    return any(address.version == network.version and address in network for network in networks)


def contains(outer: str, inner: str) -> bool:
    """Whether one range, as text, has all of another. Raises `ValueError` where either is none."""
    wide, narrow = parse_network(outer), parse_network(inner)
    if isinstance(wide, IPv4Network):
        return isinstance(narrow, IPv4Network) and narrow.subnet_of(wide)
    return isinstance(narrow, IPv6Network) and narrow.subnet_of(wide)
