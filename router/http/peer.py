"""The address a request comes from, also behind proxies that are trusted to say it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from litestar.types import Scope

from config.networks import Address, Network, parse_address, within

FORWARDED_FOR = b"x-forwarded-for"


def client_address(scope: Scope, trusted_proxies: Sequence[Network]) -> Address | None:
    """The client's address: the other end of the connection or, while that is a trusted proxy, the one it says it got the request from.

    `X-Forwarded-For` is read from its right end, where the nearest proxy wrote: the first address that is no trusted proxy's is the client, and
    what stands to its left is only what that client said. Without trusted proxies the header counts for nothing. None where the address cannot be
    told: a proxy wrote something that is no address, or the connection has none (a Unix socket).
    """
    client = scope["client"]
    try:
        address = parse_address(client[0]) if client else None
        if address is None or not within(address, trusted_proxies):
            return address
        for hop in _hops(scope):
            address = parse_address(_without_port(hop))
            if not within(address, trusted_proxies):
                break
    except ValueError:
        return None
    return address


def _hops(scope: Scope) -> Iterator[str]:
    """What the header says, nearest first; a header sent twice is one list."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == FORWARDED_FOR]
    for value in reversed(values):
        for hop in reversed(value.split(",")):
            if hop := hop.strip():
                yield hop


def _without_port(hop: str) -> str:
    """Some proxies write `203.0.113.7:5123` and `[2001:db8::1]:5123`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
