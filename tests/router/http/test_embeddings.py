"""`POST /v1/embeddings` as the OpenAI SDK meets it: vectors, money, access, and what is refused."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import openai
import pytest
from sqlalchemy import select

from adapters.embedders.vectors import packed
from adapters.embedding import SentenceEmbedder
from router.audit.replaying import records
from router.audit.tables import decisions
from router.compute.client import ComputeClient
from router.compute.server import ComputeServer
from router.compute.services import Services
from tests import openai_schema
from tests.e2e.money_books import read_budgets, settled_books
from tests.fakes.provider import Exchange, FakeProvider, Hang, Reply
from tests.serving import Service, serving, until

POLICY = """
version: 1
backends:
  chat: {{kind: scripted, text: "Hello."}}
embedders:
  small: {{kind: openai, model: text-embedding-3-small, base_url: "{url}/v1", price: {{input: 20.0, output: 0}}}}
  google: {{kind: gemini, model: gemini-embedding-2, base_url: "{url}", price: {{input: 5.0, output: 0}}, clearance: public, timeout_s: 1.5}}
default: chat
input: {{max_characters: 5000, deny_list: [forbidden]}}
tenants:
  acme: {{data_class: public, budget_usd: {{day: {day}}}}}
"""


def answering(exchange: Exchange) -> Reply:
    """Each text's vector is its length and its place; the text `fail` makes the provider fail, and `hang` makes it silent."""
    texts = exchange.json["input"] if "input" in exchange.json else [each["content"]["parts"][0]["text"] for each in exchange.json["requests"]]
    if "fail" in texts:
        return Reply([b'{"error": {"message": "of joe@example.com"}}'], status=500, headers={"content-type": "application/json"})
    if "hang" in texts:
        return Reply([Hang()])
    data = [{"index": place, "embedding": [float(len(text)), float(place)]} for place, text in enumerate(texts)]
    body: dict[str, Any] = {"embeddings": [{"values": each["embedding"]} for each in data]}
    if "input" in exchange.json:
        body = {"data": data, "model": "text-embedding-3-small", "usage": {"prompt_tokens": 11, "total_tokens": 11}}
    return Reply([json.dumps(body).encode()], headers={"content-type": "application/json", "x-request-id": "up-1"})


@asynccontextmanager
async def running(home: Path, *, day: float = 10.0, compute: Any = None) -> AsyncIterator[tuple[Service, FakeProvider]]:
    async with FakeProvider(answering) as provider, serving(POLICY.format(url=provider.url, day=day), home, compute=compute) as service:
        yield service, provider


def sdk(service: Service, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key or service.key, base_url=f"{service.url}/v1", max_retries=0)


async def post(service: Service, body: Any, key: str | None = None) -> tuple[int, Any, dict[str, str]]:
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{service.url}/v1/embeddings", json=body, headers=service.bearer(key))
        return answer.status_code, answer.json(), dict(answer.headers)


async def rows(service: Service) -> list[dict[str, Any]]:
    return [row for row in (await settled_books(service.database)).ledger if row["purpose"] == "embedding"]


async def test_the_sdk_gets_vectors_and_the_ledger_a_row(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, _), sdk(service) as client:
        made = await client.embeddings.create(model="small", input=["hello", "hi"])
        assert [each.embedding for each in made.data] == [[5.0, 0.0], [2.0, 1.0]]
        assert (made.usage.prompt_tokens, made.model) == (11, "text-embedding-3-small")
        numbers = await client.embeddings.create(model="text-embedding-3-small", input="hello", encoding_format="float", dimensions=2, user="u")
        assert numbers.data[0].embedding == [5.0, 0.0]
        found = await rows(service)
        assert [(row["backend"], row["provider"], row["usage_source"], row["input_tokens"], row["cost"], row["outcome"]) for row in found] == [
            ("small", "openai", "provider", 11, 11 * 20 * 10**6, "ok")
        ] * 2
        assert [row["provider_request_id"] for row in found] == ["up-1", "up-1"]
        assert sum(row["spent"] for row in await read_budgets(service.database) if row["period"].startswith("day")) == 2 * 11 * 20 * 10**6


@pytest.mark.skipif(not openai_schema.present(), reason=openai_schema.ABSENT)
async def test_the_answer_is_what_openai_publishes(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, _):
        status, answer, headers = await post(service, {"model": "google", "input": ["hello"], "user": "u"})
        assert status == 200
        openai_schema.require_valid("CreateEmbeddingResponse", answer)
        assert answer["headgate"] == {
            "backend": "google", "model": "gemini-embedding-2", "policy_version": 1, "cost_usd": answer["headgate"]["cost_usd"], "usage_source": "estimated",
        }  # fmt: skip
        assert answer["headgate"]["cost_usd"] > 0
        assert (headers["x-headgate-backend"], headers["x-headgate-ignored"]) == ("google", "user")


async def test_tokens_are_read_as_openais_clients_send_them(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, provider):
        for given in ([15339, 1917], [[15339, 1917], [6151]]):
            assert (await post(service, {"model": "small", "input": given}))[0] == 200
        assert [each.json["input"] for each in provider.exchanges] == [["hello world"], ["hello world", "hi"]]


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"input": ""}, 400, "invalid_request", "input"),
    ({"input": []}, 400, "invalid_request", "input"),
    ({"input": ["a", ""]}, 400, "invalid_request", "input[1]"),
    ({"input": ["a", 5]}, 400, "invalid_request", "input[1]"),
    ({"input": [100_256]}, 400, "invalid_request", "input"),
    ({"input": [[9, -1]]}, 400, "invalid_request", "input[0][1]"),
    ({"input": [[15722]]}, 400, "invalid_request", "input[0]"),
    ({"input": 5}, 400, "invalid_request", "input"),
    ({"input": "a", "dimensions": 0}, 400, "invalid_request", "dimensions"),
    ({"input": "a", "encoding_format": "hex"}, 400, "invalid_request", "encoding_format"),
    ({"input": ["a"] * 101, "model": "google"}, 400, "too_many_inputs", "input"),
    ({"input": ["a"] * 2049}, 400, "too_many_inputs", "input"),
    ({"input": "a" * 5001}, 400, "context_length_exceeded", "input"),
    ({"input": "a forbidden word"}, 400, "content_policy_violation", "input"),
    ({"input": "a", "model": "chat"}, 404, "model_not_found", "model"),
    ({"input": "a", "model": "nobody"}, 404, "model_not_found", "model"),
    ({"input": "a", "model": "google", "headgate": {"data_class": "internal"}}, 403, "not_permitted", "model"),
    ({"input": "a", "headgate": {"max_cost_usd": 0.0}}, 402, "budget_exceeded", "headgate.max_cost_usd"),
]


async def test_what_is_refused_names_its_field_and_calls_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, provider):
        for body, status, code, param in REFUSED:
            got, answer, _ = await post(service, {"model": "small", **body})
            assert (got, answer["error"]["code"], answer["error"]["param"]) == (status, code, param), body
        assert provider.exchanges == []
        assert await rows(service) == []


async def test_a_budget_that_does_not_afford_it_refuses_before_the_call(tmp_path: Path) -> None:
    async with running(tmp_path, day=0.0001) as (service, provider), sdk(service) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.embeddings.create(model="small", input=["hello" * 10])
        assert caught.value.status_code == 402
        assert provider.exchanges == []
        assert all(row["reserved"] == 0 for row in await read_budgets(service.database))


async def test_a_key_sees_and_uses_only_its_own_models(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, provider):
        async with httpx2.AsyncClient() as client:
            made = await client.post(f"{service.url}/admin/keys", json={"tenant": "acme", "role": "member", "models": ["google"]}, headers=service.bearer())
        key = made.json()["key"]
        assert (await post(service, {"model": "google", "input": "a"}, key))[0] == 200
        assert (await post(service, {"model": "gemini-embedding-2", "input": "a"}, key))[0] == 200
        status, answer, _ = await post(service, {"model": "small", "input": "a"}, key)
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert len(provider.exchanges) == 2
        # Another tenant's data is internal, and this embedder is cleared for public data only.
        assert (await post(service, {"model": "google", "input": "a"}, service.other_key))[0] == 403


async def test_a_failure_is_typed_and_not_billed(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, _), sdk(service) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.embeddings.create(model="small", input="fail")
        assert caught.value.code == "provider_error"
        with pytest.raises(openai.InternalServerError) as late:
            await client.embeddings.create(model="google", input="hang")
        assert late.value.code == "backend_timeout"
        assert [(row["outcome"], row["error"], row["cost"] > 0) for row in await rows(service)] == [
            ("error", "provider_error", False),
            ("timeout", "backend_timeout", True),
        ]


async def test_a_client_that_leaves_ends_the_call_and_the_books_close(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, provider), sdk(service) as client:
        asking = asyncio.create_task(client.embeddings.create(model="small", input="hang"))
        upstream = await provider.exchange()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(upstream.gone.is_set)
        (row,) = await rows(service)
        assert (row["outcome"], row["usage_source"]) == ("cancelled", "estimated")
        assert row["cost"] <= row["reserved"]


@pytest.fixture(scope="module")
def minilm() -> SentenceEmbedder:
    return SentenceEmbedder()


@asynccontextmanager
async def computing(open_embedder: Callable[[], SentenceEmbedder]) -> AsyncIterator[ComputeClient]:
    """The compute server on a socket of this process. The path is short: the system bounds its length."""
    with tempfile.TemporaryDirectory(prefix="hg") as name:
        path = Path(name) / "run" / "compute.sock"
        stop = asyncio.Event()
        services = Services(open_embedder, lambda embedder: (_ for _ in ()).throw(ImportError))
        task = asyncio.create_task(ComputeServer(services, shutdown_s=0.0).serve(path, stop))
        try:
            yield ComputeClient(path, connect_s=5)
        finally:
            stop.set()
            await task
            await asyncio.to_thread(services.close)


async def test_this_machines_own_model_is_free_and_sees_everything(tmp_path: Path, minilm: SentenceEmbedder) -> None:
    async with computing(lambda: minilm) as compute, running(tmp_path, compute=compute) as (service, _), sdk(service) as client:
        texts = ["A cat sat on the mat.", "Money is tight."]
        restricted = {"headgate": {"data_class": "restricted"}}
        made = await client.embeddings.create(model="all-MiniLM-L6-v2", input=texts, extra_body=restricted)
        expected = [packed(row) for row in minilm.embed(texts, "document").tolist()]
        assert [packed(each.embedding) for each in made.data] == expected
        (row,) = await rows(service)
        assert (row["provider"], row["usage_source"], row["cost"], row["input_tokens"]) == ("local", "counted", 0, sum(minilm.count_tokens(texts)))
        for body, param in (({"input": ["short", "word " * 400]}, "input[1]"), ({"input": "a", "dimensions": 128}, "dimensions")):
            status, answer, _ = await post(service, {"model": "all-MiniLM-L6-v2", **body})
            assert (status, answer["error"]["param"]) == (400, param)


async def test_without_the_compute_process_the_local_model_says_what_is_missing(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, _):
        status, answer, _ = await post(service, {"model": "all-MiniLM-L6-v2", "input": "a"})
        assert (status, answer["error"]["code"]) == (503, "backend_unavailable")
        assert "headgate[documents]" in answer["error"]["message"]


async def test_administrators_see_the_embedders_and_whether_they_are_ready(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (service, _),
        aiohttp.ClientSession(headers=service.bearer(service.admin_key)) as session,
        session.get(f"{service.url}/admin/backends") as response,
    ):
        found = {each["name"]: each for each in (await response.json())["embedders"]}
    assert not found["all-MiniLM-L6-v2"]["health"]["ready"], "there is no compute process"
    assert (found["small"]["model"], found["small"]["clearance"]) == ("text-embedding-3-small", "internal")
    assert found["small"]["health"]["ready"]


async def test_a_request_for_embeddings_leaves_a_row_without_a_decision_and_without_a_vector(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, _), aiohttp.ClientSession(headers=service.bearer()) as session:
        for texts in (["Hello"], ["fail"]):
            async with session.post(f"{service.url}/v1/embeddings", json={"model": "small", "input": texts}) as answer:
                await answer.read()
        await service.gateway.recorder.flush()
        rows = await service.database.read(lambda connection: connection.execute(select(decisions).order_by(decisions.c.created_at)).all())
        assert [(row.dialect, row.outcome, row.error, row.backend, row.decision, row.embedding) for row in rows] == [
            ("openai.embeddings", "ok", None, "small", None, None),
            ("openai.embeddings", "error", "provider_error", "small", None, None),
        ]
        assert (rows[0].input_tokens, rows[0].cost, rows[0].data_class) == (11, 11 * 20_000_000, "public")
        assert await service.database.read(lambda connection: list(records(connection))) == []
