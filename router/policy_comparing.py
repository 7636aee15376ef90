"""Comparing two policies over the decision log, without holding up anybody: pages are read one after the other and decided in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from sqlalchemy import Connection

from config.database import Database
from policies.diffing import Differ, PolicyDiff, text_diff
from policies.load import Policy
from policies.record import Record
from router.audit.replaying import Chosen, Place, beginning, count, page, read
from router.policy_checks import capabilities_of

PAGE = 250


async def compare(
    database: Database,
    old: Policy,
    new: Policy,
    texts: tuple[str, str],
    chosen: Chosen,
    environ: Mapping[str, str],
    began: Callable[[int], None] | None = None,
    done: Callable[[int], None] | None = None,
) -> PolicyDiff:
    """What changes. `began` is told how many requests there are, `done` of every page how many it had."""
    differ = Differ(old, new, await capabilities_of(new, environ))
    if began is not None:
        began(await database.read(lambda connection: count(connection, chosen)))
    place = await database.read(lambda connection: beginning(connection, chosen))
    while True:
        rows, place = await database.read(lambda connection, place=place: _page(connection, chosen, place))  # type: ignore[misc]
        if place is None:
            break
        await asyncio.to_thread(_decide, differ, rows)
        if done is not None:
            done(len(rows))
    return differ.result(text_diff(*texts, old.source, new.source))


def _page(connection: Connection, chosen: Chosen, after: Place | None) -> tuple[list[Record], Place | None]:
    """The next records, and where the next page begins; None at the end."""
    rows = page(connection, chosen, after, PAGE)
    return (read(connection, rows), (rows[-1]["created_at"], rows[-1]["request_id"])) if rows else ([], None)


def _decide(differ: Differ, records: list[Record]) -> None:
    for record in records:
        differ.add(record)
