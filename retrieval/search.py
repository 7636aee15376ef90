"""A question to passages: nearest vectors and full text, fused, then read from the database. Runs in the compute process and blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import structs
from sqlalchemy import Connection, Row, or_, select

from adapters.embedding import Embedder
from adapters.types import Passage
from config.database import Database
from retrieval.highlight import Highlighter
from retrieval.reach import up_to
from retrieval.store_rows import highest
from retrieval.tables import chunks, files, vector_store_files, vector_stores
from retrieval.text_index import TextIndex, text_index
from retrieval.values import RRF_K, SearchRequest, SearchResult
from retrieval.vectorindex import FlatIndex, VectorIndex

if TYPE_CHECKING:
    pass

DEPTH = 50  # candidates taken from each index
SPARE = 16  # candidates read beyond the limit, in case some were deleted meanwhile or say the same twice
MAX_LIMIT = 50
MAX_QUERY = 8_192  # code points; the embedding model reads far fewer


class Searcher:
    """Answers searches from several threads at once. The indexes propose; what is returned was read from the database for this answer."""

    def __init__(
        self,
        db: Database,
        embedder: Embedder,
        *,
        vector_index: VectorIndex | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._embedder = embedder
        self._highlighter = Highlighter(embedder)
        self._vectors: VectorIndex = vector_index or FlatIndex(db, embedder.space, embedder.dimensions)
        self._text: TextIndex = text_index(db.dialect)
        self._clock = clock

    def search(self, request: SearchRequest) -> SearchResult:
        """Passages of the tenant's own stores, best first. A question without words finds nothing."""
        query = request.query.strip()[:MAX_QUERY]
        if not query:
            return SearchResult(space=self._embedder.space)
        vector = self._embedder.embed([query], "query")
        result = SearchResult(embedding=vector.astype("<f2").tobytes(), space=self._embedder.space)
        if not request.stores:
            return result
        near = self._vectors.search(request.tenant, request.stores, vector, DEPTH)
        limit = max(1, min(request.limit, MAX_LIMIT))

        def read(connection: Connection) -> tuple[list[tuple[int, float]], dict[int, Row[Any]]]:
            worded = self._text.search(connection, request.tenant, request.stores, query, DEPTH)
            ranked = fuse([neighbour.chunk for neighbour in near], worded)[: limit + SPARE]
            return ranked, _rows(connection, request, [chunk for chunk, _ in ranked], self._clock())

        ranked, rows = self._db.read_blocking(read)
        similarity = {neighbour.chunk: neighbour.similarity for neighbour in near}
        others = [chunk for chunk in rows if chunk not in similarity]
        similarity |= self._vectors.similarities(request.tenant, request.stores, vector, others)
        kept = _distinct([(rows[chunk], score) for chunk, score in ranked if chunk in rows])[:limit]
        passages = [_passage(row, score, similarity.get(row.id, 0.0)) for row, score in kept]
        if request.highlight:
            passages = self._highlighter.highlight(passages, vector)
        return structs.replace(result, passages=tuple(passages), data_class=highest([row.data_class for row, _ in kept]))


def fuse(*rankings: Sequence[int], k: int = RRF_K) -> list[tuple[int, float]]:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): the sum of 1 / (k + rank), ranks from 1; ties by number."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (k + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def _rows(connection: Connection, request: SearchRequest, wanted: Sequence[int], now: float) -> dict[int, Row[Any]]:
    """The chunks that exist at this moment in these stores of this tenant: what an index proposed beyond that is dropped here."""
    placed = vector_store_files
    query = (
        select(chunks, files.c.filename, placed.c.data_class)
        .join(placed, (placed.c.store == chunks.c.store) & (placed.c.file == chunks.c.file))
        .join(files, files.c.id == chunks.c.file)
        .join(vector_stores, vector_stores.c.id == chunks.c.store)
        .where(chunks.c.id.in_(wanted), chunks.c.store.in_(request.stores), placed.c.status == "completed")
        .where(placed.c.data_class.in_(up_to(request.max_data_class)))
        .where(*(table.c.tenant == request.tenant for table in (chunks, placed, files, vector_stores)))
        .where(or_(vector_stores.c.expires_at.is_(None), vector_stores.c.expires_at > now))
    )
    return {row.id: row for row in connection.execute(query)}


def _distinct(found: Sequence[tuple[Row[Any], float]]) -> list[tuple[Row[Any], float]]:
    """A file that stands in two stores is found once."""
    seen: set[tuple[str, int, int]] = set()
    kept: list[tuple[Row[Any], float]] = []
    for row, score in found:
        place = (row.file, row.start_offset, row.end_offset)
        if place not in seen:
            seen.add(place)
            kept.append((row, score))
    return kept


def _passage(row: Row[Any], score: float, similarity: float) -> Passage:
    return Passage(
        chunk_id=f"chunk-{row.id}",
        file_id=row.file,
        filename=row.filename,
        text=row.text,
        start=row.start_offset,
        end=row.end_offset,
        page=row.page,
        pages=tuple((offset, page) for offset, page in row.marks),
        score=score,
        similarity=similarity,
    )
