"""The ledger against a provider's usage export: what differs, and corrections that make an estimate equal to what the provider billed.

Guarantees: nothing is ever updated, a difference is booked as one more entry, and the budgets' counters and the sums by day move with it in the same
transaction; a file that is applied twice books nothing the second time; what the provider knows and the ledger does not is listed, never booked.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, func, select

from adapters.cost import cost, usd_float
from adapters.types import Usage
from config.database import STATE_LOCK, Database, exclusively
from config.prices import Price
from router.ids import fresh_id
from router.money.batch import move_counters
from router.money.books import write_rows
from router.money.differences import Difference, told
from router.money.exports import Export, Reported, undated
from router.money.pairing import AttemptKey, pair
from router.money.rollup import SUMMED, usage_days
from router.money.sealing import LedgerChain, SealKey
from router.money.settlement import LARGEST_AMOUNT, Counter
from router.tables import ledger

RECONCILE_LOCK = STATE_LOCK + 20
MOST_LISTED = 1_000
"""Differences that are listed; all are counted."""

_AT_ONCE = 200
"""Requests that are compared and corrected in one transaction."""

PROVIDERS = {"google": "gcp.gemini", "gemini": "gcp.gemini"}
"""Other words for a provider than the ledger's."""


class Reconciliation(Struct, kw_only=True):
    """The outcome. `compared` are rows of the export, `equal` those that the ledger agrees with, `counts` the differences by kind (listed or not).

    `corrections` were booked, for `corrected_usd` in sum; `open` are the differences that remain.
    """

    provider: str
    by: str
    compared: int
    equal: int = 0
    counts: dict[str, int] = {}
    corrections: int = 0
    corrected_usd: float = 0.0
    open: int = 0
    differences: list[Difference] = []

    def note(self, difference: Difference) -> None:
        self.counts[difference.kind] = self.counts.get(difference.kind, 0) + 1
        self.open += not difference.booked
        if len(self.differences) < MOST_LISTED:
            self.differences.append(difference)


class NotByRequest(ValueError):
    """The export tells sums by day: nothing can be booked from it."""


class NoSuchProvider(LookupError):
    """The ledger has no row of that provider."""


Booked = Callable[[Connection, int, int], None]
"""Comes last in a transaction that booked corrections: how many, and their cost in sum, in picodollars."""


def reconcile(
    database: Database,
    export: Export,
    provider: str,
    seals: SealKey,
    *,
    apply: bool = False,
    reported: bool = False,
    unbilled: bool = False,
    booked: Booked | None = None,
) -> Reconciliation:
    """Compare, and with `apply` book what corrects the estimates; with `reported` also what the provider itself had reported otherwise; with `unbilled`
    to nothing, what the export does not have of its own days: no call was made, or it was not billed.

    `booked` is told in the transaction that books. Blocking. Raises `NotByRequest` where there is nothing that `apply` could book by, and `NoSuchProvider`.
    """
    provider = PROVIDERS.get(provider, provider)
    known = database.read_blocking(_providers)
    if provider not in known:
        raise NoSuchProvider(f"the ledger has no provider {provider!r}; it has {', '.join(known) or 'no rows yet'}")
    result = Reconciliation(provider=provider, by=export.by, compared=len(export.rows))
    if export.by == "day":
        if apply:
            raise NotByRequest(
                "this export tells sums by day and model, and no single request: nothing can be booked from it. Leave out apply to see what differs"
            )
        database.read_blocking(lambda connection: _compare_days(connection, export, provider, result))
        return result
    if unbilled and not export.dated:
        raise NotByRequest("without a column timestamp nobody knows which days the export covers, and so not what it would have to hold")
    pairing = database.read_blocking(lambda connection: pair(connection, export, provider))
    pairs, rest = pairing.pairs, pairing.rest
    if unbilled:
        pairs += [(Reported(request_id=key[0], cost=0, cache_read_input_tokens=0, cache_creation_input_tokens=0), key) for key, _ in pairing.absent]
    else:
        rest += [difference for _, difference in pairing.absent]
    for start in range(0, len(pairs), _AT_ONCE):
        some = pairs[start : start + _AT_ONCE]
        if apply:
            done = database.write_blocking(lambda connection, some=some: _compare(connection, some, seals, apply=True, reported=reported, booked=booked))  # type: ignore[misc]
        else:
            done = database.read_blocking(lambda connection, some=some: _compare(connection, some, seals, apply=False, reported=reported))  # type: ignore[misc]
        result.equal += done.equal
        result.corrections += done.corrections
        result.corrected_usd += usd_float(done.corrected)
        for difference in done.differences:
            result.note(difference)
    for difference in rest:
        result.note(difference)
    return result


def _providers(connection: Connection) -> list[str]:
    return [str(row[0]) for row in connection.execute(select(usage_days.c.provider).distinct().order_by(usage_days.c.provider))]


# --- comparing, and booking the difference ---------------------------------------------------------------------------------------------------


class _Done(Struct):
    equal: int = 0
    corrections: int = 0
    corrected: int = 0
    differences: list[Difference] = []


def _compare(
    connection: Connection, pairs: Sequence[tuple[Reported, AttemptKey]], seals: SealKey, *, apply: bool, reported: bool, booked: Booked | None = None
) -> _Done:
    """Compare with the rows as they are now, and correct them in the same transaction; two that apply at the same time do it one after the other."""
    if apply:
        exclusively(connection, RECONCILE_LOCK)
    requests = sorted({key[0] for _, key in pairs})
    rows: dict[AttemptKey, list[Mapping[Any, Any]]] = {}
    began: dict[str, float] = {}
    for row in connection.execute(select(ledger).where(ledger.c.request_id.in_(requests))).mappings():
        rows.setdefault((row["request_id"], row["attempt"], row["purpose"]), []).append(row)
        began[row["request_id"]] = min(began.get(row["request_id"], row["started_at"]), row["started_at"])
    done = _Done()
    corrections: list[dict[str, Any]] = []
    spent: dict[Counter, int] = defaultdict(int)
    for theirs, key in pairs:
        correction, fields, estimated = _difference(rows[key], theirs)
        listed = theirs.line > 0
        may = apply and (estimated or (reported and listed))
        if may and (fields or estimated):
            corrections.append(correction)
            for counter in _counters(correction, began[key[0]]):
                spent[counter] += correction["cost"]
        if fields:
            difference = Difference(
                kind="differs" if listed else "not_in_export",
                name=theirs.name,
                request_id=key[0],
                attempt=key[1],
                model=correction["model"],
                estimated=estimated,
                booked=may,
                fields=fields,
            )
            done.differences.append(difference)
        elif listed:
            done.equal += 1
    move_counters(connection, {counter: (amount, 0) for counter, amount in spent.items()}, {})
    write_rows(connection, LedgerChain(seals), corrections)
    done.corrections, done.corrected = len(corrections), sum(row["cost"] for row in corrections)
    if corrections and booked is not None:
        booked(connection, done.corrections, done.corrected)
    return done


def _difference(rows: Sequence[Mapping[Any, Any]], theirs: Reported) -> tuple[dict[str, Any], dict[str, tuple[float, float]], bool]:
    """The entry that would make an attempt's rows equal to what the provider billed, the fields that differ, and whether the rows are an estimate."""
    base = next((row for row in rows if row["entry"] != "correction"), rows[0])
    estimated = base["usage_source"] == "estimated" and not any(row["entry"] == "correction" and row["usage_source"] != "estimated" for row in rows)
    ours = {name: sum(row[name] for row in rows) for name in SUMMED}
    usage = _billed(ours, theirs)
    true = {name: value for name, value in msgspec.structs.asdict(usage).items() if name in ours}
    same_tokens = all(true[name] == ours[name] for name in true)
    if theirs.cost is not None:
        true["cost"] = theirs.cost
    elif same_tokens and not estimated:
        true["cost"] = ours["cost"]
    else:
        true["cost"] = min(cost(usage, msgspec.json.decode(base["price"], type=Price)), LARGEST_AMOUNT)
    difference = {name: true[name] - ours[name] for name in true}
    fields: dict[str, tuple[float, float]] = {name: (ours[name], true[name]) for name, by in difference.items() if by and name != "cost"}
    if difference["cost"]:
        fields["cost_usd"] = (usd_float(ours["cost"]), usd_float(true["cost"]))
    entry = {
        **base,
        **difference,
        "id": fresh_id(),
        "entry": "correction",
        "usage_source": "provider",
        "provider_request_id": base["provider_request_id"] or theirs.provider_request_id or None,
        "delivered_characters": 0,
        "list_cost": difference["cost"],  # what routing avoided stays what it was
        "reserved": 0,
        "billed_ms": 0,
        "booked_at": time.time(),
    }
    return entry, fields, estimated


def _billed(ours: Mapping[str, int], theirs: Reported) -> Usage:
    """What the export says, completed by what it does not tell, as far as that fits."""
    whole, output = theirs.input_tokens, theirs.output_tokens
    read = min(ours["cache_read_input_tokens"], whole) if theirs.cache_read_input_tokens is None else theirs.cache_read_input_tokens
    written = theirs.cache_creation_input_tokens
    if written is None:
        written = max(0, min(ours["cache_creation_input_tokens"], whole - read))
    heard = min(ours["audio_input_tokens"], whole)
    return Usage(
        input_tokens=whole,
        output_tokens=output,
        cache_read_input_tokens=read,
        cache_creation_input_tokens=written,
        reasoning_output_tokens=min(ours["reasoning_output_tokens"], output),
        audio_input_tokens=heard,
        audio_output_tokens=min(ours["audio_output_tokens"], output),
        audio_cache_read_input_tokens=min(ours["audio_cache_read_input_tokens"], heard, read),
        source="provider",
    )


def _counters(row: Mapping[str, Any], moment: float) -> list[Counter]:
    """The counters that a request of that moment may have been paid from: its tenant's, and those of the levels inside, where there are any."""
    day = datetime.fromtimestamp(moment, UTC)
    levels = ("", f"team:{row['team']}", f"key:{row['key_id']}", f"model:{row['backend']}", f"model:{row['model']}")
    periods = (f"day:{day:%Y-%m-%d}", f"month:{day:%Y-%m}")
    return [Counter(row["tenant"], scope, period) for scope in dict.fromkeys(levels) for period in periods]


# --- sums by day -----------------------------------------------------------------------------------------------------------------------------

_BY_DAY = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cost")


def _compare_days(connection: Connection, export: Export, provider: str, result: Reconciliation) -> None:
    columns = usage_days.c
    sums = [func.sum(columns[name]).label(name) for name in _BY_DAY]
    query = select(columns.day, columns.model, *sums).where(columns.provider == provider, columns.day >= export.since, columns.day <= export.until)
    ours: dict[tuple[str, str], dict[str, int]] = {}
    for row in connection.execute(query.group_by(columns.day, columns.model)).mappings():
        line = ours.setdefault((row["day"], undated(row["model"])), dict.fromkeys(_BY_DAY, 0))
        for name in _BY_DAY:
            line[name] += int(row[name])
    for theirs in sorted(export.rows, key=lambda row: (row.day, row.model)):
        found = ours.pop((theirs.day, theirs.model), None)
        if found is None or not any(found.values()):
            if theirs.input_tokens or theirs.output_tokens or theirs.cost:
                result.note(Difference(kind="not_in_ledger", name=theirs.name, model=theirs.model, fields=told(theirs)))
            else:
                result.equal += 1
            continue
        fields: dict[str, tuple[float, float]] = {}
        for name in _BY_DAY:
            figure = getattr(theirs, name)
            if figure is not None and figure != found[name]:
                fields["cost_usd" if name == "cost" else name] = (usd_float(found[name]), usd_float(figure)) if name == "cost" else (found[name], figure)
        if fields:
            result.note(Difference(kind="differs", name=theirs.name, model=theirs.model, fields=fields))
        else:
            result.equal += 1
    for (day, model), found in sorted(ours.items()):
        if any(found.values()):
            fields = {"cost_usd": (usd_float(found["cost"]), 0.0)}
            result.note(Difference(kind="not_in_export", name=f"{day} {model}", model=model, fields=fields))
