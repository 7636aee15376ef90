"""What the tests of this folder share: a backend of any kind on a scripted provider, and streams read to their end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec

import adapters.anthropic
import adapters.gemini
import adapters.openai  # noqa: F401 - importing an adapter registers it
from adapters.backend import BackendContext, create_backend, kind_named
from adapters.errors import BackendError
from adapters.remote import RemoteBackend
from adapters.types import AttemptRecord, Event, GenerateRequest, Message, TextPart
from tests.fakes.provider import FakeProvider, Reply, Script

KINDS = ("openai", "anthropic", "gemini")
ASKED = GenerateRequest(messages=(Message("user", (TextPart("Say hello to the world, please."),)),))


def remote(kind: str, url: str, environ: dict[str, str] | None = None, **table: Any) -> RemoteBackend:
    """`url` is the provider's host root."""
    spec = kind_named(kind).spec
    made = create_backend(
        "subject",
        msgspec.convert({"kind": kind, "model": "some-model", "base_url": url + ("/v1" if kind == "openai" else ""), **table}, spec),
        BackendContext(environ=environ or {}),
    )
    assert isinstance(made, RemoteBackend)
    return made


@asynccontextmanager
async def serving(kind: str, script: Reply | list[Reply] | Script, **table: Any) -> AsyncGenerator[tuple[RemoteBackend, FakeProvider]]:
    async with FakeProvider(script) as provider:
        backend = remote(kind, provider.url, **table)
        try:
            yield backend, provider
        finally:
            await backend.aclose()


async def outcome(backend: RemoteBackend, request: GenerateRequest = ASKED) -> tuple[list[Event], BackendError | None, AttemptRecord]:
    """Everything that came, the error that ended it, and the attempt's record."""
    attempt = AttemptRecord(backend=backend.name)
    seen: list[Event] = []
    try:
        async with aclosing(backend.generate(request, attempt)) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - what came before an error counts
    except BackendError as error:
        return seen, error, attempt
    return seen, None, attempt


def said(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]
