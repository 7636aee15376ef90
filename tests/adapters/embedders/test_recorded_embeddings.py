"""Every recorded exchange of embeddings: the embedder says of it what the provider's SDK says of the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from adapters.embedders import Embedded, EmbedderSpec, EmbedRequest, create_embedder
from adapters.embedders.vectors import packed
from adapters.errors import BackendUnavailable
from adapters.types import AttemptRecord
from tests.adapters.remote.recordings import ABSENT, WithHeaders, interactions, present, replaying

pytestmark = [
    pytest.mark.skipif(not present(), reason=ABSENT),
    # The SDK subclasses aiohttp's session, of which aiohttp disapproves.
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
]

OPENAI = [each for each in interactions() if each["path"] == "/v1/embeddings"]
GEMINI = [each for each in interactions() if each["path"].endswith(":batchEmbedContents")]


@pytest.fixture(scope="module")
def replay_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with replaying(tmp_path_factory.mktemp("replay")) as url:
        yield url


async def ours(kind: Any, url: str, recording: str, texts: int) -> tuple[Embedded, AttemptRecord]:
    embedder = create_embedder("subject", EmbedderSpec(kind=kind, model="recorded", base_url=url), {})
    assert embedder.sender is not None
    embedder.sender = WithHeaders(embedder.sender, {"x-replay-id": recording})
    attempt = AttemptRecord(backend="subject")
    try:
        return await embedder.embed(EmbedRequest(("x",) * texts), attempt), attempt
    finally:
        await embedder.aclose()


@pytest.mark.parametrize("exchange", OPENAI, ids=[each["id"] for each in OPENAI])
async def test_openais_vectors_are_what_the_sdk_says(replay_url: str, exchange: dict[str, Any]) -> None:
    import openai

    url, texts = f"{replay_url}/openai/v1", exchange["req"]["input"]
    async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
        if exchange["status"] != 200:
            with pytest.raises(openai.NotFoundError) as refused:
                await client.embeddings.create(model="recorded", input=texts, extra_headers={"x-replay-id": exchange["id"]})
            with pytest.raises(BackendUnavailable) as caught:
                await ours("openai", url, exchange["id"], len(texts))
            assert caught.value.provider_status == refused.value.status_code == 404
            assert caught.value.provider_code == refused.value.code
            return
        theirs = await client.embeddings.create(model="recorded", input=texts, extra_headers={"x-replay-id": exchange["id"]})
    made, attempt = await ours("openai", url, exchange["id"], len(texts))
    assert list(made.vectors) == [packed(each.embedding) for each in theirs.data]
    assert (made.model, made.usage.input_tokens, made.usage.source) == (theirs.model, theirs.usage.prompt_tokens, "provider")
    assert attempt.usage == made.usage


@pytest.mark.parametrize("exchange", GEMINI, ids=[each["id"] for each in GEMINI])
async def test_geminis_vectors_are_what_the_sdk_says(replay_url: str, exchange: dict[str, Any]) -> None:
    from google import genai
    from google.genai.types import HttpOptions

    texts = len(exchange["req"]["requests"])
    contents: Any = ["x"] * texts
    options = HttpOptions(base_url=f"{replay_url}/gemini", api_version="v1beta", headers={"x-replay-id": exchange["id"]})
    async with genai.Client(api_key="k", http_options=options).aio as client:
        theirs = await client.models.embed_content(model="gemini-embedding-001", contents=contents)
    made, _ = await ours("gemini", f"{replay_url}/gemini", exchange["id"], texts)
    assert list(made.vectors) == [packed(each.values or []) for each in theirs.embeddings or []]
    # The SDK drops the count that newer models give.
    told = json.loads(exchange["body"]).get("usageMetadata", {}).get("promptTokenCount")
    assert (made.usage.source == "provider") == (told is not None)
    assert told is None or made.usage.input_tokens == told
