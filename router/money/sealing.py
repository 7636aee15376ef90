"""Seals: whoever can write to the database but has not the service's secret can change, remove, add or move no row of the ledger unnoticed.

A writer's rows are numbered without gaps from 1 on: its chain. A row's seal is a code, under a key that only the secret gives, of its chain, its position
and every other column. Each chain's head (how far it goes at least) is signed, chains are numbered under a signed count, and so is how many rows were there
before rows were sealed; what an archive took away is signed with it. `router.audit.seal_check` holds the ledger against all this, in any order of its rows.

Positions are taken inside a transaction and given back when it is undone. A writer that does not learn whether one was committed begins another chain.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Column, Connection, String, Table, bindparam, func, insert, select, update

from config.database import STATE_LOCK, Prepared, exclusively
from router.audit.log import SYSTEM, Appender, Entry, Subject
from router.audit.tables import audit_log, ledger_seals
from router.ids import fresh_id
from router.tables import ledger, metadata

SEAL_LOCK = STATE_LOCK + 25
SEALING: Final = "ledger.seal"
"""The audit log's action: from here on rows are sealed."""

SEALED = (
    "id",
    "request_id",
    "attempt",
    "purpose",
    "entry",
    "tenant",
    "team",
    "user_id",
    "key_id",
    "backend",
    "provider",
    "model",
    "provider_request_id",
    "outcome",
    "error",
    "usage_source",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_output_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "audio_cache_read_input_tokens",
    "delivered_characters",
    "cost",
    "list_cost",
    "reserved",
    "price",
    "price_version",
    "rule",
    "policy_version",
    "started_at",
    "ended_at",
    "billed_ms",
    "booked_at",
)
"""What a seal covers, in the order of the table. A column that comes later changes every code: rows that were sealed without it need this order too."""

SEAL_COLUMNS = ("chain", "position", "seal")

ledger_heads = Table(
    "ledger_heads",
    metadata,
    Column("chain", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("mac", String(32), nullable=False),
)
"""How far a writer's rows go at least. Chains are numbered from 1 on."""

ledger_archived = Table(
    "ledger_archived",
    metadata,
    Column("archive", String(64), primary_key=True),
    Column("chain", String(32), primary_key=True),
    Column("first", BigInteger, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("mac", String(32), nullable=False),
)
"""The positions that left with an archive. Chain '': so many of the rows that were never sealed."""

INSERT_LEDGER = Prepared(insert(ledger))
_UPDATE_HEAD = Prepared(
    update(ledger_heads)
    .where(ledger_heads.c.chain == bindparam("of"), ledger_heads.c.position < bindparam("reached"))
    .values(position=bindparam("reached"), mac=bindparam("code"))
)
_SEALED_OF = itemgetter(*SEALED)
_REAL = tuple(place for place, name in enumerate(SEALED) if name in ("started_at", "ended_at", "booked_at"))
_TYPES = frozenset((str, int, float, type(None)))
_encode = msgspec.json.Encoder().encode


class SealKey:
    """Makes and checks the codes. Every process with the same secret makes the same. Codes are 32 hexadecimal digits: half of an HMAC-SHA256."""

    def __init__(self, secret: bytes) -> None:
        self.audit = Appender(secret)
        """Says in the audit log that sealing began."""
        self._key = hmac.digest(secret, b"headgate ledger seal v1", "sha256")

    def row(self, chain: str, position: int, values: Sequence[Any]) -> str:
        """Of a row, by its values in the order of `SEALED`, as the database gives them back."""
        return self._code([chain, position, *values])

    def is_row(self, chain: object, position: object, seal: object, values: Sequence[Any]) -> bool:
        """Whether a row is as it was sealed; what a database gives back may be anything."""
        return isinstance(chain, str) and isinstance(position, int) and _plain(*values) and _same(self.row(chain, position, values), seal)

    def head(self, chain: str, number: int, position: int) -> str:
        return self._code(["head", chain, number, position])

    def state(self, chains: int, unsealed: int, at: float) -> str:
        return self._code(["state", chains, unsealed, at, ""])

    def archived(self, archive: str, chain: str, first: int, last: int) -> str:
        return self._code(["archived", archive, chain, first, last, ""])

    def is_head(self, head: Any) -> bool:
        """A row of `ledger_heads`; the others likewise of their tables."""
        return _plain(head.chain) and _same(self.head(head.chain, head.number, head.position), head.mac)

    def is_state(self, state: Any) -> bool:
        return _same(self.state(state.chains, state.unsealed, state.at), state.mac)

    def is_archived(self, left: Any) -> bool:
        return _plain(left.archive, left.chain) and _same(self.archived(left.archive, left.chain, left.first, left.last), left.mac)

    def _code(self, values: list[Any]) -> str:
        return hmac.digest(self._key, _encode(values), "sha256")[:16].hex()


def _plain(*values: object) -> bool:
    """Whether these are of the types that the service writes. Bytes, which SQLite takes in any column, are encoded like the text that is their base64."""
    return _TYPES.issuperset(map(type, values))


def _same(left: str, right: object) -> bool:
    return isinstance(right, str) and hmac.compare_digest(left.encode(), right.encode("utf-8", "replace"))


class LedgerChain:
    """Where a writer's next row goes. One transaction at a time writes with it."""

    __slots__ = ("id", "key", "number", "position")

    def __init__(self, key: SealKey) -> None:
        self.key = key
        self.id = fresh_id()
        self.number = 0
        """0 until its first row."""
        self.position = 0
        """Of its last row."""

    def following(self) -> LedgerChain:
        """The same, for a transaction: put in its place once that is committed."""
        copied = LedgerChain.__new__(LedgerChain)
        copied.key, copied.id, copied.number, copied.position = self.key, self.id, self.number, self.position
        return copied

    def write(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Seal rows of the ledger, in place, and insert them. With the first of them the chain is opened."""
        for row in rows:
            self._seal(row)
        if not self.number:
            self._open(connection)
        INSERT_LEDGER.run(connection, rows)

    def _seal(self, row: dict[str, Any]) -> None:
        values = list(_SEALED_OF(row))
        for place in _REAL:  # a whole number comes back as a real one
            values[place] = float(values[place])
        position = self.position + 1
        row["seal"] = self.key.row(self.id, position, values)
        row["chain"], row["position"] = self.id, position
        self.position = position

    def _open(self, connection: Connection) -> None:
        """Number the chain, after the locks of counters and before those of sums by day; what does not verify is not mended."""
        begin_sealing(connection, self.key)
        state = connection.execute(select(ledger_seals)).one()
        newest = connection.execute(select(func.max(ledger_heads.c.number))).scalar() or 0
        self.number = max(state.chains, newest) + 1
        mac = self.key.state(self.number, state.unsealed, state.at) if self.key.is_state(state) else state.mac
        connection.execute(update(ledger_seals).values(chains=self.number, mac=mac))
        head = {"chain": self.id, "number": self.number, "position": self.position}
        connection.execute(insert(ledger_heads), {**head, "mac": self.key.head(self.id, self.number, self.position)})

    def write_head(self, connection: Connection) -> None:
        """Sign how far the chain goes; its rows up to there are committed, or are in this transaction."""
        if self.number:
            code = self.key.head(self.id, self.number, self.position)
            _UPDATE_HEAD.run(connection, {"of": self.id, "reached": self.position, "code": code})


def begin_sealing(connection: Connection, key: SealKey) -> bool:
    """Count and sign the rows that are not sealed, unless that was done before. From here to the transaction's end no other opens a chain.

    Returns whether what is signed verifies. Where rows were sealed and the signed row is gone, one is put there that never does; else the audit log
    has an entry with the same numbers, in the same transaction, whoever was first: neither can be taken away without the other telling.
    """
    exclusively(connection, SEAL_LOCK)
    state = connection.execute(select(ledger_seals)).first()
    if state is None:
        unsealed, at = connection.execute(select(func.count()).where(ledger.c.position == 0).select_from(ledger)).scalar_one(), time.time()
        removed = connection.execute(select(ledger_heads.c.chain).limit(1)).first() or recorded_sealing(connection)
        mac = "" if removed else key.state(0, unsealed, at)
        if not removed:  # before the row: an empty log beside one is a log that was emptied
            key.audit.append(connection, Entry(SYSTEM, SEALING, Subject("ledger", "", "", {"unsealed": unsealed, "since": at})))
        connection.execute(insert(ledger_seals), {"id": 1, "chains": 0, "unsealed": unsealed, "at": at, "mac": mac})
        return not removed
    return key.is_state(state)


def recorded_sealing(connection: Connection) -> bool:
    """Whether the audit log says that rows are sealed."""
    return connection.execute(select(audit_log.c.seq).where(audit_log.c.action == SEALING).limit(1)).first() is not None


class Positions:
    """Positions of chains, as a byte for each: of a row that verifies, so none is far beyond what was written."""

    def __init__(self) -> None:
        self._marks: dict[str, bytearray] = {}

    def add(self, chain: str, position: int) -> bool:
        """False where it was there before."""
        return self.add_range(chain, position, position) == 1

    def add_range(self, chain: str, first: int, last: int) -> int:
        """Returns how many of them are new."""
        marks = self._marks.setdefault(chain, bytearray())
        if last > len(marks):
            marks.extend(bytes(last - len(marks)))
        new = marks.count(0, first - 1, last)
        marks[first - 1 : last] = b"\1" * (last - first + 1)
        return new

    def has(self, chain: str, position: int) -> bool:
        marks = self._marks.get(chain, b"")
        return 0 < position <= len(marks) and marks[position - 1] == 1

    def chains(self) -> Iterable[str]:
        return self._marks

    def last(self, chain: str) -> int:
        return len(self._marks.get(chain, b""))

    def runs(self, chain: str) -> list[tuple[int, int]]:
        """First and last of each unbroken run of positions that are there."""
        return self._runs(chain, b"\1", b"\0")

    def gaps(self, chain: str) -> list[tuple[int, int]]:
        """First and last of each run of positions that are not, up to the last that is."""
        return self._runs(chain, b"\0", b"\1")

    def _runs(self, chain: str, wanted: bytes, other: bytes) -> list[tuple[int, int]]:
        marks, found, at = self._marks.get(chain, b""), [], 0
        while (start := marks.find(wanted, at)) >= 0:
            end = marks.find(other, start)
            at = len(marks) if end < 0 else end
            found.append((start + 1, at))
        return found


def sign_archived(connection: Connection, key: SealKey, archive: str, left: Positions, unsealed: int) -> None:
    """Say which positions leave the ledger with an archive, in the transaction that removes the rows."""
    ranges = [(chain, first, last) for chain in left.chains() for first, last in left.runs(chain)]
    if unsealed:
        ranges.append(("", 1, unsealed))
    made = [
        {"archive": archive, "chain": chain, "first": first, "last": last, "mac": key.archived(archive, chain, first, last)} for chain, first, last in ranges
    ]
    if made:
        connection.execute(insert(ledger_archived), made)
