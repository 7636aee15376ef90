"""OpenAI's way of listing: `limit`, `order`, `after` and `before` in; `data`, `first_id`, `last_id` and `has_more` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from retrieval.values import NotFound, Page, PageRequest
from router.http.errors import ApiError

T = TypeVar("T")
S = TypeVar("S")


class Listing(Struct, Generic[T], frozen=True, kw_only=True):
    object: str = "list"
    data: tuple[T, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Struct, frozen=True):
    id: str
    object: str
    deleted: bool = True


def page_request(limit: int, order: str, after: str | None, before: str | None, *, most: int) -> PageRequest:
    """Raises `ApiError` 400 for a limit out of `1..most` and an unknown order."""
    if not 1 <= limit <= most:
        raise ApiError(400, "invalid_request", f"limit: must be from 1 to {most}.", param="limit")
    if order not in ("asc", "desc"):
        raise ApiError(400, "invalid_request", "order: must be 'asc' or 'desc'.", param="order")
    return PageRequest(limit=limit, after=after, before=before, ascending=order == "asc")


def listing(page: Page[S], shown: Callable[[S], T], ids: Sequence[str]) -> Listing[T]:
    return Listing(data=tuple(shown(item) for item in page.data), first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=page.has_more)


def missing(error: NotFound, param: str | None = None) -> ApiError:
    """The 404 for what the tenant does not have."""
    thing = error.kind.split(" in ")[0].split(" of ")[0]
    return ApiError(404, f"{thing.replace(' ', '_')}_not_found", str(error), param=param)
