"""How content is written to the database: packed, encrypted for its tenant, bound to its place; and lists of what a tenant has kept."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Select, Table, func, tuple_

from adapters.backend import DATA_CLASSES, DataClass
from retrieval.values import NotFound, PageRequest
from router.kept.sealing import Seal

T = TypeVar("T")
R = TypeVar("R")

LARGEST = 128 * 2**20
"""Bytes of kept content, as JSON and as stored, that one request has in memory: the largest single one, and all that a history is made of."""

PAGE = 32 * 2**20
"""The same for a page of a list, which ends before it would hold more; its first object comes however large it is."""

OVERHEAD = 1_024
"""Bytes that every row counts for besides its content."""

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,200}")


class TooLarge(Exception):
    """More kept content than one request may have in memory."""


class Budget:
    """How much kept content may still be opened, in bytes as JSON."""

    def __init__(self, left: int | None = None) -> None:
        self.left = LARGEST if left is None else left

    def inflated(self, packed: bytes) -> bytes:
        """Raises `TooLarge`, having inflated no more than is left."""
        most = self.left - OVERHEAD
        if most <= 0:
            raise TooLarge
        stream = zlib.decompressobj()
        content = stream.decompress(packed, most)
        if stream.unconsumed_tail or not stream.eof:
            raise TooLarge
        self.left = most - len(content)
        return content


def require_id(kind: str, id: str) -> str:
    """An id that can be one. Raises `NotFound`: what cannot be one is looked for nowhere (PostgreSQL refuses a NUL)."""
    if not _ID.fullmatch(id):
        raise NotFound(kind, id[:200])
    return id


def up_to(column: Column[Any], data_class: DataClass) -> tuple[ColumnElement[bool], ...]:
    """The condition that what is kept is no more sensitive than this; none where everything may be seen."""
    seen = DATA_CLASSES[: DATA_CLASSES.index(data_class) + 1]
    return () if seen == DATA_CLASSES else (column.in_(seen),)


def usable_id(value: object) -> bool:
    """Whether a client's id of an item may stay."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def packed(seal: Seal, value: object, place: str, most: int | None = None) -> bytes:
    """As JSON: what clients and providers sent was that, with numbers larger than MessagePack has. Raises `TooLarge` for more bytes of it than `most`."""
    content = msgspec.json.encode(value)
    if most is not None and len(content) > most:
        raise TooLarge
    return seal.keep(zlib.compress(content), place)


def opened(seal: Seal, content: bytes, place: str, kind: type[T], budget: Budget | None = None) -> T | None:
    """What was packed; None where it does not open: the service's secret is another one now.

    Raises `TooLarge` beyond the budget. Without one, what has more than `LARGEST` bytes counts as not to be opened.
    """
    plain = seal.kept(content, place)
    if plain is None:
        return None
    try:
        return msgspec.json.decode((budget or Budget(LARGEST + OVERHEAD)).inflated(plain), type=kind)
    except TooLarge:
        if budget is not None:
            raise
        return None


def stored_bytes(table: Table) -> ColumnElement[int]:
    """What the content of some rows takes, summed up by the database without reading it."""
    return func.coalesce(func.sum(func.length(table.c.content) + OVERHEAD), 0)


def page(connection: Connection, query: Select[Any], table: Table, order: tuple[str, str], wanted: PageRequest, kind: str) -> tuple[list[Any], bool]:
    """The rows of one page, and whether there are more. `order` names a column and the id that break ties; `query` is limited to the owner.

    Where the rows have a content, those after the first hold no more than `PAGE` bytes of it, as it is stored.

    Raises `NotFound` for an `after` or `before` that the query does not know.
    """
    by, by_id = (table.c[name] for name in order)
    ascending = wanted.ascending
    for cursor, beyond in ((wanted.after, True), (wanted.before, False)):
        if cursor is None:
            continue
        at = connection.execute(query.with_only_columns(by, by_id).where(table.c.id == cursor)).one_or_none()
        if at is None:
            raise NotFound(kind, cursor)
        place = tuple_(by, by_id)
        query = query.where(place > tuple_(*at) if beyond == ascending else place < tuple_(*at))
    # Before a row, the nearest come first too; they are turned round at the end.
    backwards = _backwards(wanted)
    upwards = ascending != backwards
    query = query.order_by(by.asc() if upwards else by.desc(), by_id.asc() if upwards else by_id.desc())
    fitting, more = wanted.limit, None
    if "content" in table.c:
        sizes = list(connection.execute(query.with_only_columns(func.length(table.c.content) + OVERHEAD).limit(wanted.limit + 1)).scalars())
        fitting = _fitting(sizes[: wanted.limit])
        more = len(sizes) > fitting
    rows = list(connection.execute(query.limit(fitting if more is not None else fitting + 1)))
    more = len(rows) > fitting if more is None else more
    rows = rows[:fitting]
    return rows[::-1] if backwards else rows, more


def opened_page(rows: Sequence[R], more: bool, wanted: PageRequest, opening: Callable[[R, Budget | None], T]) -> tuple[tuple[T, ...], bool]:
    """The objects of a page's rows, as many as `PAGE` bytes of JSON hold, those nearest to where it begins; and whether there are more."""
    backwards = _backwards(wanted)
    budget = Budget(PAGE)
    found: list[T] = []
    for row in reversed(rows) if backwards else rows:
        try:
            found.append(opening(row, budget))
        except TooLarge:
            if found:
                more = True
                break
            found.append(opening(row, None))
            budget.left = 0
    return tuple(found[::-1] if backwards else found), more


def _backwards(wanted: PageRequest) -> bool:
    return wanted.before is not None and wanted.after is None


def _fitting(sizes: Sequence[int]) -> int:
    """How many of the rows a page holds, by their sizes: at least one."""
    total = 0
    for place, size in enumerate(sizes):
        total += size
        if place and total > PAGE:
            return place
    return len(sizes)
