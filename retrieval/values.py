"""What a search asks and answers (these values also cross the compute socket), and the objects of the document store."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeAlias, TypeVar

from msgspec import Struct

from adapters.backend import DataClass
from adapters.types import Passage

RRF_K = 60
"""The constant of reciprocal rank fusion: a passage that is first in both rankings scores 2 / (RRF_K + 1)."""


class SearchRequest(Struct, frozen=True, kw_only=True):
    """A question to some of one tenant's vector stores. Stores of other tenants are treated as absent, and so are
    documents that are more sensitive than `max_data_class`.
    """

    tenant: str
    stores: tuple[str, ...]
    query: str
    limit: int = 8
    highlight: bool = True
    max_data_class: DataClass = "restricted"


class SearchResult(Struct, frozen=True, kw_only=True):
    """Passages, best first; each one was read from the database for this very answer. `data_class` is the highest of their documents.

    `embedding` is the question's embedding, float16 little-endian, for routing to reuse.
    """

    passages: tuple[Passage, ...] = ()
    data_class: DataClass = "public"
    embedding: bytes = b""
    space: str = ""


T = TypeVar("T")
FileStatus: TypeAlias = Literal["in_progress", "completed", "failed", "cancelled"]
ErrorCode: TypeAlias = Literal["server_error", "unsupported_file", "invalid_file"]
Attributes: TypeAlias = dict[str, str | float | bool]


class Reach(Struct, frozen=True, kw_only=True):
    """What of a tenant's documents somebody may touch; the rest is missing to them. By default everything.

    `stores` are the vector stores (None: all), `max_data_class` the most sensitive documents. A file is within reach when it is in one of the
    stores, or `uploader` uploaded it, and when no vector store says that it is more sensitive; one that is in no store counts as internal.
    """

    stores: tuple[str, ...] | None = None
    max_data_class: DataClass = "restricted"
    uploader: str | None = None


EVERYTHING = Reach()


class File(Struct, frozen=True, kw_only=True):
    """An uploaded original. `sha256` is of its bytes, `blob` the name under which the blob store keeps them, `uploaded_by` who uploaded it."""

    id: str
    filename: str
    bytes: int
    purpose: str
    sha256: str
    created_at: float
    blob: str
    uploaded_by: str | None = None


class DocumentText(Struct, frozen=True, kw_only=True):
    """A file's canonical text: NFC, `\\n` line ends. `pages` holds the offset at which each page starts, none where there are no pages."""

    file_id: str
    media_type: str
    text: str
    sha256: str
    pages: tuple[int, ...]


class FileCounts(Struct, frozen=True, kw_only=True):
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0


class Store(Struct, frozen=True, kw_only=True):
    """A vector store. `version` changes with every change of what a search in it can find."""

    id: str
    name: str
    metadata: dict[str, str]
    data_class: DataClass
    version: int
    expires_after_days: int | None
    last_active_at: float
    expires_at: float | None
    expired: bool
    created_at: float
    usage_bytes: int
    counts: FileCounts


class StoreFile(Struct, frozen=True, kw_only=True):
    """A file in a vector store; it can be found once it is `completed`. The error says why it is `failed`."""

    store_id: str
    file_id: str
    status: FileStatus
    error_code: ErrorCode | None
    error_message: str | None
    attributes: Attributes
    data_class: DataClass
    usage_bytes: int
    chunks: int
    created_at: float


class PageRequest(Struct, frozen=True, kw_only=True):
    """Which part of a list: `limit` from 1 to 10,000 rows after (or before) the object with that id, newest first unless `ascending`."""

    limit: int = 20
    after: str | None = None
    before: str | None = None
    ascending: bool = False


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    data: tuple[T, ...]
    has_more: bool


class NotFound(LookupError):
    """The tenant has no such object; whether another tenant has one is not said."""

    def __init__(self, kind: str, id: str) -> None:
        super().__init__(f"No {kind} with id {id!r}.")
        self.kind = kind
        self.id = id

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.kind, self.id))


class OutOfReach(PermissionError):
    """A file is also in vector stores that are out of reach, so it may not be deleted there."""

    def __init__(self, id: str) -> None:
        super().__init__(f"File {id!r} is also in vector stores that are out of reach.")


class TooLarge(ValueError):
    """An upload is larger than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The file is larger than the limit of {limit} bytes.")
        self.limit = limit
