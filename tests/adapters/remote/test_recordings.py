"""How many exchanges were recorded of each API, and Anthropic's streams through the whole driver, over a socket.

What the adapters make of them is compared with what the providers' own SDKs say in `test_chat_recordings`, `test_responses_recordings`,
`test_anthropic_recordings` and `test_gemini_recordings`.
"""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from adapters.anthropic.messages_stream import MessageDecoder
from adapters.backend import BackendContext, create_backend, kind_named
from adapters.errors import BackendUnavailable
from adapters.remote import RemoteBackend
from adapters.sse import SseParser
from adapters.types import Event
from tests.adapters.remote.kit import outcome
from tests.adapters.remote.recordings import ABSENT, WithHeaders, interactions, present, recorded_ids

pytestmark = pytest.mark.skipif(not present(), reason=ABSENT)

RECORDED = {
    "/chat/completions": 129,
    "/responses": 169,
    "/responses/compact": 4,  # another operation, which no backend makes
    "/messages": 173,
    "/messages/count_tokens": 5,
    ":generateContent": 163,
    ":streamGenerateContent": 10,
    ":countTokens": 3,
    ":batchEmbedContents": 8,
    "/embeddings": 4,
}
"""By the last part of the path, before any id."""


def api(path: str) -> str | None:
    return next((name for name in sorted(RECORDED, key=len, reverse=True) if name in path), None)


def test_every_recorded_exchange_of_an_api_that_is_spoken_here_is_counted() -> None:
    counted = Counter(api(each["path"]) for each in interactions())
    files_and_sessions = counted.pop(None)
    assert counted == RECORDED
    assert files_and_sessions == 34
    assert counted.total() + files_and_sessions == len(interactions()) == 702


async def replayed(replay_url: str, recording: str) -> tuple[list[Event], Exception | None]:
    spec = msgspec.convert({"kind": "anthropic", "model": "recorded", "base_url": f"{replay_url}/anthropic"}, kind_named("anthropic").spec)
    backend = create_backend("recorded", spec, BackendContext(environ={}))
    assert isinstance(backend, RemoteBackend)
    assert backend.sender is not None
    backend.sender = WithHeaders(backend.sender, {"x-replay-id": recording})
    try:
        events, error, _ = await outcome(backend)
    finally:
        await backend.aclose()
    return events, error


@pytest.mark.parametrize("recording", recorded_ids("anthropic", "/v1/messages"))
async def test_the_driver_loses_nothing_of_a_stream(recording: str, replay_url: str) -> None:
    (body,) = [each["body"] for each in interactions() if each["id"] == recording]
    parser, decoder = SseParser(), MessageDecoder()
    said = [event for piece in (parser.feed(body.encode()), parser.finish()) for each in piece for event in decoder.feed(each)]
    assert await replayed(replay_url, recording) == ([*said, *decoder.finish()], None)


@pytest.mark.parametrize("recording", recorded_ids("anthropic", "/v1/messages", stream=False, status=404))
async def test_a_recorded_error_keeps_status_code_and_message(recording: str, replay_url: str) -> None:
    _, error = await replayed(replay_url, recording)
    assert isinstance(error, BackendUnavailable)
    assert (error.provider_status, error.provider_code) == (404, "not_found_error")
    assert error.provider_request_id is not None
    assert len(error.message) > 10
