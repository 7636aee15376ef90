"""The decision log, read back: what every decided request was decided from, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, RowMapping, Select, func, select

from adapters.types import Capabilities
from policies.decision import BackendState, Decision, State
from policies.record import Record
from router.audit.recording import BackendNow, StateNow
from router.audit.tables import decision_capabilities, decisions, feedback

READ_AT_ONCE = 500

_OF_STATE = tuple(name for name in StateNow.__struct_fields__ if name not in ("backends", "capabilities"))
_OF_BACKEND = BackendNow.__struct_fields__
_PLAIN = tuple(name for name in Record.__struct_fields__ if name in decisions.c and name not in ("decision", "state", "moderation"))
_DECISION = msgspec.json.Decoder(Decision)
_STATE = msgspec.json.Decoder(StateNow)
_COUNTS = msgspec.json.Decoder(dict[str, int])


class Chosen(Struct, frozen=True, kw_only=True):
    """Which records. Times are seconds since the epoch, `[since, until)`; of more than `limit`, the newest."""

    since: float | None = None
    until: float | None = None
    tenant: str | None = None
    policy_version: int | None = None
    limit: int | None = None

    def query(self) -> Select[Any]:
        """Their request ids and times, oldest first: all that were decided."""
        columns = decisions.c
        found = select(decisions).where(columns.decision.is_not(None), columns.state.is_not(None))
        if self.since is not None:
            found = found.where(columns.created_at >= self.since)
        if self.until is not None:
            found = found.where(columns.created_at < self.until)
        if self.tenant is not None:
            found = found.where(columns.tenant == self.tenant)
        if self.policy_version is not None:
            found = found.where(columns.policy_version == self.policy_version)
        return found


def state_of(now: StateNow, able: dict[str, Capabilities], seed: str) -> State:
    """The state as it was seen. Whatever is recorded under a field's name is read back under it."""
    backends = {name: BackendState(capabilities=able[name], **{field: getattr(each, field) for field in _OF_BACKEND}) for name, each in now.backends.items()}
    return State(backends=backends, seed=seed, **{field: getattr(now, field) for field in _OF_STATE})


class Capable:
    """What backends could do, by the id under which it was recorded; each is read once. None for what is not recorded any more."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, dict[str, Capabilities] | None] = {}

    def __call__(self, id: str) -> dict[str, Capabilities] | None:
        if id not in self._known:
            content = self._connection.execute(select(decision_capabilities.c.content).where(decision_capabilities.c.id == id)).scalar()
            self._known[id] = None if content is None else msgspec.json.decode(content, type=dict[str, Capabilities])
        return self._known[id]


def records(
    connection: Connection,
    since: float | None = None,
    until: float | None = None,
    tenant: str | None = None,
    policy_version: int | None = None,
    limit: int | None = None,
) -> Iterator[Record]:
    """The decided requests with their outcomes, oldest first, read as they are consumed. Of more than `limit`, the newest.

    Left out are requests that were refused before anything was decided, and those whose state is not readable any more.
    """
    chosen = Chosen(since=since, until=until, tenant=tenant, policy_version=policy_version, limit=limit)
    after = _after(connection, chosen)
    able = Capable(connection)
    while rows := page(connection, chosen, after):
        after = (rows[-1]["created_at"], rows[-1]["request_id"])
        yield from read(connection, rows, able)


def count(connection: Connection, chosen: Chosen) -> int:
    """How many there are, for those who want to say how far they are."""
    found = connection.execute(chosen.query().with_only_columns(func.count())).scalar_one()
    return int(found) if chosen.limit is None else min(int(found), chosen.limit)


Place = tuple[float, str]
"""When a request came, and its id: where a reader is."""


def _after(connection: Connection, chosen: Chosen) -> Place | None:
    """The place before the first of the newest `limit`; None for the very beginning."""
    if chosen.limit is None:
        return None
    columns = decisions.c
    query = chosen.query().with_only_columns(columns.created_at, columns.request_id).order_by(columns.created_at.desc(), columns.request_id.desc())
    row = connection.execute(query.offset(chosen.limit).limit(1)).one_or_none()
    return None if row is None else (row.created_at, row.request_id)


def beginning(connection: Connection, chosen: Chosen) -> Place | None:
    """Where to begin to read pages: see `page`."""
    return _after(connection, chosen)


def page(connection: Connection, chosen: Chosen, after: Place | None, size: int = READ_AT_ONCE) -> list[RowMapping]:
    """The next rows after a place, oldest first; none at the end."""
    columns = decisions.c
    query = chosen.query()
    if after is not None:
        query = query.where((columns.created_at > after[0]) | ((columns.created_at == after[0]) & (columns.request_id > after[1])))
    return list(connection.execute(query.order_by(columns.created_at, columns.request_id).limit(size)).mappings())


def read(connection: Connection, rows: list[RowMapping], able: Callable[[str], dict[str, Capabilities] | None] | None = None) -> list[Record]:
    """Rows as records."""
    able = able or Capable(connection)
    ids = [row["request_id"] for row in rows]
    rated = select(feedback.c.request_id, func.avg(feedback.c.score)).where(feedback.c.request_id.in_(ids)).group_by(feedback.c.request_id)
    scores: dict[str, float] = {row[0]: row[1] for row in connection.execute(rated)}
    found = []
    for row in rows:
        decision, now = _DECISION.decode(row["decision"]), _STATE.decode(row["state"])
        capable = able(now.capabilities)
        if capable is None or not now.backends.keys() <= capable.keys():
            continue
        found.append(
            Record(
                decision=decision,
                features=decision.features,
                state=state_of(now, capable, decision.seed),
                moderation=_COUNTS.decode(row["moderation"]),
                score=scores.get(row["request_id"]),
                **{name: row[name] for name in _PLAIN},
            )
        )
    return found
