"""The sender on plain aiohttp. An SDK may lend it the headers of its client (`adapters.sender.sdk`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING

from adapters.faults import connection_error, transport_errors
from adapters.sender import KEEP_ALIVE_S, MAX_CONNECTIONS, SENT_HEADERS, Endpoint

if TYPE_CHECKING:
    import ssl

    import aiohttp


class DirectResponse:
    def __init__(self, response: aiohttp.ClientResponse, errors: tuple[type[Exception], ...]) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._errors = errors

    async def aiter_raw(self) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except self._errors as error:
            raise connection_error(error) from error

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except self._errors as error:
            raise connection_error(error) from error

    async def aclose(self) -> None:
        # Back to the pool when the body was read to its end, else closed.
        self._response.release()


class DirectSender:
    """Posts below `endpoint.base_url`. `headers` go out with every request, before the adapter's own; `tls` makes the context for `https:`."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str] | None = None, tls: Callable[[], ssl.SSLContext] | None = None) -> None:
        self._endpoint = endpoint
        self._url = endpoint.base_url.rstrip("/")
        self._headers = {**{name.lower(): value for name, value in (headers or {}).items()}, **SENT_HEADERS}
        self._tls = tls if self._url.startswith("https:") else None
        self._session: aiohttp.ClientSession | None = None
        self._errors = transport_errors()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            tls = True if self._tls is None else self._tls()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S, ssl=tls),
                # No cookie of one tenant's answer may go out with another's request.
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._endpoint.connect_s, sock_connect=self._endpoint.connect_s),
                trust_env=self._endpoint.trust_env,
            )
        return self._session

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, stream: bool) -> DirectResponse:
        sent = {**self._headers, **headers} if headers else self._headers
        try:
            response = await self._connected().post(self._url + path, data=body, headers=sent, allow_redirects=False)
        except self._errors as error:
            raise connection_error(error) from error
        raw = DirectResponse(response, self._errors)
        if not stream:
            await raw.read()
        return raw

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
