"""What checking the books finds."""

from __future__ import annotations

from msgspec import Struct


class Finding(Struct, frozen=True):
    """What does not hold. `row` names the row of `table`; amounts are picodollars."""

    table: str
    row: str
    column: str
    message: str
    expected: str
    found: str
