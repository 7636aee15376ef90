"""Documents through the official SDK, on a real socket: the parts of the compute and ingest processes run in threads of this one."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

from adapters.backend import BackendSpec
from adapters.embedding import SentenceEmbedder
from adapters.types import AttemptRecord, BackendHealth, Event, GenerateRequest
from retrieval.ingest import Ingestor
from retrieval.search import Searcher
from retrieval.values import SearchRequest, SearchResult
from router.audit.reading import Wanted, entries
from router.launch import open_blobs
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello."}
default: mini
settings: {upload_max_mb: 1}
"""
STATIC: Any = {"type": "static", "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 0}}
ORACLE = Path(__file__).resolve().parents[3] / "../shared/data/openai_openapi.json.gz"


class InProcess:
    """Search in a thread; it generates nothing."""

    def __init__(self) -> None:
        self.searcher: Searcher | None = None

    async def search(self, request: SearchRequest) -> SearchResult:
        assert self.searcher is not None
        return await asyncio.to_thread(self.searcher.search, request)

    def generate(self, spec: BackendSpec, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        raise NotImplementedError

    async def health(self, spec: BackendSpec, /) -> BackendHealth:
        return BackendHealth(ready=False)

    async def aclose(self) -> None: ...


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder()


@pytest.fixture
async def service(tmp_path: Path, embedder: SentenceEmbedder) -> AsyncIterator[Service]:
    compute = InProcess()
    async with serving(POLICY, tmp_path, compute=compute) as service:
        database = service.database
        compute.searcher = Searcher(database, embedder)
        ingestor = Ingestor(database, open_blobs(service.gateway.settings), embedder)
        stopping = threading.Event()

        def work() -> None:
            while not stopping.is_set():
                if not ingestor.run_once():
                    stopping.wait(0.02)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield service
        finally:
            stopping.set()
            await asyncio.to_thread(thread.join)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=service.key, base_url=f"{service.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
async def stranger(service: Service) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=service.other_key, base_url=f"{service.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def pdf() -> bytes:
    out = io.BytesIO()
    SimpleDocTemplate(out).build([Paragraph("Refunds are paid within fourteen days."), PageBreak(), Paragraph("The battery is covered for three years.")])
    return out.getvalue()


async def test_the_official_sdk_uploads_indexes_searches_and_deletes(service: Service, client: openai.AsyncOpenAI, pdf: bytes) -> None:
    store = await client.vector_stores.create(name="handbook", metadata={"team": "support"}, expires_after={"anchor": "last_active_at", "days": 7})
    assert (store.name, store.status, store.metadata) == ("handbook", "completed", {"team": "support"})
    files = client.vector_stores.files
    attached = await files.upload_and_poll(vector_store_id=store.id, file=("policy.pdf", pdf), poll_interval_ms=20, attributes={"year": 2024})
    assert (attached.status, attached.last_error, attached.attributes) == ("completed", None, {"year": 2024})
    found = await client.vector_stores.search(store.id, query="How long is the battery warranty?", max_num_results=5)
    best = found.data[0]
    assert (best.filename, best.attributes) == ("policy.pdf", {"year": 2024})
    place = best.model_extra["headgate"]  # type: ignore[index]
    async with aiohttp.ClientSession(headers=service.bearer()) as session, session.get(f"{service.url}/v1/files/{best.file_id}/text") as answer:
        text = await answer.text()
    assert text[place["start"] : place["end"]] == best.content[0].text
    assert "covered for three years" in best.content[0].text
    assert 0 < best.score <= 1
    shown, _ = await service.database.read(lambda connection: entries(connection, Wanted(action="file.read"), limit=9))
    assert [(each.object_id, each.details) for each in shown if each.object_kind == "vector_store"] == [(store.id, {"files": [attached.id]})]
    assert (await client.files.content(attached.id)).content == pdf
    assert [file.id async for file in await client.vector_stores.files.list(store.id, filter="completed")] == [attached.id]
    renamed = await client.vector_stores.update(store.id, name="new", expires_after=None)
    assert (renamed.name, renamed.expires_after, renamed.metadata) == ("new", None, {"team": "support"})
    assert (await client.vector_stores.files.delete(attached.id, vector_store_id=store.id)).deleted
    assert (await client.vector_stores.search(store.id, query="battery")).data == []
    assert (await client.files.delete(attached.id)).deleted
    assert (await client.vector_stores.delete(store.id)).deleted
    assert [store async for store in await client.vector_stores.list()] == []


async def test_a_file_that_cannot_be_read_says_why(client: openai.AsyncOpenAI) -> None:
    store = await client.vector_stores.create()
    failed = await client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("a.pdf", b"%PDF-1.4 broken"), poll_interval_ms=20)
    assert failed.status == "failed"
    assert failed.last_error is not None
    assert failed.last_error.code == "invalid_file"
    assert (await client.vector_stores.retrieve(store.id)).file_counts.failed == 1


async def test_lists_go_through_all_pages(client: openai.AsyncOpenAI) -> None:
    made = [(await client.files.create(file=(f"{n}.txt", b"words"), purpose="user_data")).id for n in range(5)]
    assert [file.id async for file in await client.files.list(limit=2, order="asc")] == made
    stores = [(await client.vector_stores.create(name=str(n))).id for n in range(3)]
    assert [store.id async for store in await client.vector_stores.list(limit=1)] == stores[::-1]


async def test_another_tenants_objects_are_404_in_the_words_of_missing_ones(client: openai.AsyncOpenAI, stranger: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("a.txt", b"secret words"), purpose="assistants")
    store = await client.vector_stores.create(file_ids=[file.id])
    own = await stranger.vector_stores.create()

    def attempts(file_id: str, store_id: str) -> list[Any]:
        return [
            stranger.files.retrieve(file_id),
            stranger.files.content(file_id),
            stranger.files.delete(file_id),
            stranger.vector_stores.retrieve(store_id),
            stranger.vector_stores.update(store_id, name="x"),
            stranger.vector_stores.delete(store_id),
            stranger.vector_stores.search(store_id, query="secret"),
            stranger.vector_stores.files.list(store_id),
            stranger.vector_stores.files.create(own.id, file_id=file_id),
            stranger.vector_stores.files.retrieve(file_id, vector_store_id=store_id),
            stranger.vector_stores.files.delete(file_id, vector_store_id=store_id),
            stranger.vector_stores.create(file_ids=[file_id]),
        ]

    for foreign, absent in zip(attempts(file.id, store.id), attempts("file-none", "vs_none"), strict=True):
        with pytest.raises(openai.NotFoundError) as first:
            await foreign
        with pytest.raises(openai.NotFoundError) as second:
            await absent
        assert str(first.value).replace(file.id, "ID").replace(store.id, "ID") == str(second.value).replace("file-none", "ID").replace("vs_none", "ID")
    assert [f async for f in await stranger.files.list()] == []


async def send(service: Service, form: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.post(f"{service.url}/v1/files", data=form, headers={**service.bearer(), **headers}) as answer:
        return answer.status, (await answer.json())["error"]


def form(*fields: tuple[str, Any, str | None]) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value, filename in fields:
        data.add_field(name, value, filename=filename)
    return data


async def test_an_upload_over_the_limit_is_413_and_leaves_nothing(service: Service, client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    status, error = await send(service, form(("file", io.BytesIO(b"x" * (2**20 + 1)), "big.txt"), ("purpose", "assistants", None)))
    assert (status, error["code"], error["param"]) == (413, "file_too_large", "file")
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []
    assert (await client.files.create(file=("fits.txt", b"x" * 2**20), purpose="assistants")).bytes == 2**20


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("purpose", "assistants", None)], "file"),
        ([("file", b"x", "a.txt")], "purpose"),
        ([("file", b"x", "a.txt"), ("purpose", "fine-tune", None)], "purpose"),
        ([("file", b"x", "a.txt"), ("file", b"y", "b.txt"), ("purpose", "assistants", None)], "file"),
        ([("file", b"x", "a.txt"), ("purpose", "assistants", None), ("colour", "red", None)], "colour"),
        ([("file", b"x", "a.txt"), ("purpose", "a" * 5000, None)], "purpose"),
    ],
)
async def test_a_wrong_form_is_400_with_the_field(service: Service, fields: list[tuple[str, Any, str | None]], param: str) -> None:
    status, error = await send(service, form(*fields))
    assert (status, error["code"], error["param"]) == (400, "invalid_request", param)


async def test_what_is_no_multipart_body_is_400(service: Service, tmp_path: Path) -> None:
    for body, kind in ((b"{}", "application/json"), (b"nonsense", "multipart/form-data; boundary=x"), (b"--x\r\n", "multipart/form-data; boundary=x")):
        status, error = await send(service, body, **{"content-type": kind})
        assert (status, error["code"]) == (400, "invalid_multipart")


async def test_wrong_bodies_and_queries_are_400_with_the_field(client: openai.AsyncOpenAI) -> None:
    store = await client.vector_stores.create()
    wrong: list[tuple[Any, str | None]] = [
        (client.vector_stores.create(name=7), "name"),  # type: ignore[arg-type]
        (client.vector_stores.create(chunking_strategy=STATIC), "chunking_strategy.type"),
        (client.vector_stores.create(extra_body={"nme": "x"}), "nme"),
        (client.vector_stores.search(store.id, query=" "), "query"),
        (client.vector_stores.search(store.id, query="x", filters={"type": "eq", "key": "a", "value": "b"}), "filters"),
        (client.vector_stores.list(limit=0), "limit"),
        (client.vector_stores.list(order="up"), "order"),  # type: ignore[arg-type]
        (client.vector_stores.files.list(store.id, filter="odd"), "filter"),  # type: ignore[arg-type]
    ]
    for attempt, param in wrong:
        with pytest.raises(openai.BadRequestError) as caught:
            await attempt
        assert caught.value.param == param, caught.value


async def test_data_classes_are_taken_and_told(client: openai.AsyncOpenAI) -> None:
    store = await client.vector_stores.create(extra_body={"headgate": {"data_class": "confidential"}})
    file = await client.files.create(file=("a.txt", b"words"), purpose="assistants")
    attached = await client.vector_stores.files.create(store.id, file_id=file.id, extra_body={"headgate": {"data_class": "restricted"}})
    assert store.model_extra["headgate"] == {"data_class": "confidential"}  # type: ignore[index]
    assert attached.model_extra["headgate"] == {"data_class": "restricted"}  # type: ignore[index]


async def test_answers_hold_every_field_openai_requires(service: Service, client: openai.AsyncOpenAI, pdf: bytes) -> None:
    if not ORACLE.is_file():
        pytest.skip("OpenAI's OpenAPI document is not here")
    schemas = json.loads(gzip.decompress(ORACLE.read_bytes()))["components"]["schemas"]
    store = await client.vector_stores.create(name="x")
    file = await client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("policy.pdf", pdf), poll_interval_ms=20)
    checks = {
        "OpenAIFile": ("GET", f"/v1/files/{file.id}"),
        "ListFilesResponse": ("GET", "/v1/files"),
        "VectorStoreObject": ("GET", f"/v1/vector_stores/{store.id}"),
        "ListVectorStoresResponse": ("GET", "/v1/vector_stores"),
        "VectorStoreFileObject": ("GET", f"/v1/vector_stores/{store.id}/files/{file.id}"),
        "ListVectorStoreFilesResponse": ("GET", f"/v1/vector_stores/{store.id}/files"),
        "VectorStoreSearchResultsPage": ("POST", f"/v1/vector_stores/{store.id}/search"),
        "DeleteVectorStoreFileResponse": ("DELETE", f"/v1/vector_stores/{store.id}/files/{file.id}"),
        "DeleteVectorStoreResponse": ("DELETE", f"/v1/vector_stores/{store.id}"),
        "DeleteFileResponse": ("DELETE", f"/v1/files/{file.id}"),
    }
    async with aiohttp.ClientSession(headers=service.bearer()) as session:
        for name, (method, path) in checks.items():
            body = {"query": "battery"} if method == "POST" else None
            async with session.request(method, service.url + path, json=body) as answer:
                assert answer.status == 200, path
                shown = await answer.json()
            schema = schemas[name]
            assert set(schema["required"]) <= set(shown), name
            assert set(shown) - {"headgate"} <= set(schema["properties"]), name
            for field, rule in schema["properties"].items():
                if field in shown and "enum" in rule and not isinstance(shown[field], list):
                    assert shown[field] in rule["enum"], (name, field)
            if name == "VectorStoreSearchResultsPage":
                assert set(schemas["VectorStoreSearchResultItem"]["required"]) <= set(shown["data"][0])
