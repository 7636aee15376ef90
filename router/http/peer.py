"""Where a request comes from: the peer of its connection, or, where that is a trusted proxy, the client that it names."""

from __future__ import annotations

from collections.abc import Sequence

from litestar.types import Scope

from config.networks import Address, Network, parse_address, within


def peer_address(scope: Scope) -> Address | None:
    """The other end of the connection; None for a Unix socket."""
    client = scope["client"]
    try:
        return parse_address(client[0]) if client else None
    except ValueError:
        return None


def from_trusted_proxy(scope: Scope, trusted: Sequence[Network]) -> bool:
    """Whether the other end of the connection is one of the proxies whose headers are believed."""
    peer = peer_address(scope) if trusted else None
    return peer is not None and within(peer, trusted)


def client_address(scope: Scope, trusted: Sequence[Network]) -> Address | None:
    """The client: behind trusted proxies, the last address in `X-Forwarded-For` that is none of them. Anybody else's header is not read."""
    found = peer_address(scope)
    if found is None or not trusted or not within(found, trusted):
        return found
    named = ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for")
    for text in reversed(named.split(",")) if named else ():
        try:
            address = parse_address(text.strip())
        except ValueError:
            return found
        found = address
        if not within(address, trusted):
            break
    return found
