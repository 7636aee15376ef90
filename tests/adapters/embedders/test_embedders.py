"""Remote embedders: what they send, what they make of answers, and how they fail."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.embedders import EmbedderSpec, EmbedRequest, create_embedder
from adapters.embedders.base import RemoteEmbedder
from adapters.embedders.vectors import from_base64, packed, to_base64, unpacked
from adapters.errors import AuthenticationFailed, BackendError, BackendTimeout, BackendUnavailable, InvalidRequest, ProviderFault, RateLimited
from adapters.types import AttemptRecord, Usage
from tests.fakes.provider import FakeProvider, Hang, Reply

TWO = EmbedRequest(("hello", "world"))
JSON = {"content-type": "application/json", "x-request-id": "req-1"}
OPENAI = {"object": "list", "model": "small-2", "data": [{"index": 1, "embedding": [3.0, 4.0]}, {"index": 0, "embedding": [1.0, 2.0]}]}
GEMINI = {"embeddings": [{"values": [1.0, 2.0]}, {"values": [3.0, 4.0]}]}
ANSWERS = {"openai": OPENAI, "gemini": GEMINI}


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    return Reply([json.dumps(body).encode()], status=status, headers={**JSON, **headers})


@asynccontextmanager
async def embedding(kind: str, script: Reply, **table: Any) -> AsyncIterator[tuple[RemoteEmbedder, FakeProvider]]:
    async with FakeProvider(script) as provider:
        url = provider.url + ("/v1" if kind == "openai" else "")
        spec = msgspec.convert({"kind": kind, "model": "small", "base_url": url, **table}, EmbedderSpec)
        embedder = create_embedder("subject", spec, {"SOME_API_KEY": "secret"})
        try:
            yield embedder, provider
        finally:
            await embedder.aclose()


@pytest.mark.parametrize("kind", ["openai", "gemini"])
async def test_vectors_come_in_the_order_of_the_texts(kind: str) -> None:
    attempt = AttemptRecord(backend="subject")
    async with embedding(kind, reply(ANSWERS[kind])) as (embedder, _):
        made = await embedder.embed(TWO, attempt)
    assert [unpacked(vector) for vector in made.vectors] == [[1.0, 2.0], [3.0, 4.0]]
    assert (attempt.called, attempt.provider_request_id) == (True, "req-1")
    # Neither said what it counted.
    assert made.usage == attempt.usage
    assert made.usage.source == "estimated"
    assert made.usage.input_tokens > 0


async def test_openai_is_asked_for_base64_and_takes_every_knob() -> None:
    answer = {**OPENAI, "data": [{"index": 0, "embedding": to_base64(packed([1.5, 2.5]))}], "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    attempt = AttemptRecord(backend="subject")
    async with embedding("openai", reply(answer), api_key_env="SOME_API_KEY", headers={"x-extra": "1"}) as (embedder, provider):
        made = await embedder.embed(EmbedRequest(("hello",), dimensions=2, user="u"), attempt)
    (asked,) = provider.exchanges
    assert (asked.path, asked.headers["authorization"], asked.headers["x-extra"]) == ("/v1/embeddings", "Bearer secret", "1")
    assert asked.json == {"model": "small", "input": ["hello"], "encoding_format": "base64", "dimensions": 2, "user": "u"}
    assert (unpacked(made.vectors[0]), made.model, made.usage) == ([1.5, 2.5], "small-2", Usage(input_tokens=7))


async def test_gemini_is_asked_in_one_batch_and_has_no_user() -> None:
    attempt = AttemptRecord(backend="subject")
    answer = {**GEMINI, "usageMetadata": {"promptTokenCount": 9}}
    async with embedding("gemini", reply(answer), api_key_env="SOME_API_KEY") as (embedder, provider):
        made = await embedder.embed(EmbedRequest(TWO.texts, dimensions=2, user="u"), attempt)
    (asked,) = provider.exchanges
    assert (asked.path, asked.headers["x-goog-api-key"]) == ("/v1beta/models/small:batchEmbedContents", "secret")
    shape = {"model": "models/small", "outputDimensionality": 2}
    assert asked.json == {"requests": [{**shape, "content": {"parts": [{"text": text}]}} for text in TWO.texts]}
    assert (attempt.ignored, made.usage) == (("user",), Usage(input_tokens=9))


FAULTS: list[tuple[Reply, type[BackendError], bool]] = [
    (reply({"error": {"message": "no", "param": "input"}}, 400), InvalidRequest, False),
    (reply({"error": {"message": "no"}}, 401), AuthenticationFailed, False),
    (reply({"error": {"message": "no"}}, 404), BackendUnavailable, False),
    (reply({"error": {"message": "no"}}, 429, **{"retry-after": "7"}), RateLimited, False),
    (reply({"error": {"message": "no"}}, 500), ProviderFault, False),
    (reply({"data": []}), ProviderFault, True),
    (reply({"data": [{"embedding": "?"}, {"embedding": "?"}]}), ProviderFault, True),
    (reply({"data": [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]}), ProviderFault, True),
    (reply({"data": [{"embedding": [1e300]}, {"embedding": [1.0]}]}), ProviderFault, True),
    (reply({"data": [{"embedding": []}, {"embedding": []}]}), ProviderFault, True),
    (reply({"data": [{"index": 1, "embedding": [1.0]}, {"index": 1, "embedding": [2.0]}]}), ProviderFault, True),
    (reply({"data": [{"index": 1, "embedding": [1.0]}, {"index": 2, "embedding": [2.0]}]}), ProviderFault, True),
    (Reply([b"<html>"], headers={"content-type": "text/html"}), ProviderFault, True),
    (Reply([Hang()]), BackendTimeout, True),
]


@pytest.mark.parametrize(("script", "expected", "billed"), FAULTS)
async def test_a_fault_is_typed_and_only_what_was_worked_on_is_billed(script: Reply, expected: type[BackendError], billed: bool) -> None:
    attempt = AttemptRecord(backend="subject")
    async with embedding("openai", script, timeout_s=0.2) as (embedder, _):
        with pytest.raises(expected) as caught:
            await embedder.embed(TWO, attempt)
    assert caught.value.backend == "subject"
    assert attempt.usage is not None
    assert attempt.usage.source == "estimated"
    assert (attempt.usage.input_tokens > 0) == billed


async def test_vectors_of_another_length_than_was_asked_for_are_no_answer_and_are_billed_as_counted() -> None:
    answer = {"data": [{"index": place, "embedding": [1.0, 2.0, 3.0]} for place in range(2)], "usage": {"prompt_tokens": 7}}
    attempt = AttemptRecord(backend="subject")
    async with embedding("openai", reply(answer)) as (embedder, _):
        with pytest.raises(ProviderFault, match="3 numbers, and 2"):
            await embedder.embed(EmbedRequest(TWO.texts, dimensions=2), attempt)
    assert attempt.usage == Usage(input_tokens=7)


async def test_a_count_of_nothing_is_no_count() -> None:
    attempt = AttemptRecord(backend="subject")
    async with embedding("openai", reply({**OPENAI, "usage": {"prompt_tokens": 0}})) as (embedder, _):
        made = await embedder.embed(TWO, attempt)
    assert made.usage.source == "estimated"
    assert made.usage.input_tokens > 0


async def test_nothing_is_called_without_a_key_or_a_server() -> None:
    keyless = create_embedder("subject", EmbedderSpec(kind="openai", model="small"), {})
    assert keyless.health().reason == "OPENAI_API_KEY is not set"
    nobody = create_embedder("subject", EmbedderSpec(kind="openai", model="small", base_url="http://127.0.0.1:9/v1"), {})
    assert nobody.health().ready
    for embedder in (keyless, nobody):
        attempt = AttemptRecord(backend="subject")
        with pytest.raises(BackendUnavailable):
            await embedder.embed(TWO, attempt)
        assert attempt.usage is None or attempt.usage.total_tokens == 0
        await embedder.aclose()
    with pytest.raises(ValueError, match="base_url"):
        create_embedder("subject", EmbedderSpec(kind="openai", model="small", base_url="ftp://example.org"), {})


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_a_vector_survives_every_form(values: list[float]) -> None:
    vector = packed(values)
    assert from_base64(to_base64(vector)) == vector
    assert packed(unpacked(vector)) == vector
    assert packed(json.loads(msgspec.json.encode(unpacked(vector)))) == vector


@pytest.mark.parametrize("text", ["?", "AAA=", "AAAAAAA="])
def test_what_is_no_vector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="embedding"):
        from_base64(text)


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=4))
def test_the_bound_is_never_below_the_bytes(texts: list[str]) -> None:
    embedder = create_embedder("subject", EmbedderSpec(kind="openai", model="small"), {})
    counted = embedder.count(texts)
    assert counted.upper >= sum(len(text.encode("utf-8", "replace")) for text in texts)
    assert counted.n <= counted.upper
