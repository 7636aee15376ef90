"""A chain of rows: each row's hash covers its columns and the hash of the row before it. Pure: rows in, problems out.

The hash is HMAC-SHA256 under a key that only the service's secret gives, so whoever can write to the database but does not have the secret can
make no row that verifies. Every value is encoded with its type and its length: no two different rows have the same encoding.

What a chain shows of itself, with its head (the last position and hash, under a code of their own): any row that was changed, removed, added or moved,
the last ones included. Only a database that was put back whole to an earlier moment still verifies; against that, keep a head elsewhere and give it
to `verify` as the anchor.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, TypeAlias

from msgspec import Struct

Value: TypeAlias = str | int | float | bytes | bool | None
Row: TypeAlias = Mapping[str, Value]

GENESIS = "0" * 64
"""The hash before the first row."""

MOST_PROBLEMS = 100
"""Problems of one chain that are listed one by one; the others are counted."""

ProblemKind: TypeAlias = Literal["changed", "missing", "unlinked", "extra", "head", "checkpoint", "anchor", "discontinued"]


class Layout(Struct, frozen=True):
    """Which columns a table's hash covers, in their order (names are covered too), and which hold the chain. `previous` None: it is not stored."""

    label: str
    columns: tuple[str, ...]
    chain: str = "chain"
    position: str = "seq"
    hash: str = "hash"
    previous: str | None = "prev_hash"


class Head(Struct, frozen=True):
    """Where a chain ends: its last row's position and hash; position 0 before the first row."""

    position: int
    hash: str

    def __str__(self) -> str:
        return f"{self.position}:{self.hash}"


START = Head(0, GENESIS)


class Problem(Struct, frozen=True):
    """What does not verify. `position` is the row's; `column` where one column explains it; `expected` what should be there, where that is known."""

    chain: str
    kind: ProblemKind
    position: int
    message: str
    column: str | None = None
    expected: str | None = None


class Verdict(Struct, frozen=True):
    """Of one chain. `first` to `last` are the positions that were read; `found` counts every problem, `problems` lists the first of them."""

    chain: str
    rows: int
    head: Head
    problems: tuple[Problem, ...]
    found: int

    @property
    def ok(self) -> bool:
        return self.found == 0


def parse_head(text: str) -> Head:
    """`POSITION:HASH`, as `str` writes it. Raises `ValueError`."""
    position, _, digest = text.partition(":")
    if not position.isascii() or not position.isdigit() or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError(f"{text[:100]!r} is no head: it is written POSITION:HASH, as headgate audit head prints it")
    return Head(int(position), digest)


class ChainKey:
    """Makes and checks the codes of chains. Every process with the same secret makes the same."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"headgate audit chain v1", "sha256")

    def row(self, layout: Layout, row: Row, previous: str) -> str:
        """The hash of a row that follows one of hash `previous`; of the row's own columns only those of the layout count."""
        names = row[layout.chain], row[layout.position]
        values = b"".join([encoded(value) for value in (*names, *[row[column] for column in layout.columns], previous)])
        return hmac.digest(self._key, _described(layout) + values, "sha256").hex()

    def head(self, chain: str, head: Head) -> str:
        return self._code(["head", chain, head.position, head.hash])

    def checkpoint(self, chain: str, head: Head, until: float | None) -> str:
        """`until`: the rows that ended before that time may go, in a table that is pruned by time."""
        return self._code(["checkpoint", chain, head.position, head.hash, until])

    def _code(self, values: Iterable[Value]) -> str:
        return hmac.digest(self._key, b"".join(map(encoded, values)), "sha256").hex()


@cache
def _described(layout: Layout) -> bytes:
    """What a layout's rows are of: it stands before their values."""
    values: tuple[Value, ...] = (layout.label, len(layout.columns), *layout.columns)
    return b"".join([encoded(value) for value in values])


def encoded(value: Value) -> bytes:
    """A value with its type and length."""
    if isinstance(value, str):  # one by one, the most frequent first: a chain is as long as it is old
        data = value.encode("utf-8", "surrogatepass")
        return b"s%d:%b" % (len(data), data)
    if value is None:
        return b"n"
    if isinstance(value, float):
        return b"f" + struct.pack(">d", value)
    if isinstance(value, int):
        text = b"%d" % value
        return b"i%d:%b" % (len(text), text)
    return b"b%d:%b" % (len(value), value)


def same(left: str, right: object) -> bool:
    """Whether two codes are equal; what a database gives back may be anything."""
    return isinstance(right, str) and hmac.compare_digest(left.encode(), right.encode("utf-8", "replace"))


class Verifier:
    """Reads one chain's rows in the order of their positions, and says where they do not follow from each other."""

    def __init__(self, key: ChainKey, layout: Layout, chain: str, start: Head = START, anchor: Head | None = None) -> None:
        """`start` is the last row that was removed under a checkpoint; `anchor` a head that was kept elsewhere."""
        self._key, self._layout, self._chain = key, layout, chain
        self._before = start
        self._anchor = anchor
        self._met = anchor is None or (anchor == start)
        self._rows = 0
        self._found = 0
        self._problems: list[Problem] = []

    @property
    def nothing(self) -> bool:
        """Whether there is no row, and none was removed under a checkpoint."""
        return self._rows == 0 and self._before == START

    def note(self, kind: ProblemKind, position: int, message: str, column: str | None = None, expected: str | None = None) -> None:
        self._found += 1
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(Problem(self._chain, kind, position, message, column, expected))

    def read(self, row: Row) -> None:
        """The next row."""
        layout = self._layout
        position, stored = row[layout.position], row[layout.hash]
        self._rows += 1
        if not isinstance(position, int) or position < 1:
            self.note("extra", 0, f"a row has the position {position!r}, which no row of the service's has", layout.position)
            return
        expected = self._before.position + 1
        if position < expected:
            self.note("extra", position, "this position is taken by another row, or its rows were removed under a checkpoint")
            return
        if position > expected:
            gone = f"row {expected} is" if position == expected + 1 else f"rows {expected} to {position - 1} are"
            self.note("missing", expected, f"{gone} missing")
        follows = position == expected
        previous = row[layout.previous] if layout.previous is not None else self._before.hash
        before = previous if isinstance(previous, str) else ""
        whole = same(self._key.row(layout, row, before), stored)
        if not whole:
            self._changed(row, position, before if not follows else self._before.hash)
        elif follows and not same(self._before.hash, before):
            self.note("unlinked", position, "does not follow the row before it, which was changed, replaced or moved", layout.previous, self._before.hash)
        if self._anchor is not None and position == self._anchor.position:
            self._met = True
            if not same(self._anchor.hash, stored):
                self.note(
                    "anchor", position, "is not the row of the head that was kept elsewhere: the history was written anew", layout.hash, self._anchor.hash
                )
        self._before = Head(position, stored if isinstance(stored, str) else "")

    def _changed(self, row: Row, position: int, before: str) -> None:
        """Say which column it was, where one alone explains it."""
        layout = self._layout
        if layout.previous is not None and same(self._key.row(layout, row, before), row[layout.hash]):
            self.note("changed", position, f"the column {layout.previous} was changed", layout.previous, before)
            return
        self.note(
            "changed", position, "was changed, or put here from elsewhere: its hash is not that of its columns", layout.hash, self._key.row(layout, row, before)
        )

    def end(self, head: Head | None, code: object) -> Verdict:
        """After the last row: the chain's head as it is stored, with its code."""
        last = self._before
        if head is None:
            if last.position:
                self.note("head", last.position, "the head is missing: rows after this one may have been removed with it")
        elif not same(self._key.head(self._chain, head), code):
            self.note("head", head.position, "the head was changed: rows at the end may have been removed or added")
        elif head.position > last.position:
            first = last.position + 1
            gone = f"row {first} is" if head.position == first else f"rows {first} to {head.position} are"
            self.note("missing", first, f"{gone} missing at the end", None, head.hash if head.position == first else None)
        elif head.position < last.position:
            self.note("extra", head.position + 1, "this row and those after it were added past the head")
        elif head.hash != last.hash:
            self.note("changed", last.position, "is not the row that the head names", self._layout.hash, head.hash)
        if not self._met and self._anchor is not None:
            self.note("anchor", self._anchor.position, "the head that was kept elsewhere is not in this chain: rows were removed, or the database was put back")
        return Verdict(self._chain, self._rows, last, tuple(self._problems), self._found)


def verify(
    key: ChainKey,
    layout: Layout,
    chain: str,
    rows: Iterable[Row],
    head: Head | None,
    code: object,
    *,
    start: Head = START,
    anchor: Head | None = None,
) -> Verdict:
    """All of a chain, its rows in the order of their positions."""
    verifier = Verifier(key, layout, chain, start, anchor)
    for row in rows:
        verifier.read(row)
    return verifier.end(head, code)


def linked(key: ChainKey, layout: Layout, rows: Sequence[Row], after: Head) -> tuple[list[dict[str, Value]], Head]:
    """Rows with their positions and hashes, as they follow `after`, and the head after them."""
    made: list[dict[str, Value]] = []
    for row in rows:
        full: dict[str, Value] = {**row, layout.position: after.position + 1}
        full[layout.hash] = key.row(layout, full, after.hash)
        if layout.previous is not None:
            full[layout.previous] = after.hash
        after = Head(after.position + 1, str(full[layout.hash]))
        made.append(full)
    return made, after
