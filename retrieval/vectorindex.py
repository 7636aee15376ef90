"""Nearest neighbours: the interface, and flat FAISS indexes filled from the database.

The database is the truth: an index holds numbers of chunks and nothing else, is built from the table `vectors` in this process, and is
never written to disk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct
from sqlalchemy import Connection, select

from config.database import Database
from retrieval.tables import vector_stores, vectors

if TYPE_CHECKING:
    from adapters.embedding import Matrix

MAX_VECTORS = 2_000_000
"""Vectors held in memory over all stores (3 GB at 384 dimensions); beyond it the stores not searched for longest are let go."""


class Neighbour(Struct, frozen=True):
    """A chunk's number and the cosine of its vector to the question's."""

    chunk: int
    similarity: float


class VectorIndex(Protocol):
    """Finds chunks by meaning, only in these stores of this tenant, as of the last commit. Safe to call from several threads."""

    def search(self, tenant: str, stores: Sequence[str], vector: Matrix, limit: int) -> list[Neighbour]:
        """The `limit` nearest chunks, nearest first. `vector` has one row of unit length."""
        ...

    def similarities(self, tenant: str, stores: Sequence[str], vector: Matrix, chunks: Sequence[int]) -> dict[int, float]:
        """The cosines of chunks found otherwise; one without a vector is left out."""
        ...


class FlatIndex:
    """Exact search: one flat inner-product index a store, brought up to date before it is used.

    Additions are read by number; only a removal rebuilds a store's index. Source of the scores: unit vectors, so inner product is cosine.
    """

    def __init__(self, db: Database, space: str, dimensions: int, *, max_vectors: int = MAX_VECTORS) -> None:
        import faiss  # fail here, not at the first question

        faiss.omp_set_num_threads(1)  # threads over so little work cost more than they bring
        self._db = db
        self._space = space
        self._dimensions = dimensions
        self._max_vectors = max_vectors
        self._stores: OrderedDict[tuple[str, str], _StoreIndex] = OrderedDict()
        self._lock = threading.Lock()

    def search(self, tenant: str, stores: Sequence[str], vector: Matrix, limit: int) -> list[Neighbour]:
        found: list[Neighbour] = []
        for index in self._current(tenant, stores):
            found += index.search(vector, limit)
        found.sort(key=lambda neighbour: (-neighbour.similarity, neighbour.chunk))
        return found[:limit]

    def similarities(self, tenant: str, stores: Sequence[str], vector: Matrix, chunks: Sequence[int]) -> dict[int, float]:
        with self._lock:
            held = [self._stores[tenant, store] for store in stores if (tenant, store) in self._stores]
        return {chunk: value for index in held for chunk, value in index.similarities(vector, chunks).items()}

    def _current(self, tenant: str, stores: Sequence[str]) -> list[_StoreIndex]:
        """The indexes of those stores that exist, each as new as the version read here."""
        versions = self._db.read_blocking(lambda c: _versions(c, tenant, stores))
        current: list[_StoreIndex] = []
        for store in stores:
            with self._lock:
                if store not in versions:
                    self._stores.pop((tenant, store), None)
                    continue
                index = self._stores.get((tenant, store))
                if index is None:
                    index = self._stores[tenant, store] = _StoreIndex(tenant, store, self._dimensions)
                self._stores.move_to_end((tenant, store))
            index.refresh(self._db, self._space, *versions[store])
            current.append(index)
        self._let_go({(tenant, store) for store in stores})
        return current

    def _let_go(self, in_use: set[tuple[str, str]]) -> None:
        with self._lock:
            total = sum(index.size for index in self._stores.values())
            for key in list(self._stores):
                if total <= self._max_vectors:
                    return
                if key not in in_use:
                    total -= self._stores.pop(key).size


class _StoreIndex:
    """One store's vectors. Its lock covers refresh and search: FAISS allows no search during an addition."""

    def __init__(self, tenant: str, store: str, dimensions: int) -> None:
        self._tenant, self._store, self._dimensions = tenant, store, dimensions
        self._lock = threading.Lock()
        self._version = -1
        self._removals = -1
        self._last = 0  # the highest number in `vectors` that was read
        self._positions: dict[int, int] = {}
        self._chunks: list[int] = []
        self._index: Any = None

    @property
    def size(self) -> int:
        return len(self._chunks)

    def refresh(self, db: Database, space: str, version: int, removals: int) -> None:
        with self._lock:
            if version <= self._version and self._index is not None:
                return
            if removals != self._removals or self._index is None:
                self._clear()
            rows = db.read_blocking(lambda c: _vectors_after(c, self._tenant, self._store, space, self._last))
            self._add(rows)
            self._version, self._removals = version, removals

    def search(self, vector: Matrix, limit: int) -> list[Neighbour]:
        with self._lock:
            if not self._chunks:
                return []
            scores, positions = self._index.search(vector, min(limit, len(self._chunks)))
            return [Neighbour(self._chunks[position], float(score)) for score, position in zip(scores[0], positions[0], strict=True)]

    def similarities(self, vector: Matrix, chunks: Sequence[int]) -> dict[int, float]:
        with self._lock:
            known = [(chunk, self._positions[chunk]) for chunk in chunks if chunk in self._positions]
            return {chunk: float(self._index.reconstruct(position) @ vector[0]) for chunk, position in known}

    def _clear(self) -> None:
        import faiss

        self._index = faiss.IndexFlatIP(self._dimensions)
        self._chunks.clear()
        self._positions.clear()
        self._last = 0

    def _add(self, rows: Sequence[tuple[int, int, bytes]]) -> None:
        import numpy as np

        if not rows:
            return
        matrix = np.frombuffer(b"".join(blob for _, _, blob in rows), dtype="<f2").reshape(len(rows), self._dimensions)
        self._index.add(np.ascontiguousarray(matrix, dtype=np.float32))
        for number, chunk, _ in rows:
            self._positions[chunk] = len(self._chunks)
            self._chunks.append(chunk)
            self._last = max(self._last, number)


def _versions(connection: Connection, tenant: str, stores: Sequence[str]) -> dict[str, tuple[int, int]]:
    table = vector_stores
    query = select(table.c.id, table.c.version, table.c.removals).where(table.c.tenant == tenant, table.c.id.in_(stores))
    return {row.id: (row.version, row.removals) for row in connection.execute(query)}


def _vectors_after(connection: Connection, tenant: str, store: str, space: str, last: int) -> list[tuple[int, int, bytes]]:
    query = (
        select(vectors.c.id, vectors.c.chunk, vectors.c.vector)
        .where(vectors.c.store == store, vectors.c.space == space, vectors.c.id > last, vectors.c.tenant == tenant)
        .order_by(vectors.c.id)
    )
    return [(row.id, row.chunk, row.vector) for row in connection.execute(query)]
