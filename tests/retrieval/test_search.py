from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.embedding import SentenceEmbedder
from config.database import Database
from retrieval.search import Searcher, fuse
from retrieval.store import Documents
from retrieval.text_index import query_terms, text_index
from retrieval.values import SearchRequest, SearchResult
from retrieval.vectorindex import FlatIndex

POLICY = b"# Refunds\n\nRefunds are paid within fourteen days. The desk approves each one.\n\n# Shipping\n\nParcels leave the warehouse at seven."
SECRET = b"The merger with Globex will be announced in May. Refunds are none of your business."


def ask(searcher: Searcher, store: str | tuple[str, ...], query: str, tenant: str = "acme", **more: Any) -> SearchResult:
    stores = (store,) if isinstance(store, str) else store
    return searcher.search(SearchRequest(tenant=tenant, stores=stores, query=query, **more))


async def test_a_question_finds_the_passage_and_the_sentence(
    documents: Documents, index: Callable[[], int], searcher: Searcher, embedder: SentenceEmbedder, pdf: bytes
) -> None:
    file = await documents.add_file("acme", filename="policy.pdf", data=pdf)
    store = await documents.create_store("acme", file_ids=[file.id])
    index()
    result = await asyncio.to_thread(ask, searcher, store.id, "How long until I get my money back?")
    best = result.passages[0]
    text = (await documents.get_text("acme", file.id)).text
    assert (best.file_id, best.filename, best.page) == (file.id, "policy.pdf", 1)
    assert best.text == text[best.start : best.end]
    top = max(best.highlights, key=lambda h: h.score)
    assert text[top.start : top.end].startswith("Refunds are paid within fourteen days")
    assert result.data_class == "internal"
    assert (len(result.embedding), result.space) == (2 * embedder.dimensions, embedder.space)
    warranty = (await asyncio.to_thread(ask, searcher, store.id, "battery warranty")).passages[0]
    sentence = max(warranty.highlights, key=lambda h: h.score)
    assert warranty.page_at(sentence.start) == 3


async def test_words_alone_find_what_no_embedding_would(documents: Documents, index: Callable[[], int], searcher: Searcher) -> None:
    store = await documents.create_store("acme")
    for n in range(6):
        file = await documents.add_file("acme", filename=f"{n}.txt", data=b"Part number QX%d9 is a valve." % n)
        await documents.attach("acme", store.id, file.id)
    index()
    assert "QX39" in (await asyncio.to_thread(ask, searcher, store.id, "QX39")).passages[0].text


async def test_scripts_without_spaces_are_found_by_their_words(documents: Documents, index: Callable[[], int], db: Database) -> None:
    file = await documents.add_file("acme", filename="a.txt", data="東京タワーは赤い。".encode())
    store = await documents.create_store("acme", file_ids=[file.id])
    index()
    for query, count in (("タワー", 1), ("東", 1), ("大阪", 0)):
        found = db.read_blocking(lambda c, query=query: text_index(db.dialect).search(c, "acme", [store.id], query, 5))  # type: ignore[misc]
        assert len(found) == count, query


async def test_nothing_of_another_tenant_is_ever_found(
    documents: Documents, index: Callable[[], int], searcher: Searcher, db: Database, embedder: SentenceEmbedder
) -> None:
    mine = await documents.create_store("acme", file_ids=[(await documents.add_file("acme", filename="a.md", data=POLICY)).id])
    theirs = await documents.create_store("rival", file_ids=[(await documents.add_file("rival", filename="s.txt", data=SECRET)).id])
    index()
    for stores in ((theirs.id,), (mine.id, theirs.id)):
        result = await asyncio.to_thread(ask, searcher, stores, "merger with Globex refunds")
        assert all("Globex" not in passage.text for passage in result.passages)
    assert (await asyncio.to_thread(ask, searcher, theirs.id, "merger", tenant="rival")).passages
    vector = embedder.embed(["merger"], "query")
    assert FlatIndex(db, embedder.space, embedder.dimensions).search("acme", [theirs.id], vector, 5) == []
    assert db.read_blocking(lambda c: text_index(db.dialect).search(c, "acme", [theirs.id], "merger", 5)) == []


async def test_a_document_that_is_more_sensitive_than_the_question_may_be_is_not_found(
    documents: Documents, index: Callable[[], int], searcher: Searcher
) -> None:
    store = await documents.create_store("acme", data_class="public")
    for name, data, data_class in (("a.md", POLICY, "public"), ("s.txt", SECRET, "confidential")):
        file = await documents.add_file("acme", filename=name, data=data)
        await documents.attach("acme", store.id, file.id, data_class=data_class)  # type: ignore[arg-type]
    index()
    for most, found in (("restricted", True), ("confidential", True), ("internal", False), ("public", False)):
        asked = SearchRequest(tenant="acme", stores=(store.id,), query="merger with Globex refunds", max_data_class=most)  # type: ignore[arg-type]
        result = await asyncio.to_thread(searcher.search, asked)
        assert any("Globex" in passage.text for passage in result.passages) is found, most
        assert result.passages
        assert result.data_class == ("confidential" if found else "public")


async def test_what_an_index_wrongly_proposes_is_dropped(documents: Documents, index: Callable[[], int], db: Database, embedder: SentenceEmbedder) -> None:
    theirs = await documents.create_store("rival", file_ids=[(await documents.add_file("rival", filename="s.txt", data=SECRET)).id])
    mine = await documents.create_store("acme", file_ids=[(await documents.add_file("acme", filename="a.md", data=POLICY)).id])
    index()

    class Leaky(FlatIndex):
        def search(self, tenant: str, stores: Any, vector: Any, limit: int) -> Any:
            return super().search("rival", [theirs.id], vector, limit) + super().search(tenant, stores, vector, limit)

    searcher = Searcher(db, embedder, vector_index=Leaky(db, embedder.space, embedder.dimensions))
    result = await asyncio.to_thread(ask, searcher, mine.id, "merger with Globex")
    assert result.passages
    assert all("Globex" not in passage.text for passage in result.passages)


async def test_deleted_documents_are_gone_at_once_and_new_ones_are_there_at_once(documents: Documents, index: Callable[[], int], searcher: Searcher) -> None:
    file = await documents.add_file("acme", filename="a.md", data=POLICY)
    store = await documents.create_store("acme", file_ids=[file.id])
    index()
    question = "When are refunds paid?"
    assert (await asyncio.to_thread(ask, searcher, store.id, question)).passages
    other = await documents.add_file("acme", filename="b.txt", data=b"Refunds to Norway take a month.")
    await documents.attach("acme", store.id, other.id)
    index()
    assert {p.file_id for p in (await asyncio.to_thread(ask, searcher, store.id, question)).passages} == {file.id, other.id}
    await documents.detach("acme", store.id, other.id)
    assert {p.file_id for p in (await asyncio.to_thread(ask, searcher, store.id, question)).passages} == {file.id}
    await documents.delete_file("acme", file.id)
    assert (await asyncio.to_thread(ask, searcher, store.id, question)).passages == ()
    await documents.attach("acme", store.id, other.id)
    index()
    assert {p.file_id for p in (await asyncio.to_thread(ask, searcher, store.id, question)).passages} == {other.id}
    await documents.delete_store("acme", store.id)
    assert (await asyncio.to_thread(ask, searcher, store.id, question)).passages == ()


async def test_a_file_not_indexed_yet_cannot_be_found(documents: Documents, searcher: Searcher) -> None:
    store = await documents.create_store("acme", file_ids=[(await documents.add_file("acme", filename="a.md", data=POLICY)).id])
    assert (await asyncio.to_thread(ask, searcher, store.id, "refunds")).passages == ()


async def test_an_expired_store_is_not_searched(documents: Documents, index: Callable[[], int], searcher: Searcher, clock: Any) -> None:
    file = await documents.add_file("acme", filename="a.md", data=POLICY)
    store = await documents.create_store("acme", file_ids=[file.id], expires_after_days=1)
    index()
    assert (await asyncio.to_thread(ask, searcher, store.id, "refunds")).passages
    clock.advance(90_000)
    assert (await asyncio.to_thread(ask, searcher, store.id, "refunds")).passages == ()


async def test_the_highest_data_class_among_the_passages_is_told(documents: Documents, index: Callable[[], int], searcher: Searcher) -> None:
    store = await documents.create_store("acme", data_class="public")
    for name, data, data_class in (("a.md", POLICY, "public"), ("b.txt", SECRET, "restricted")):
        file = await documents.add_file("acme", filename=name, data=data)
        await documents.attach("acme", store.id, file.id, data_class=data_class)  # type: ignore[arg-type]
    index()
    assert (await asyncio.to_thread(ask, searcher, store.id, "refunds", limit=5)).data_class == "restricted"
    assert (await asyncio.to_thread(ask, searcher, store.id, "When do parcels leave the warehouse?", limit=1)).data_class == "public"


async def test_a_file_in_two_stores_is_found_once(documents: Documents, index: Callable[[], int], searcher: Searcher) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=b"Refunds are paid within fourteen days.")
    stores = tuple([(await documents.create_store("acme", file_ids=[file.id])).id for _ in range(2)])
    index()
    assert len((await asyncio.to_thread(ask, searcher, stores, "refunds")).passages) == 1


async def test_a_question_without_words_or_stores_is_answered_calmly(documents: Documents, index: Callable[[], int], searcher: Searcher) -> None:
    store = await documents.create_store("acme", file_ids=[(await documents.add_file("acme", filename="a.md", data=POLICY)).id])
    index()
    assert (await asyncio.to_thread(ask, searcher, store.id, " \n")) == SearchResult(space=searcher._embedder.space)
    assert (await asyncio.to_thread(ask, searcher, store.id, "?!")).passages  # no words, but the embedding model reads it
    nowhere = await asyncio.to_thread(ask, searcher, (), "refunds")
    assert nowhere.passages == ()
    assert nowhere.embedding
    assert len((await asyncio.to_thread(ask, searcher, store.id, "word " * 50_000)).passages) > 0


async def test_searches_may_run_at_the_same_time_as_indexing(documents: Documents, index: Callable[[], int], searcher: Searcher) -> None:
    store = await documents.create_store("acme")
    for n in range(8):
        file = await documents.add_file("acme", filename=f"{n}.txt", data=b"Refunds of kind %d are paid within fourteen days." % n)
        await documents.attach("acme", store.id, file.id)
    working = asyncio.create_task(asyncio.to_thread(index))
    counts: list[int] = []
    while not working.done():
        results = await asyncio.gather(*(asyncio.to_thread(ask, searcher, store.id, "refunds", limit=20, highlight=False) for _ in range(3)))
        counts += [len(result.passages) for result in results]
    assert await working == 8
    assert len((await asyncio.to_thread(ask, searcher, store.id, "refunds", limit=20)).passages) == 8


async def test_stores_not_searched_for_long_are_let_go_of(documents: Documents, index: Callable[[], int], db: Database, embedder: SentenceEmbedder) -> None:
    stores = []
    for n in range(3):
        file = await documents.add_file("acme", filename="a.txt", data=b"Refund %d." % n)
        stores.append((await documents.create_store("acme", file_ids=[file.id])).id)
    index()
    flat = FlatIndex(db, embedder.space, embedder.dimensions, max_vectors=1)
    vector = embedder.embed(["refund"], "query")
    for store in (*stores, *stores):
        assert len(flat.search("acme", [store], vector, 5)) == 1
        assert len(flat._stores) == 1


def test_fusion_prefers_what_both_rankings_know() -> None:
    assert [item for item, _ in fuse([1, 2, 3], [3, 4])] == [3, 1, 2, 4]
    assert fuse([7], [7])[0] == (7, pytest.approx(2 / 61))
    assert fuse([], []) == []


HOSTILE = [
    '" OR *',
    "NEAR(a b)",
    "store : vs",
    "a AND NOT b",
    "^a",
    "a:b",
    "'); DROP TABLE chunks;--",
    "{text}: a",
    "a* b+c -d",
    "& | ! <-> ()",
    "\\'",
    "' | '",
    "don't \u2019",
]


async def test_no_question_reaches_a_query_language(documents: Documents, index: Callable[[], int], db: Database) -> None:
    store = await documents.create_store("acme", file_ids=[(await documents.add_file("acme", filename="a.md", data=POLICY)).id])
    index()
    for query in HOSTILE:
        db.read_blocking(lambda c, query=query: text_index(db.dialect).search(c, "acme", [store.id], query, 5))  # type: ignore[misc]
    assert db.read_blocking(lambda c: text_index(db.dialect).search(c, "acme", [store.id], 'refunds" OR "x', 5))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40))
def test_any_text_makes_a_valid_fts_query(query: str) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE t USING fts5(text)")
        terms = query_terms(query)
        if terms:
            connection.execute("SELECT * FROM t WHERE t MATCH ?", ["text : (" + " OR ".join(f'"{term}"' for term in terms) + ")"]).fetchall()
        assert all(part.isalnum() for term in terms for part in term.replace("\u2019", "'").split("'"))
    finally:
        connection.close()
