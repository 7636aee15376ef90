"""The seam through which bytes go out to a provider.

An adapter knows a path, a body and headers; a sender knows connections, credentials, proxies and timeouts. A faster sender can replace one
without touching an adapter.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from msgspec import Struct

MAX_CONNECTIONS = 10_000
"""Per backend. Concurrency is limited by policy, not by a connection pool in which requests would wait unseen."""

KEEP_ALIVE_S = 30.0

SENT_HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}
"""Compression would delay the events of a stream."""


class RawResponse(Protocol):
    """An answer whose status and headers have come; any status, none is raised. Names of `headers` are in lower case.

    `aiter_raw` yields the body as it arrives and `read` returns the whole of it (either, once); both raise only `BackendError`. `aclose`
    may come at any time: it closes the socket at once unless the body was read to its end.
    """

    status: int
    headers: Mapping[str, str]

    def aiter_raw(self) -> AsyncGenerator[bytes, None]: ...

    async def read(self) -> bytes: ...

    async def aclose(self) -> None: ...


class Sender(Protocol):
    """Posts a body to a path below one provider's address. One attempt: no retry, no redirect.

    `post` returns when the headers are there (with `stream=False` when the body is there too) and raises only `BackendError`:
    `BackendUnavailable` where no connection came about. There is no read timeout: how long to wait is the caller's business. The connections
    belong to the event loop of the first `post`.
    """

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, stream: bool) -> RawResponse: ...

    async def aclose(self) -> None: ...


class Endpoint(Struct, frozen=True):
    """Where a sender sends. `connect_s` bounds name resolution, connecting and the TLS handshake together."""

    base_url: str
    api_key: str
    connect_s: float

    @property
    def trust_env(self) -> bool:
        """Whether proxies of the environment apply: never for an address on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        if host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return True

    def __repr__(self) -> str:
        return f"Endpoint(base_url={self.base_url!r})"
