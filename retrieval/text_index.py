"""Full text: FTS5 on SQLite, tsvector on PostgreSQL. Both live in the chunks' own transaction, so a delete leaves no ghost.

What a user types never reaches a query language: words are taken out of it first, and only those are quoted into a query. Runs written
without spaces (Chinese, Japanese, Thai) are found by single characters and pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from sqlalchemy import Connection, bindparam, text

from retrieval.sentences import STOP_WORDS, unspaced_grams, words

MAX_TERMS = 48
_SQLITE = text(
    "SELECT c.id FROM chunks_fts JOIN chunks c ON c.id = chunks_fts.rowid "
    "WHERE chunks_fts MATCH :match AND c.tenant = :tenant AND c.store IN :stores "
    "ORDER BY bm25(chunks_fts, 1.0, 1.0, 0.0), c.id LIMIT :limit"
).bindparams(bindparam("stores", expanding=True))
_POSTGRESQL = text(
    "WITH asked AS MATERIALIZED ("
    "  SELECT to_tsquery('english', term) AS word FROM unnest(CAST(:english AS text[])) AS term"
    "  UNION SELECT to_tsquery('simple', term) FROM unnest(CAST(:simple AS text[])) AS term"
    "), held AS MATERIALIZED (SELECT count(*) AS n FROM chunks WHERE tenant = :tenant AND store IN :stores"
    "), weighed AS MATERIALIZED ("  # without this word, the weight is worked out again for every row
    "  SELECT word, ln(1 + (SELECT n FROM held) / (1.0 +"
    "    (SELECT count(*) FROM chunks WHERE search @@ word AND tenant = :tenant AND store IN :stores))) AS weight"
    "  FROM asked WHERE numnode(word) > 0"
    ") SELECT c.id FROM weighed JOIN chunks c ON c.search @@ weighed.word WHERE c.tenant = :tenant AND c.store IN :stores "
    "GROUP BY c.id ORDER BY sum(weighed.weight * ts_rank(c.search, weighed.word, 1)) DESC, c.id LIMIT :limit"
).bindparams(bindparam("stores", expanding=True))


class TextIndex(Protocol):
    """Finds chunks by their words. The rows of `chunks` feed it: there is nothing to add or to delete."""

    def search(self, connection: Connection, tenant: str, stores: Sequence[str], query: str, limit: int) -> list[int]:
        """Numbers of the chunks that hold any of the query's words, best first; only of these stores of this tenant."""
        ...


def text_index(dialect: Literal["sqlite", "postgresql"]) -> TextIndex:
    match dialect:
        case "sqlite":
            return SqliteTextIndex()
        case "postgresql":
            return PostgresTextIndex()


def grams_of(chunk: str) -> str:
    """The column `chunks.grams` of a chunk."""
    return " ".join(dict.fromkeys(unspaced_grams(chunk)))


def query_terms(query: str) -> list[str]:
    """The words to look for, each once: made of letters and digits (and an apostrophe inside) only.

    Function words are left out where there are others: with them nDCG@10 falls from .522 to .512 on Cranfield and from .461 to .420 on CACM.
    """
    found = list(dict.fromkeys(words(query)))
    return ([word for word in found if word not in STOP_WORDS] or found)[:MAX_TERMS]


class SqliteTextIndex:
    """bm25 over FTS5. The store is a term of the index too, so other stores' chunks are never scored."""

    def search(self, connection: Connection, tenant: str, stores: Sequence[str], query: str, limit: int) -> list[int]:
        terms = query_terms(query)
        if not terms or not stores:
            return []
        within = " OR ".join(_quoted(store) for store in stores)
        match = f"store : ({within}) AND {{text grams}} : ({' OR '.join(_quoted(term) for term in terms)})"
        rows = connection.execute(_SQLITE, {"match": match, "tenant": tenant, "stores": list(stores), "limit": limit})
        return [row.id for row in rows]


class PostgresTextIndex:
    """ts_rank of each word, weighed by how rare the word is in these stores: PostgreSQL itself knows no document frequencies."""

    def search(self, connection: Connection, tenant: str, stores: Sequence[str], query: str, limit: int) -> list[int]:
        terms = [part for term in query_terms(query) for part in term.replace("’", "'").split("'")]
        if not terms or not stores:
            return []
        english = [f"'{term}'" for term in terms if not unspaced_grams(term)]
        simple = [f"'{term}'" for term in terms if unspaced_grams(term)]
        parameters = {"english": english, "simple": simple, "tenant": tenant, "stores": list(stores), "limit": limit}
        return [row.id for row in connection.execute(_POSTGRESQL, parameters)]


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
