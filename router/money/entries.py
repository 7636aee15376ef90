"""Bookings of one worker on their way to the database: those that wait together are booked together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from config.database import Database
from router.money.batch import CountersMissing, Entry, Outcome, book, make_counters
from router.money.books import BudgetExceeded
from router.money.insisting import may_pass
from router.money.sealing import LedgerChain, SealKey
from router.money.settlement import Counter

MOST_AT_ONCE = 256
"""Entries in a transaction."""


class Entries:
    """While one transaction runs, what comes gathers for the next: a quiet worker books at once, a busy one pays a fraction of a transaction."""

    def __init__(self, database: Database, worker: str, seals: SealKey) -> None:
        self._database = database
        self._worker = worker
        self._chain = LedgerChain(seals)
        self._ended: list[LedgerChain] = []
        """Chains that are not written on, whose heads are behind."""
        self._head: tuple[str, int] = ("", 0)
        """The chain and the position of the head that was written last."""
        self._waiting: list[tuple[Entry, asyncio.Future[Outcome]]] = []
        self._booking: asyncio.Task[None] | None = None

    async def book(self, entry: Entry) -> Outcome:
        """Returns once the entry is committed. Raises `BudgetExceeded`, or what the database raises: then whether it was booked is not known.

        A cancelled wait does not undo it.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, future))
        if self._booking is None:
            self._booking = asyncio.create_task(self._book())
        return await future

    async def _book(self) -> None:
        try:
            while self._waiting:
                now, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
                await self._together(now)
        finally:
            self._booking = None

    async def _together(self, waiting: Sequence[tuple[Entry, asyncio.Future[Outcome]]]) -> None:
        try:
            outcomes = await self._write([entry for entry, _ in waiting])
        except Exception as error:
            if len(waiting) == 1 or not isinstance(error, SQLAlchemyError | ValueError | OverflowError) or may_pass(error):
                for _, future in waiting:
                    if not future.done():
                        future.set_exception(error)
                return
            for each in waiting:  # one of them holds what the database does not take: the others are booked all the same
                await self._together([each])
            return
        for (_, future), outcome in zip(waiting, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, BudgetExceeded):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _write(self, entries: Sequence[Entry]) -> list[Outcome]:
        while True:
            chain = self._chain.following()
            try:
                outcomes = await self._database.write(lambda connection: book(connection, self._worker, entries, chain))  # noqa: B023 - awaited here
            except CountersMissing as error:  # of a new day, a new tenant, a new cap
                await self._make(error.counters)
            except BaseException:  # whether the positions are taken is not known
                self._ended.append(self._chain)
                self._chain = LedgerChain(chain.key)
                raise
            else:
                self._chain = chain
                return outcomes

    async def write_head(self) -> None:
        """Sign how far this worker's rows go, where that is not done: from then on it shows when the last of them are removed."""
        ended, now = [each for each in self._ended if each.number], self._chain
        if not ended and (not now.number or self._head == (now.id, now.position)):
            return

        def work(connection: Connection) -> None:
            for each in (*ended, now):
                each.write_head(connection)

        await self._database.write(work)
        self._ended = [each for each in self._ended if each.number and each not in ended]
        self._head = (now.id, now.position)

    async def _make(self, counters: Sequence[Counter]) -> None:
        await self._database.write(lambda connection: make_counters(connection, counters))
