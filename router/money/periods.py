"""Moments and months as people and programs write them. All are UTC unless they say otherwise."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from msgspec import Struct

DAY_S = 86_400
SETTLED_S = 86_400.0
"""A month is closed this long after its end: until then a settlement may come that the database did not take at once."""

_END_OF_TIME = 253_402_300_800.0
"""The year 10000, of which no calendar knows."""


class Month(Struct, frozen=True):
    """A calendar month in UTC: `[start, end)` in seconds since the epoch, whole days both."""

    name: str
    start: int
    end: int

    @property
    def days(self) -> list[str]:
        """Every day of it, YYYY-MM-DD."""
        return [datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d") for moment in range(self.start, self.end, DAY_S)]


def parse_moment(text: str) -> float:
    """A date, a time, or seconds since the epoch, as seconds since the epoch. Raises `ValueError` with words for whoever wrote it."""
    wrong = ValueError(f"{text!r} is not a date (2026-11-21), a time (2026-11-21T08:00:00+00:00) or seconds since the epoch")
    try:
        moment = float(text)
    except ValueError:
        try:
            parsed = datetime.fromisoformat(text)
            moment = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise wrong from None
    if not 0 <= moment < _END_OF_TIME:
        raise wrong
    return moment


def parse_month(text: str) -> Month:
    """`2026-11` as its month. Raises `ValueError`."""
    found = re.fullmatch(r"([0-9]{4})-(0[1-9]|1[0-2])", text)
    year, month = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1970 <= year < 9999:
        raise ValueError(f"{text!r} is not a month; write it as 2026-11")
    start, end = datetime(year, month, 1, tzinfo=UTC), datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return Month(text, int(start.timestamp()), int(end.timestamp()))
