"""Stored responses: what a tenant's answers were, and what the next turn needs of them.

A response is kept with the messages of its own turn and the id of the one before it; the history of a turn is the chain of those. A response
expires `keep_s` after it was made or last built upon: whoever goes on with a long chain keeps all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import CTE, ColumnElement, Connection, delete, insert, literal, select, update

from adapters.backend import DataClass, may_see
from adapters.types import JsonObject, Message
from config.database import Database
from policies.features import highest
from retrieval.values import NotFound, PageRequest
from router.kept.keeping import LARGEST, Budget, TooLarge, opened, opened_page, packed, page, require_id, stored_bytes, up_to
from router.kept.sealing import Sealer
from router.kept.tables import kept_responses

SWEPT_AT_ONCE = 1_000

ROUNDED_S = 3_600.0
"""A chain's expiry is not written anew for less than this."""

KIND = "response"


class Turn(Struct, frozen=True):
    """One exchange. `input` and `output` are its own messages, opaque parts included; `items` is the input and `response` the answer as the client has it."""

    input: tuple[Message, ...]
    output: tuple[Message, ...]
    items: tuple[JsonObject, ...]
    response: JsonObject


class History(Struct, frozen=True):
    """What came before a turn, and the highest data class that it had."""

    messages: tuple[Message, ...]
    data_class: DataClass


class InConversation(Exception):
    """The response belongs to a conversation: its history is there."""

    def __init__(self, conversation: str) -> None:
        super().__init__(conversation)
        self.conversation = conversation


class Turns:
    """The stored responses of one database. `NotFound` is raised alike for what is missing, expired another tenant's, and more sensitive than
    `most`, the data class up to which the caller may see.
    """

    def __init__(self, database: Database, sealer: Sealer, keep_s: float, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._sealer = sealer
        self._keep_s = keep_s
        self._clock = clock

    async def keep(self, tenant: str, id: str, turn: Turn, *, previous: str | None, conversation: str | None, data_class: DataClass, user: str = "") -> None:
        """Keep a response, and those it builds upon for as long. Raises `TooLarge`."""
        now = self._clock()
        row = {
            "id": id,
            "tenant": tenant,
            "user_id": user or None,
            "previous_id": previous,
            "conversation": conversation,
            "data_class": data_class,
            "content": packed(self._sealer.of(tenant), turn, id, LARGEST),
            "created_at": now,
            "expires_at": now + self._keep_s,
        }

        def work(connection: Connection) -> None:
            connection.execute(insert(kept_responses), row)
            if previous is not None:
                chain = _chain(tenant, previous, now)
                soon = kept_responses.c.expires_at < now + self._keep_s - ROUNDED_S
                connection.execute(update(kept_responses).where(kept_responses.c.id.in_(select(chain.c.id)), soon).values(expires_at=now + self._keep_s))

        await self._database.write(work)

    async def get(self, tenant: str, id: str, most: DataClass = "restricted") -> Turn:
        """Raises `NotFound`."""
        return (await self.with_class(tenant, id, most))[0]

    async def with_class(self, tenant: str, id: str, most: DataClass = "restricted") -> tuple[Turn, DataClass]:
        """A turn and its data class. Raises `NotFound`."""
        query = select(kept_responses.c.content, kept_responses.c.data_class).where(*self._alive(tenant, most), kept_responses.c.id == require_id(KIND, id))
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound("response", id)
        return self._opened(tenant, id, row.content), row.data_class

    async def history(self, tenant: str, id: str, most: DataClass = "restricted") -> History:
        """Everything that was said up to this response. Raises `NotFound`, also for an earlier one of the chain, `InConversation`, and `TooLarge`."""
        chain = _chain(tenant, require_id(KIND, id), self._clock())
        table = kept_responses.c
        columns = (table.id, table.previous_id, table.conversation, table.data_class, table.content)
        query = select(*columns).join(chain, table.id == chain.c.id).order_by(chain.c.depth.desc())
        asked = select(stored_bytes(kept_responses)).join(chain, table.id == chain.c.id)
        classes = select(table.data_class).distinct().join(chain, table.id == chain.c.id)

        def work(connection: Connection) -> Sequence[Any]:
            found = connection.execute(classes).scalars().all()
            # First of all: to a key that may not see it, a chain is missing however long it is.
            if not found or not may_see(most, highest(*found)):
                raise NotFound("response", id)
            if connection.execute(asked).scalar_one() > LARGEST:
                raise TooLarge
            return connection.execute(query).all()

        rows = await self._database.read(work)
        if not rows:
            raise NotFound("response", id)
        data_class = highest(*(row.data_class for row in rows))
        if rows[0].previous_id is not None:
            raise NotFound(KIND, rows[0].previous_id)
        if (conversation := next((row.conversation for row in rows if row.conversation), None)) is not None:
            raise InConversation(conversation)
        budget = Budget()
        turns = [self._opened(tenant, row.id, row.content, budget) for row in rows]
        messages = tuple(message for turn in turns for message in (*turn.input, *turn.output))
        return History(messages, data_class)

    async def listed(self, tenant: str, wanted: PageRequest, most: DataClass = "restricted") -> tuple[tuple[JsonObject, ...], bool]:
        """The responses of one page, and whether there are more. Raises `NotFound` for the cursor."""
        query = select(kept_responses.c.id, kept_responses.c.content).where(*self._alive(tenant, most))
        rows, more = await self._database.read(lambda connection: page(connection, query, kept_responses, ("created_at", "id"), wanted, KIND))
        return opened_page(rows, more, wanted, lambda row, budget: self._opened(tenant, row.id, row.content, budget).response)

    async def delete(self, tenant: str, id: str, most: DataClass = "restricted") -> None:
        """Raises `NotFound`. Turns that build upon it cannot be gone on with afterwards."""
        statement = delete(kept_responses).where(*self._alive(tenant, most), kept_responses.c.id == require_id(KIND, id))
        if not await self._database.write(lambda connection: connection.execute(statement).rowcount):
            raise NotFound("response", id)

    async def sweep(self) -> None:
        """Delete some of what has expired."""
        expired = select(kept_responses.c.id).where(kept_responses.c.expires_at <= self._clock()).limit(SWEPT_AT_ONCE)
        await self._database.write(lambda connection: connection.execute(delete(kept_responses).where(kept_responses.c.id.in_(expired))))

    def _alive(self, tenant: str, most: DataClass) -> tuple[ColumnElement[bool], ...]:
        return kept_responses.c.tenant == tenant, kept_responses.c.expires_at > self._clock(), *up_to(kept_responses.c.data_class, most)

    def _opened(self, tenant: str, id: str, content: bytes, budget: Budget | None = None) -> Turn:
        turn = opened(self._sealer.of(tenant), content, id, Turn, budget)
        if turn is None:
            raise NotFound("response", id)
        return turn


def _chain(tenant: str, id: str, now: float) -> CTE:
    """The ids of a response and of all those before it; `depth` counts from 0, the newest."""
    table = kept_responses.c
    alive = (table.tenant == tenant, table.expires_at > now)
    newest = select(table.id, table.previous_id, literal(0).label("depth")).where(table.id == id, *alive).cte("chain", recursive=True)
    before = select(table.id, table.previous_id, newest.c.depth + 1).join(newest, table.id == newest.c.previous_id).where(*alive)
    return newest.union_all(before)
