"""Senders on the official SDKs' clients in raw mode, over their aiohttp transport.

The SDKs bring credentials, headers and API versions; their objects per event are not used (they cost several times the rest). Every value
that they would take from the environment is given, so that a variable meant for another program changes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from adapters.faults import connection_error, transport_errors
from adapters.sender import KEEP_ALIVE_S, MAX_CONNECTIONS, SENT_HEADERS, Endpoint

if TYPE_CHECKING:
    import httpx2


class SdkResponse:
    """An `httpx2.Response` of either SDK."""

    def __init__(self, response: httpx2.Response, errors: tuple[type[Exception], ...]) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self._response = response
        self._errors = errors

    async def aiter_raw(self) -> AsyncGenerator[bytes, None]:
        response = self._response
        # `identity` was asked for; a server that compresses all the same is understood, at some cost.
        source = response.aiter_bytes() if "content-encoding" in self.headers else response.aiter_raw()
        try:
            async with contextlib.aclosing(source) as pieces:
                async for piece in pieces:
                    yield piece
        except self._errors as error:
            raise connection_error(error) from error

    async def read(self) -> bytes:
        try:
            return await self._response.aread()
        except self._errors as error:
            raise connection_error(error) from error

    async def aclose(self) -> None:
        try:
            await self._response.aclose()
        except self._errors as error:
            raise connection_error(error) from error


class _Client(Protocol):
    """What is used of an SDK's client."""

    def post(
        self, path: str, /, *, cast_to: type, content: bytes, options: dict[str, object], stream: bool, stream_cls: type
    ) -> Awaitable[httpx2.Response]: ...

    async def close(self) -> None: ...


class SdkSender:
    """Posts with an SDK's client, which `make` builds when the first request is sent, on the event loop that will own its connections."""

    def __init__(self, make: Callable[[], _Client], status_error: type[Exception], connection: type[Exception], stream_cls: type) -> None:
        import httpx2

        self._make = make
        self._client: _Client | None = None
        self._response = httpx2.Response
        self._status_error = status_error
        self._errors: tuple[type[Exception], ...] = (connection, httpx2.HTTPError, httpx2.StreamError, *transport_errors())
        self._stream_cls = stream_cls

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, stream: bool) -> SdkResponse:
        if self._client is None:
            self._client = self._make()
        options: dict[str, object] = {"headers": {**SENT_HEADERS, **headers}}
        try:
            response = await self._client.post(path, cast_to=self._response, content=body, options=options, stream=stream, stream_cls=self._stream_cls)
        except self._status_error as error:
            # Both SDKs have read the body of such an answer to its end.
            response = cast("Any", error).response
        except self._errors as error:
            raise connection_error(error) from error
        return SdkResponse(response, self._errors)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()


def openai_sender(endpoint: Endpoint) -> SdkSender:
    """A sender on `openai.AsyncOpenAI`. Imports the SDK."""
    import openai

    def make() -> _Client:
        client = openai.AsyncOpenAI(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=_timeout(endpoint),
            http_client=openai.DefaultAioHttpClient(**_http_options(endpoint)),
        )
        # None in the constructor would mean: look into the environment.
        client.organization = client.project = client.admin_api_key = client.webhook_secret = None
        return _without_custom_headers(client)

    return SdkSender(make, openai.APIStatusError, openai.APIConnectionError, openai.AsyncStream)


def anthropic_sender(endpoint: Endpoint) -> SdkSender:
    """A sender on `anthropic.AsyncAnthropic`. Imports the SDK."""
    import anthropic

    def make() -> _Client:
        client = anthropic.AsyncAnthropic(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=_timeout(endpoint),
            open_telemetry=False,
            http_client=anthropic.DefaultAioHttpClient(**_http_options(endpoint)),
        )
        client.webhook_key = None
        return _without_custom_headers(client)

    return SdkSender(make, anthropic.APIStatusError, anthropic.APIConnectionError, anthropic.AsyncStream)


def _without_custom_headers(client: Any) -> _Client:
    """`OPENAI_CUSTOM_HEADERS` and `ANTHROPIC_CUSTOM_HEADERS` are merged into whatever the constructor gets, so they are taken out again."""
    client._custom_headers = {}
    return cast("_Client", client)


def _timeout(endpoint: Endpoint) -> httpx2.Timeout:
    import httpx2

    # The transport reads `pool` as the whole way to a connection, name resolution included.
    return httpx2.Timeout(None, connect=endpoint.connect_s, pool=endpoint.connect_s)


def _http_options(endpoint: Endpoint) -> dict[str, Any]:
    import httpx2

    return {
        "verify": _tls(),
        "trust_env": endpoint.trust_env,
        "follow_redirects": False,
        "timeout": _timeout(endpoint),
        "limits": httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE_S),
    }


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all clients: reading the root certificates costs some 20 ms and a megabyte each time."""
    import httpx2

    return httpx2.create_ssl_context()
