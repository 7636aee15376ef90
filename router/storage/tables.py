"""The tables of the ledger's archives: which files hold rows that are not in the ledger any more, and what stands in it for them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Double, Index, String, Table, Text, select

from router.tables import metadata

OPENING = "opening"
"""The ledger's `entry` of a row that stands for archived ones."""

archives = Table(
    "archives",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("month", String(16), nullable=False),
    Column("file", Text, nullable=False),
    Column("format", String(16), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("archived_at", Double, nullable=False),
)

ledger_openings = Table(
    "ledger_openings",
    metadata,
    Column("id", String(40), primary_key=True),  # of the row in the ledger
    Column("archive", String(64), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Index("ix_ledger_openings_archive", "archive"),
)
"""How many rows and requests an opening row of the ledger (`entry = 'opening'`) stands for."""


class Archived(Exception):
    """The rows that are asked for have left the ledger for a file."""

    def __init__(self, month: str) -> None:
        super().__init__(f"the rows of {month} are archived: of that month the ledger knows whole days only, and no single rows")
        self.month = month


def require_rows(connection: Connection, month: str) -> None:
    """Raises `Archived` where the ledger does not hold the rows of a month (`2026-11`) any more."""
    if connection.execute(select(archives.c.id).where(archives.c.month == month)).first() is not None:
        raise Archived(month)
