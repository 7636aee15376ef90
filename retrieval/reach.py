"""What of a tenant's documents is within somebody's reach, as conditions of statements. Whoever may touch everything adds none."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, or_, select

from adapters.backend import DATA_CLASSES, DataClass
from retrieval.tables import files, vector_store_files, vector_stores
from retrieval.values import Reach


def up_to(data_class: DataClass) -> tuple[DataClass, ...]:
    """The data classes that are no more sensitive than this one."""
    return DATA_CLASSES[: DATA_CLASSES.index(data_class) + 1]


def stores_within(reach: Reach) -> tuple[ColumnElement[bool], ...]:
    """Of `vector_stores`."""
    named = () if reach.stores is None else (vector_stores.c.id.in_(reach.stores),)
    return (*named, *_classified(vector_stores.c.data_class, reach))


def placed_within(reach: Reach) -> tuple[ColumnElement[bool], ...]:
    """Of `vector_store_files`: a file's place in a store."""
    named = () if reach.stores is None else (vector_store_files.c.store.in_(reach.stores),)
    return (*named, *_classified(vector_store_files.c.data_class, reach))


def files_within(reach: Reach) -> tuple[ColumnElement[bool], ...]:
    """Of `files`."""
    conditions: list[ColumnElement[bool]] = []
    places = select(vector_store_files.c.store).where(vector_store_files.c.file == files.c.id)
    if reach.max_data_class != DATA_CLASSES[-1]:
        conditions.append(~places.where(vector_store_files.c.data_class.not_in(up_to(reach.max_data_class))).exists())
    own = and_(files.c.uploaded_by.is_not(None), files.c.uploaded_by == reach.uploader)
    if reach.stores is not None:
        conditions.append(or_(own, places.where(vector_store_files.c.store.in_(reach.stores)).exists()))
    elif reach.max_data_class == DATA_CLASSES[0]:
        conditions.append(or_(own, places.exists()))
    return tuple(conditions)


def _classified(column: ColumnElement[str], reach: Reach) -> tuple[ColumnElement[bool], ...]:
    return () if reach.max_data_class == DATA_CLASSES[-1] else (column.in_(up_to(reach.max_data_class)),)
