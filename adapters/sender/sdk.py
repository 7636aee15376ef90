"""Senders with the official SDKs' credentials, headers and API versions, over plain aiohttp.

The SDK's client is made once and asked what goes out with every request; it never sends one itself. Sending with it, even in raw mode, costs
about 400 us of CPU a request more, a third of what the whole gateway spends (`docs/benchmarks.md`). Every value that the SDKs would take from
the environment is given, so that a variable meant for another program changes nothing.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adapters.sender import Endpoint
from adapters.sender.direct import DirectSender

if TYPE_CHECKING:
    import httpx2


def openai_sender(endpoint: Endpoint) -> DirectSender:
    """A sender that speaks as `openai.AsyncOpenAI`. Imports the SDK."""
    import openai

    client = openai.AsyncOpenAI(api_key=endpoint.api_key, base_url=endpoint.base_url, http_client=_unused())
    # None in the constructor would mean: look into the environment.
    client.organization = client.project = client.admin_api_key = client.webhook_secret = None
    return DirectSender(endpoint, _headers(client), _tls)


def anthropic_sender(endpoint: Endpoint) -> DirectSender:
    """A sender that speaks as `anthropic.AsyncAnthropic`. Imports the SDK."""
    import anthropic

    client = anthropic.AsyncAnthropic(api_key=endpoint.api_key, base_url=endpoint.base_url, open_telemetry=False, http_client=_unused())
    client.webhook_key = None
    return DirectSender(endpoint, _headers(client), _tls)


def _unused() -> httpx2.AsyncClient:
    """A transport for the SDK's constructor: no certificates are read and no proxy of the environment is looked for. Nothing is sent with it."""
    import httpx2

    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError(f"the SDK's own client is not for sending ({request.url})")

    return httpx2.AsyncClient(transport=httpx2.MockTransport(refuse), trust_env=False)


def _headers(client: Any) -> Mapping[str, str]:
    """What the client puts on every request. What it leaves out is a marker instead of a string."""
    # `OPENAI_CUSTOM_HEADERS` and `ANTHROPIC_CUSTOM_HEADERS` are merged into whatever the constructor gets, so they are taken out again.
    client._custom_headers = {}
    return {name: value for name, value in {**client.default_headers, **client.auth_headers}.items() if isinstance(value, str)}


@functools.cache
def _tls() -> ssl.SSLContext:
    """The SDKs' root certificates; one for all senders: reading them costs some 20 ms and a megabyte each time."""
    import httpx2

    return httpx2.create_ssl_context()
