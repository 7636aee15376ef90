"""The JSON of vector stores, in OpenAI's shape, with what Headgate adds under `headgate`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, get_args

from msgspec import UNSET, Meta, Struct, UnsetType, field

from adapters.backend import DataClass
from adapters.types import Passage
from retrieval.chunk import MAX_TOKENS
from retrieval.values import RRF_K, Attributes, ErrorCode, FileCounts, FileStatus, Store, StoreFile
from router.http.errors import ApiError

Metadata: TypeAlias = Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
TEXT = r"^[^\x00]*$"
"""What a text column can hold: PostgreSQL's have no U+0000."""
StoreName: TypeAlias = Annotated[str, Meta(max_length=512, pattern=TEXT)]
FileId: TypeAlias = Annotated[str, Meta(pattern=TEXT)]
AttributeMap: TypeAlias = Annotated[dict[Annotated[str, Meta(max_length=64)], str | float | bool], Meta(max_length=16)]


class ExpiresAfter(Struct, frozen=True, forbid_unknown_fields=True):
    days: Annotated[int, Meta(ge=1, le=365)]
    anchor: Literal["last_active_at"] = "last_active_at"


class AutoChunking(Struct, frozen=True, forbid_unknown_fields=True):
    """Chunks are cut to what the embedding model reads: no other strategy can be asked for."""

    type: Literal["auto"]


class Classified(Struct, frozen=True, forbid_unknown_fields=True):
    """How sensitive the documents are. A store's class is the least its files have; a file's can only raise it."""

    data_class: DataClass | None = None


class CreateStore(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: StoreName | None = None
    file_ids: Annotated[tuple[FileId, ...], Meta(max_length=500)] = ()
    metadata: Metadata | None = None
    expires_after: ExpiresAfter | None = None
    chunking_strategy: AutoChunking | None = None
    headgate: Classified = Classified()


class UpdateStore(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: StoreName | UnsetType | None = UNSET
    metadata: Metadata | UnsetType | None = UNSET
    expires_after: ExpiresAfter | UnsetType | None = UNSET

    def changes(self) -> dict[str, Any]:
        """Arguments of `Documents.update_store`: only what was given; null empties."""
        given: dict[str, Any] = {}
        if self.name is not UNSET:
            given["name"] = self.name or ""
        if self.metadata is not UNSET:
            given["metadata"] = self.metadata or {}
        if self.expires_after is not UNSET:
            given["expires_after_days"] = None if self.expires_after is None else self.expires_after.days
        return given


class AttachFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    file_id: FileId
    attributes: AttributeMap | None = None
    chunking_strategy: AutoChunking | None = None
    headgate: Classified = Classified()


class RankingOptions(Struct, frozen=True, forbid_unknown_fields=True):
    ranker: Literal["auto", "none", "default-2024-11-15"] = "auto"
    score_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.0


class SearchBody(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`rewrite_query` may be false only, and `filters` is not known yet: what would be ignored is refused."""

    query: str | tuple[str, ...]
    max_num_results: Annotated[int, Meta(ge=1, le=50)] = 10
    ranking_options: RankingOptions = RankingOptions()
    rewrite_query: bool = False

    def __post_init__(self) -> None:
        if self.rewrite_query:
            raise ValueError("rewrite_query is not supported: leave it out")

    @property
    def text(self) -> str:
        return self.query if isinstance(self.query, str) else " ".join(self.query)


class StoreObject(Struct, frozen=True, kw_only=True):
    id: str
    object: str = "vector_store"
    created_at: int
    name: str
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpiresAfter | None
    expires_at: int | None
    last_active_at: int
    metadata: dict[str, str]
    headgate: Classified


class LastError(Struct, frozen=True):
    code: ErrorCode
    message: str


class StaticChunking(Struct, frozen=True):
    max_chunk_size_tokens: int = MAX_TOKENS
    chunk_overlap_tokens: int = 0


class Chunking(Struct, frozen=True):
    type: str = "static"
    static: StaticChunking = StaticChunking()


class FileObject(Struct, frozen=True, kw_only=True):
    id: str
    object: str = "vector_store.file"
    usage_bytes: int
    created_at: int
    vector_store_id: str
    status: FileStatus
    last_error: LastError | None
    chunking_strategy: Chunking = Chunking()
    attributes: Attributes
    headgate: Classified


class Content(Struct, frozen=True):
    text: str
    type: str = "text"


class Place(Struct, frozen=True):
    """Where the chunk stands: offsets in `GET /v1/files/{file_id}/text`, page from 1 or null; the cosine of question and chunk."""

    chunk_id: str
    page: int | None
    start: int
    end: int
    similarity: float


class SearchItem(Struct, frozen=True, kw_only=True):
    file_id: str
    filename: str
    score: float
    attributes: Attributes
    content: tuple[Content, ...]
    headgate: Place


class SearchPage(Struct, frozen=True, kw_only=True):
    object: str = "vector_store.search_results.page"
    search_query: tuple[str, ...]
    data: tuple[SearchItem, ...] = field(default=())
    has_more: bool = False
    next_page: str | None = None


def store_object(store: Store) -> StoreObject:
    days = store.expires_after_days
    return StoreObject(
        id=store.id,
        created_at=int(store.created_at),
        name=store.name,
        usage_bytes=store.usage_bytes,
        file_counts=store.counts,
        status="expired" if store.expired else "in_progress" if store.counts.in_progress else "completed",
        expires_after=None if days is None else ExpiresAfter(days),
        expires_at=None if store.expires_at is None else int(store.expires_at),
        last_active_at=int(store.last_active_at),
        metadata=store.metadata,
        headgate=Classified(store.data_class),
    )


def file_object(file: StoreFile) -> FileObject:
    return FileObject(
        id=file.file_id,
        usage_bytes=file.usage_bytes,
        created_at=int(file.created_at),
        vector_store_id=file.store_id,
        status=file.status,
        last_error=None if file.error_code is None else LastError(file.error_code, file.error_message or ""),
        attributes=file.attributes,
        headgate=Classified(file.data_class),
    )


def search_item(passage: Passage, placed: StoreFile) -> SearchItem:
    return SearchItem(
        file_id=passage.file_id,
        filename=passage.filename,
        score=min(1.0, passage.score * (RRF_K + 1) / 2),
        attributes=placed.attributes,
        content=(Content(passage.text),),
        headgate=Place(passage.chunk_id, passage.page, passage.start, passage.end, passage.similarity),
    )


def checked_status(given: str | None) -> FileStatus | None:
    """Raises `ApiError` 400 for a word that is no status."""
    for status in get_args(FileStatus):
        if given == status:
            found: FileStatus = status
            return found
    if given is None:
        return None
    raise ApiError(400, "invalid_request", f"filter: must be one of {', '.join(get_args(FileStatus))}.", param="filter")
