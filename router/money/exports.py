"""What a provider says it billed: its usage export, read from CSV.

Two kinds. One row for each request, with the provider's own id of it or ours; or sums by day and model, as the consoles of the providers give them. The
columns are known by their names, in any order; `COLUMNS` says which.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Literal

from msgspec import Struct

from adapters.cost import picodollars
from router.money.periods import parse_moment
from router.money.rollup import day_of
from router.money.settlement import LARGEST_AMOUNT, LARGEST_COUNT

COLUMNS: dict[str, tuple[str, ...]] = {
    "provider_request_id": ("provider_request_id",),
    "request_id": ("request_id",),
    "model": ("model", "model_version", "model_id", "model_name"),
    "moment": ("timestamp", "start_time_iso", "start_time", "usage_date_utc", "usage_date", "date", "usage_start_date"),
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "uncached_tokens": ("usage_input_tokens_no_cache", "uncached_input_tokens"),
    "cache_read_input_tokens": ("cached_tokens", "cache_read_input_tokens", "input_cached_tokens", "usage_input_tokens_cache_read"),
    "cache_creation_input_tokens": ("cache_creation_tokens", "cache_creation_input_tokens", "usage_input_tokens_cache_write"),
    "output_tokens": ("output_tokens", "completion_tokens", "usage_output_tokens"),
    "cost": ("cost_usd", "cost"),
    "sku": ("sku_description",),
    "amount": ("usage_amount",),
}
"""What is read, and the names it goes by: the canonical one first, then those of the providers' own exports. Case does not count, and a space is a `_`."""

WRITES_BY_LIFE = ("usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write_1h")
"""Anthropic's tokens written to a cache, in one column for each life of it."""

LARGEST_ID = 1_000
_DATED = re.compile(r"-(?:[0-9]{8}|[0-9]{4}-[0-9]{2}-[0-9]{2})$")
_GEMINI = re.compile(r"gemini[ -]([0-9.]+)[ -](flash[ -]lite|flash|pro)", re.IGNORECASE)


class InvalidExport(ValueError):
    """The file cannot be read as an export; the message names the line and what is wrong there."""


class Reported(Struct):
    """What the provider billed for a request, or for a day and model. Tokens read from and written to a cache are part of the input; None is not told."""

    provider_request_id: str = ""
    request_id: str = ""
    day: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cost: int | None = None
    line: int = 0

    @property
    def name(self) -> str:
        return self.provider_request_id or self.request_id or f"{self.day} {self.model}"


class Export(Struct, frozen=True):
    """A whole export. `rows` are those of the same request, or of the same day and model, added up. `since` and `until` are whole days around its moments."""

    by: Literal["request", "day"]
    rows: tuple[Reported, ...]
    since: str | None
    until: str | None
    """The first and the last day, YYYY-MM-DD; None where the file tells no times."""

    @property
    def dated(self) -> bool:
        return self.since is not None and self.until is not None


def undated(model: str) -> str:
    """A model's name without the date of its release: exports and answers do not agree whether to write it."""
    return _DATED.sub("", model)


def parse_export(lines: Iterable[str]) -> Export:
    """Read an export, line by line. Raises `InvalidExport`. Memory grows with the number of requests (or days and models), not with the file's length."""
    try:
        return _parse(csv.DictReader(lines, strict=True))
    except csv.Error as error:
        raise InvalidExport(f"it is not CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidExport(f"it is not UTF-8: {error}") from error


def _parse(table: csv.DictReader[str]) -> Export:
    named = _named(table.fieldnames or ())
    single = "provider_request_id" in named or "request_id" in named
    _require(named, single)
    found: dict[tuple[str, ...], Reported] = {}
    days: list[str] = []
    for row in table:
        line = table.line_num
        if None in row or any(value is None for value in row.values()):
            raise InvalidExport(f"line {line}: it has another number of cells than the first line")
        reported = _row(row, named, line)
        if single and not (reported.provider_request_id or reported.request_id):
            raise InvalidExport(f"line {line}: it names no request")
        if reported.day:
            days.append(reported.day)
        if len(days) > 1000:
            days = [min(days), max(days)]
        key = (reported.provider_request_id or f" {reported.request_id}",) if single else (reported.day, reported.model)
        known = found.get(key)
        if known is None:
            found[key] = reported
        else:
            _add(known, reported)
    return Export("request" if single else "day", tuple(found.values()), min(days, default=None), max(days, default=None))


def _named(headings: Iterable[str]) -> dict[str, str]:
    """What we read, and the file's own heading for it. Raises `InvalidExport` where two columns would be the same thing."""
    found: dict[str, str] = {}
    canonical = {name: ours for ours, names in COLUMNS.items() for name in names} | {name: name for name in WRITES_BY_LIFE}
    best: dict[str, int] = {}
    for heading in headings:
        plain = heading.removeprefix("\ufeff").strip().lower().replace(" ", "_")
        ours = canonical.get(plain)
        if ours is None:
            continue
        rank = COLUMNS[ours].index(plain) if ours in COLUMNS else 0
        if ours in found and rank == best[ours]:
            raise InvalidExport(f"line 1: two columns are called {plain!r}")
        if ours not in found or rank < best[ours]:  # a file may tell a time in two forms
            found[ours], best[ours] = heading, rank
    return found


def _require(named: Mapping[str, str], single: bool) -> None:
    if "sku" in named and not single:
        needed: tuple[str, ...] = ("moment", "amount")
    elif single:
        needed = ("output_tokens",)
    else:
        needed = ("moment", "model", "output_tokens")
    missing = [COLUMNS[name][0] for name in needed if name not in named]
    if "sku" not in named and "input_tokens" not in named and "uncached_tokens" not in named:
        missing.append("input_tokens")
    if missing:
        raise InvalidExport(f"line 1: no column {', '.join(missing)}; docs/accounting.md lists the columns that are read")


def _row(row: Mapping[str, str], named: Mapping[str, str], line: int) -> Reported:
    def text(name: str) -> str:
        value = row[named[name]].strip() if name in named else ""
        if len(value) > LARGEST_ID or "\0" in value:
            raise InvalidExport(f"line {line}: {named[name]} is no name: it is too long, or holds a NUL")
        return value

    def count(name: str) -> int | None:
        return _count(row[named[name]], line, named[name]) if name in named else None

    moment = text("moment")
    try:
        day = day_of(parse_moment(moment)) if moment else ""
    except ValueError as error:
        raise InvalidExport(f"line {line}: {named['moment']}: {error}") from error
    if not day and "provider_request_id" not in named and "request_id" not in named:
        raise InvalidExport(f"line {line}: {named['moment']} is empty")
    money = _money(row[named["cost"]], line, named["cost"]) if "cost" in named else None
    if "sku" in named:
        return _of_a_sku(text("sku"), lambda: count("amount") or 0, day, money, line)
    read, written = count("cache_read_input_tokens"), count("cache_creation_input_tokens")
    lives = [value for name in WRITES_BY_LIFE if (value := count(name)) is not None]
    if lives:
        written = (written or 0) + sum(lives)
    whole = count("input_tokens") if "input_tokens" in named else None
    if whole is None:
        whole = (count("uncached_tokens") or 0) + (read or 0) + (written or 0)
    elif (read or 0) + (written or 0) > whole:
        raise InvalidExport(f"line {line}: more cached tokens than input tokens; the input is counted with those that were read from a cache or written to one")
    return Reported(
        provider_request_id=text("provider_request_id"),
        request_id=text("request_id"),
        day=day,
        model=undated(text("model")),
        input_tokens=whole,
        output_tokens=count("output_tokens") or 0,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        cost=money,
        line=line,
    )


def _of_a_sku(sku: str, count: Callable[[], int], day: str, money: int | None, line: int) -> Reported:
    """A row of Google's cost table: one article of a model, told by its description. What is no token of Gemini's counts as money only."""
    found, words = _GEMINI.search(sku), sku.lower()
    model = f"gemini-{found[1]}-{found[2].lower().replace(' ', '-')}" if found else sku
    tokens = found is not None and ("token" in words or "input" in words or "output" in words) and "storage" not in words
    written = tokens and "output" in words
    cached = tokens and not written and "cach" in words
    amount = count() if tokens else 0  # other articles are counted in fractions of other things
    return Reported(
        day=day,
        model=model,
        input_tokens=0 if written else amount,
        output_tokens=amount if written else 0,
        cache_read_input_tokens=amount if cached else 0,
        cost=money,
        line=line,
    )


def _count(text: str, line: int, column: str) -> int:
    """A whole number, also as `1,234` or `1234.0`; an empty cell is none."""
    try:
        number = Decimal(text.strip().replace(",", "") or "0")
        if not number.is_finite() or not 0 <= number <= LARGEST_COUNT or number != int(number):
            raise ValueError
    except (InvalidOperation, ValueError) as error:
        raise InvalidExport(f"line {line}: {column} is {text[:50]!r}, which is no number of tokens") from error
    return int(number)


def _money(text: str, line: int, column: str) -> int:
    try:
        number = Decimal(text.strip().replace(",", "").removeprefix("$") or "0")
        if not number.is_finite() or abs(number) * 10**12 > LARGEST_AMOUNT:
            raise ValueError
    except (InvalidOperation, ValueError) as error:
        raise InvalidExport(f"line {line}: {column} is {text[:50]!r}, which is no amount in USD") from error
    return picodollars(number)


def _add(known: Reported, more: Reported) -> None:
    """Some exports tell one request, or one day and model, in several rows."""
    known.input_tokens += more.input_tokens
    known.output_tokens += more.output_tokens
    known.cache_read_input_tokens = _sum(known.cache_read_input_tokens, more.cache_read_input_tokens)
    known.cache_creation_input_tokens = _sum(known.cache_creation_input_tokens, more.cache_creation_input_tokens)
    known.cost = _sum(known.cost, more.cost)
    known.request_id = known.request_id or more.request_id


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)
