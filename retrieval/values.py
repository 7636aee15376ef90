"""What a search asks and answers; these values also cross the compute socket."""

from __future__ import annotations

from msgspec import Struct

from adapters.backend import DataClass
from adapters.types import Passage


class SearchRequest(Struct, frozen=True, kw_only=True):
    """A question to some of one tenant's vector stores. Stores of other tenants are treated as absent."""

    tenant: str
    stores: tuple[str, ...]
    query: str
    limit: int = 8
    highlight: bool = True


class SearchResult(Struct, frozen=True, kw_only=True):
    """Passages, best first; each one was read from the database for this very answer. `data_class` is the highest of their documents.

    `embedding` is the question's embedding, float16 little-endian, for routing to reuse.
    """

    passages: tuple[Passage, ...] = ()
    data_class: DataClass = "public"
    embedding: bytes = b""
    space: str = ""
