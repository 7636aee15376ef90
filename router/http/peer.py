"""Who is at the other end of a connection."""

from __future__ import annotations

from collections.abc import Sequence

from litestar.types import Scope


def client_address(scope: Scope, trusted_proxies: Sequence[str] = ()) -> str:
    """The address of the client, as far as the connection says; empty where it does not."""
    client = scope.get("client")
    return client[0] if client else ""
