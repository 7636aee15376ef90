"""Which rows of a provider's export belong to which attempts of the ledger.

The provider's own id of a request tells it first. Where the ledger has none, our reference does that was sent with the attempt; our id of the request alone
only where a single attempt and a single row can be meant. What is left to guess is listed as ambiguous, never paired.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field
from sqlalchemy import Connection, select

from adapters.cost import usd_float
from router.money.differences import Difference, ambiguous, not_in_ledger
from router.money.exports import Export, Reported
from router.money.periods import DAY_S, parse_moment
from router.storage.tables import OPENING
from router.tables import ledger

AttemptKey = tuple[str, int, str]
"""Request id, number of the attempt, purpose."""

_REFERENCE = re.compile(r"(.+)/([a-z][a-z0-9_]*)/([1-9][0-9]{0,8})")


class Pairing(Struct):
    """Each row of the export with its attempt; what the ledger has not or nobody can tell; and the estimates that the export would have to hold."""

    pairs: list[tuple[Reported, AttemptKey]] = []
    rest: list[Difference] = []
    absent: list[tuple[AttemptKey, Difference]] = []
    taken: set[AttemptKey] = field(default_factory=set)
    """Attempts that a row of the export speaks of."""

    def join(self, row: Reported, key: AttemptKey) -> None:
        self.taken.add(key)
        self.pairs.append((row, key))


class _Attempt(Struct):
    """What is known of an attempt before its rows are read together."""

    provider_request_id: str | None
    model: str
    tokens: int = 0
    cost: int = 0
    estimated: bool = False
    in_period: bool = True

    def may_be(self, row: Reported) -> bool:
        """Whether it may be the one, when our id of the request points to it: not when it has another id of the provider's, nor when it used nothing."""
        if row.provider_request_id:
            return self.provider_request_id is None and (self.estimated or bool(self.tokens))
        return bool(self.tokens or self.cost)


class _Known(Struct):
    """The attempts that an export may speak of, by the ids that it names them with."""

    attempts: dict[AttemptKey, _Attempt] = {}
    by_theirs: dict[str, set[AttemptKey]] = field(default_factory=lambda: defaultdict(set))
    by_request: dict[str, set[AttemptKey]] = field(default_factory=lambda: defaultdict(set))
    rows_by_request: dict[str, list[Reported]] = field(default_factory=lambda: defaultdict(list))

    def the_one_of(self, row: Reported) -> set[AttemptKey]:
        """The attempts with the provider's id of that row: one, unless ids were given twice."""
        return self.by_theirs.get(row.provider_request_id, set())


def pair(connection: Connection, export: Export, provider: str) -> Pairing:
    """Read the attempts, and pair them."""
    known = _read(connection, export, provider)
    pairing = Pairing()
    for row in export.rows:  # what the provider's id tells comes before what ours leaves to guess
        _by_their_id(row, known, pairing)
    for row in export.rows:
        if not known.the_one_of(row):
            _by_our_id(row, known, pairing)
    if export.dated:
        _left_over(known, pairing)
    return pairing


def _read(connection: Connection, export: Export, provider: str) -> _Known:
    known = _Known()
    theirs = {row.provider_request_id for row in export.rows if row.provider_request_id}
    for row in export.rows:
        if row.request_id:
            known.rows_by_request[_request_of(row)].append(row)
    for key, booked in _attempt_rows(connection, export, provider):
        name, request_id = booked["provider_request_id"], booked["request_id"]
        if not export.dated and name not in theirs and request_id not in known.rows_by_request and key not in known.attempts:
            continue  # of all times: only what the export names is kept
        if name in theirs:
            known.by_theirs[name].add(key)
        if request_id in known.rows_by_request:
            known.by_request[request_id].add(key)
        attempt = known.attempts.setdefault(key, _Attempt(None, booked["model"]))
        attempt.provider_request_id = attempt.provider_request_id or name
        attempt.tokens += booked["input_tokens"] + booked["output_tokens"]
        attempt.cost += booked["cost"]
        attempt.estimated = attempt.estimated or booked["usage_source"] == "estimated"
        attempt.in_period = attempt.in_period and _within(booked["ended_at"], export)
    return known


def _attempt_rows(connection: Connection, export: Export, provider: str) -> Iterator[tuple[AttemptKey, Mapping[Any, Any]]]:
    columns = ledger.c
    query = select(
        columns.request_id,
        columns.attempt,
        columns.purpose,
        columns.provider_request_id,
        columns.usage_source,
        columns.model,
        columns.input_tokens,
        columns.output_tokens,
        columns.cost,
        columns.ended_at,
    ).where(columns.provider == provider, columns.entry != OPENING)
    if export.since is not None and export.until is not None:  # a day more on both sides: a request may end in another day than the provider's clock has it
        since, until = parse_moment(export.since) - DAY_S, parse_moment(export.until) + 2 * DAY_S
        query = query.where(columns.ended_at >= since, columns.ended_at < until)
    for row in connection.execute(query.execution_options(yield_per=1000)).mappings():
        yield (row["request_id"], row["attempt"], row["purpose"]), row


def _within(moment: float, export: Export) -> bool:
    if export.since is None or export.until is None:
        return True
    return parse_moment(export.since) <= moment < parse_moment(export.until) + DAY_S


def _attempt_of(row: Reported) -> AttemptKey | None:
    """The attempt that an export names as Headgate names it to providers (`ID/answer/1`)."""
    found = _REFERENCE.fullmatch(row.request_id)
    return None if found is None else (found[1], int(found[3]), found[2])


def _request_of(row: Reported) -> str:
    named = _attempt_of(row)
    return row.request_id if named is None else named[0]


def _by_their_id(row: Reported, known: _Known, pairing: Pairing) -> None:
    found = known.the_one_of(row)
    if len(found) == 1:
        pairing.join(row, next(iter(found)))
    elif found:
        pairing.rest.append(ambiguous(row, f"{len(found)} attempts of the ledger have this id"))
        pairing.taken |= found


def _by_our_id(row: Reported, known: _Known, pairing: Pairing) -> None:
    if (named := _attempt_of(row)) is not None:  # it says which attempt it means
        if named in known.attempts and named not in pairing.taken and known.attempts[named].may_be(row):
            pairing.join(row, named)
        else:
            pairing.rest.append(not_in_ledger(row, *named[:2]))
        return
    found = {key for key in known.by_request.get(row.request_id, ()) if key not in pairing.taken and known.attempts[key].may_be(row)}
    same = [other for other in known.rows_by_request.get(row.request_id, ()) if other is not row and not known.the_one_of(other)]
    if not found:
        pairing.rest.append(not_in_ledger(row, row.request_id or None))
    elif len(found) > 1 or same:
        pairing.rest.append(ambiguous(row, f"{len(found)} attempts of this request may be meant by {1 + len(same)} rows of the export"))
    else:
        pairing.join(row, next(iter(found)))


def _left_over(known: _Known, pairing: Pairing) -> None:
    """Attempts of the export's days that it does not have."""
    for key, attempt in known.attempts.items():
        if key in pairing.taken or not attempt.in_period or not (attempt.tokens or attempt.cost):
            continue
        difference = Difference(
            kind="not_in_export",
            name=attempt.provider_request_id or key[0],
            request_id=key[0],
            attempt=key[1],
            model=attempt.model,
            estimated=attempt.estimated,
            fields={"cost_usd": (usd_float(attempt.cost), 0.0)},
        )
        if attempt.estimated:
            pairing.absent.append((key, difference))
        else:
            pairing.rest.append(difference)
