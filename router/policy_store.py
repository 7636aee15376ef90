"""Policy versions in the database: every one that was ever active, and which one is."""

from __future__ import annotations

import hashlib
import time

from msgspec import Struct
from sqlalchemy import Connection, insert, select, update

from config.database import STATE_LOCK, exclusively
from router.tables import policy_versions as table


class PolicyVersion(Struct, frozen=True, kw_only=True):
    version: int
    hash: str
    source: str
    author: str
    created_at: float
    active: bool
    text: str = ""
    comment: str = ""

    @property
    def etag(self) -> str:
        return f'"{self.version}-{self.hash[:12]}"'


class Conflict(Exception):
    """The active version is not the one the change was made against."""


def policy_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def active_version(connection: Connection) -> PolicyVersion | None:
    row = connection.execute(select(table).where(table.c.active)).mappings().first()
    return PolicyVersion(**row) if row is not None else None


def active_number(connection: Connection) -> int | None:
    """Only which version is active: what every worker asks twice a second."""
    return connection.execute(select(table.c.version).where(table.c.active)).scalar()


def list_versions(connection: Connection) -> list[PolicyVersion]:
    """All versions, newest first, without their texts."""
    columns = [column for column in table.c if column.name != "text"]
    return [PolicyVersion(**row) for row in connection.execute(select(*columns).order_by(table.c.version.desc())).mappings()]


def get_version(connection: Connection, version: int) -> PolicyVersion | None:
    row = connection.execute(select(table).where(table.c.version == version)).mappings().first()
    return PolicyVersion(**row) if row is not None else None


def add_version(connection: Connection, text: str, *, source: str, author: str, expected: str | None = None, comment: str = "") -> PolicyVersion:
    """Add a version and make it active; `comment` says why. With `expected` (an ETag), raises `Conflict` when another one is active now."""
    exclusively(connection, STATE_LOCK)
    current = active_version(connection)
    if expected is not None and (current is None or current.etag != expected):
        raise Conflict
    connection.execute(update(table).where(table.c.active).values(active=False))
    row = {"hash": policy_hash(text), "text": text, "source": source, "author": author, "created_at": time.time(), "active": True, "comment": comment}
    version = connection.execute(insert(table).returning(table.c.version), row).scalar_one()
    found = get_version(connection, version)
    assert found is not None
    return found


def activate(connection: Connection, version: int) -> PolicyVersion | None:
    """Make an earlier version active again. None where there is no such version."""
    exclusively(connection, STATE_LOCK)
    if get_version(connection, version) is None:
        return None
    connection.execute(update(table).where(table.c.active).values(active=False))
    connection.execute(update(table).where(table.c.version == version).values(active=True))
    return get_version(connection, version)


def import_file(connection: Connection, text: str, *, author: str = "file", comment: str = "") -> PolicyVersion:
    """The policy file's text becomes the active version if it differs from the last text imported from the file.

    So an edit counts, also one back to an older text, and a restart with an unchanged file keeps what was activated over the API.
    """
    exclusively(connection, STATE_LOCK)
    last = connection.execute(select(table.c.hash).where(table.c.source == "file").order_by(table.c.version.desc()).limit(1)).scalar()
    current = active_version(connection)
    if current is not None and last == policy_hash(text):
        return current
    return add_version(connection, text, source="file", author=author, comment=comment)
