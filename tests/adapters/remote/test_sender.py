"""The sender seam: what goes out whatever the environment says, and what a connection's trouble is called."""

from __future__ import annotations

import gzip
import json
import ssl
import subprocess
import sys
from pathlib import Path

import aiohttp
import httpx2
import openai
import pytest

from adapters.errors import BackendUnavailable, StreamBroken
from adapters.faults import connection_error
from adapters.sender import Endpoint, Sender
from adapters.sender.direct import DirectSender
from adapters.sender.sdk import anthropic_sender, openai_sender
from tests.adapters.remote.kit import KINDS, outcome, remote
from tests.fakes.provider import Cut, FakeProvider, Reply
from tests.fakes.wire import answering

SENDERS = {"openai": openai_sender, "anthropic": anthropic_sender, "gemini": DirectSender}
ROOT = Path(__file__).resolve().parents[3]


def sender(kind: str, url: str, connect_s: float = 5.0) -> Sender:
    return SENDERS[kind](Endpoint(url, "key-1", connect_s))


@pytest.mark.parametrize("kind", KINDS)
async def test_any_status_is_an_answer_and_its_headers_are_in_lower_case(kind: str) -> None:
    async with FakeProvider(Reply([b"teapot"], status=418, headers={"X-Some": "Thing"})) as provider:
        out = sender(kind, provider.url)
        response = await out.post("/path", b"{}", {"x-extra": "1"}, stream=True)
        assert (response.status, response.headers["x-some"], await response.read()) == (418, "Thing", b"teapot")
        await response.aclose()
        await out.aclose()
    exchange = provider.exchanges[0]
    assert (exchange.path, exchange.body, exchange.headers["x-extra"], exchange.headers["accept-encoding"]) == ("/path", b"{}", "1", "identity")
    assert exchange.headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_body_comes_in_pieces_or_whole(kind: str, stream: bool) -> None:
    async with FakeProvider(Reply([b"one ", b"two"])) as provider:
        out = sender(kind, provider.url)
        response = await out.post("/path", b"{}", {}, stream=stream)
        whole = b"".join([piece async for piece in response.aiter_raw()]) if stream else await response.read()
        await response.aclose()
        await out.aclose()
    assert whole == b"one two"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_compresses_unasked_is_understood(kind: str) -> None:
    packed = gzip.compress(b"data: x\n\n")
    async with FakeProvider(Reply([packed], headers={"content-encoding": "gzip", "content-type": "text/event-stream"})) as provider:
        out = sender(kind, provider.url)
        response = await out.post("/path", b"{}", {}, stream=True)
        assert b"".join([piece async for piece in response.aiter_raw()]) == b"data: x\n\n"
        await response.aclose()
        await out.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_cut_body_is_a_broken_stream(kind: str, stream: bool) -> None:
    async with FakeProvider(Reply([b"begun", Cut()])) as provider:
        out = sender(kind, provider.url)
        with pytest.raises(StreamBroken):
            await _read(out, stream)
        await out.aclose()


async def _read(out: Sender, stream: bool) -> None:
    response = await out.post("/path", b"{}", {}, stream=stream)
    try:
        async for _ in response.aiter_raw():
            pass
    finally:
        await response.aclose()


def test_a_connection_that_never_came_about_is_an_unavailable_backend_and_any_other_a_broken_stream() -> None:
    """The SDKs wrap these twice; OpenAI's calls a refused connection a timeout."""
    key = aiohttp.client_reqrep.ConnectionKey("example.invalid", 443, True, True, None, None, None)
    unreached = [
        aiohttp.ClientConnectorDNSError(key, OSError("no such name")),
        aiohttp.ClientConnectorError(key, OSError("refused")),
        aiohttp.ClientConnectorCertificateError(key, ssl.SSLCertVerificationError("expired")),
        aiohttp.ConnectionTimeoutError("too long"),
    ]
    broken = [aiohttp.ServerDisconnectedError(), aiohttp.ClientPayloadError(), ConnectionResetError(), aiohttp.SocketTimeoutError()]
    for cause in [*unreached, *broken]:
        wrapped, outer = httpx2.ConnectTimeout("x"), openai.APITimeoutError(request=httpx2.Request("POST", "http://x"))
        wrapped.__cause__, outer.__cause__ = cause, wrapped
        expected = BackendUnavailable if cause in unreached else StreamBroken
        assert type(connection_error(cause)) is type(connection_error(outer)) is expected


@pytest.mark.parametrize("kind", KINDS)
async def test_no_variable_of_the_environment_changes_what_goes_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "http://127.0.0.1:9"
    for name, value in {
        "OPENAI_BASE_URL": elsewhere, "OPENAI_ORG_ID": "org-leak", "OPENAI_PROJECT_ID": "proj-leak", "OPENAI_CUSTOM_HEADERS": "x-leak: leak",
        "OPENAI_API_KEY": "leak", "OPENAI_ADMIN_KEY": "leak", "ANTHROPIC_BASE_URL": elsewhere, "ANTHROPIC_AUTH_TOKEN": "leak", "ANTHROPIC_API_KEY": "leak",
        "ANTHROPIC_CUSTOM_HEADERS": "x-leak: leak", "GEMINI_API_KEY": "leak", "GOOGLE_API_KEY": "leak", "GOOGLE_GEMINI_BASE_URL": elsewhere,
        "HTTP_PROXY": elsewhere, "http_proxy": elsewhere, "ALL_PROXY": elsewhere, "all_proxy": elsewhere,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    async with FakeProvider(answering(kind)) as provider:
        backend = remote(kind, provider.url)
        _, error, _ = await outcome(backend)
        await backend.aclose()
    assert error is None
    assert "leak" not in json.dumps(provider.exchanges[0].headers)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1", False),
        ("http://127.3.4.5/v1", False),
        ("http://[::1]:8/", False),
        ("http://localhost:1", False),
        ("https://api.openai.com", True),
    ],
)
def test_proxies_of_the_environment_are_not_for_this_machine(url: str, expected: bool) -> None:
    assert Endpoint(url, "k", 1.0).trust_env is expected


def test_an_endpoint_does_not_print_its_key() -> None:
    assert "secret" not in repr(Endpoint("http://x", "secret", 1.0))


def test_importing_the_adapters_imports_no_sdk() -> None:
    modules = "adapters.openai, adapters.anthropic, adapters.gemini, adapters.collect, adapters.prompting"
    program = f"import sys, {modules}\nprint([name for name in ('openai', 'anthropic', 'google.genai', 'httpx2', 'aiohttp') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
