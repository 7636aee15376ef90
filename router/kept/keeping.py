"""How content is written to the database: packed, encrypted for its tenant, bound to its place; and lists of what a tenant has kept."""

from __future__ import annotations

import re
import zlib
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Select, Table, tuple_

from adapters.backend import DATA_CLASSES, DataClass
from retrieval.values import NotFound, PageRequest
from router.kept.sealing import Seal

T = TypeVar("T")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,200}")


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


def packed(seal: Seal, value: object, place: str) -> bytes:
    """As JSON: what clients and providers sent was that, with numbers larger than MessagePack has."""
    return seal.keep(zlib.compress(msgspec.json.encode(value)), place)


def opened(seal: Seal, content: bytes, place: str, kind: type[T]) -> T | None:
    """What was packed; None where it does not open: the service's secret is another one now."""
    plain = seal.kept(content, place)
    return None if plain is None else msgspec.json.decode(zlib.decompress(plain), type=kind)


def page(connection: Connection, query: Select[Any], table: Table, order: tuple[str, str], wanted: PageRequest, kind: str) -> tuple[list[Any], bool]:
    """The rows of one page, and whether there are more. `order` names a column and the id that break ties; `query` is limited to the owner.

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
    backwards = wanted.before is not None and wanted.after is None
    upwards = ascending != backwards
    query = query.order_by(by.asc() if upwards else by.desc(), by_id.asc() if upwards else by_id.desc()).limit(wanted.limit + 1)
    rows = list(connection.execute(query))
    more = len(rows) > wanted.limit
    rows = rows[: wanted.limit]
    return rows[::-1] if backwards else rows, more
