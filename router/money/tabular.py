"""Rows as CSV that a spreadsheet may open."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(value: object) -> object:
    """A value as it may stand in a cell: a text that a spreadsheet would take for a formula begins with an apostrophe. Numbers stay as they are.

    The names in the books are partly a provider's words, and a formula can send a sheet's content elsewhere.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_STARTS_A_FORMULA) else value


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A whole table."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(headings)
    table.writerows([cell(value) for value in row] for row in rows)
    return file.getvalue()
