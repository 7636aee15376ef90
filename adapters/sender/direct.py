"""A sender on plain aiohttp, for a provider whose SDK offers no raw stream (Gemini)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING

from adapters.faults import connection_error, transport_errors
from adapters.sender import KEEP_ALIVE_S, MAX_CONNECTIONS, SENT_HEADERS, Endpoint

if TYPE_CHECKING:
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
    """Posts below `endpoint.base_url`; the adapter's headers carry the credentials."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None
        self._errors = transport_errors()

    def _connected(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._endpoint.connect_s, sock_connect=self._endpoint.connect_s),
                trust_env=self._endpoint.trust_env,
            )
        return self._session

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, stream: bool) -> DirectResponse:
        url = self._endpoint.base_url.rstrip("/") + path
        try:
            response = await self._connected().post(url, data=body, headers={**SENT_HEADERS, **headers}, allow_redirects=False)
        except self._errors as error:
            raise connection_error(error) from error
        raw = DirectResponse(response, self._errors)
        if not stream:
            await raw.read()
        return raw

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
