"""Stored conversations: items in the order in which they were added, by the client or by an answer.

An item is kept as the client sees it. The items of one answer also carry the answer's message with its opaque parts, and as long as all of
them are there that message is what the next turn gets; where one was deleted, the others stand for themselves.
A conversation expires `keep_s` after it was last used.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from adapters.backend import DataClass
from adapters.types import JsonObject, Message
from config.database import Database
from policies.features import highest
from retrieval.values import NotFound, PageRequest
from router.kept.keeping import Budget, TooLarge, opened, opened_page, packed, page, require_id, stored_bytes, up_to
from router.kept.sealing import Sealer
from router.kept.tables import conversation_items, conversations

SWEPT_AT_ONCE = 100

LARGEST_ITEM = 16 * 2**20
"""Bytes of one item as JSON: every later turn carries it again."""

FULL = 64 * 2**20
"""Bytes, as stored, from which on a conversation takes nothing more."""

KIND, ITEM = "conversation", "item in this conversation"


class Conversation(Struct, frozen=True):
    id: str
    metadata: dict[str, str]
    data_class: DataClass
    created_at: float


class Full(Exception):
    """The conversation holds, or would hold, more than it may."""


class Answer(Struct, frozen=True):
    """The message that `size` items, of which this one is the first, stand for."""

    message: Message
    size: int


class Item(Struct, frozen=True):
    """An item as the client sees it, with its id. `answer` stands on the first item of an answer, `turn` on all of them."""

    item: JsonObject
    turn: str | None = None
    answer: Answer | None = None


def answer_items(turn: str, items: Sequence[JsonObject], message: Message) -> tuple[Item, ...]:
    """The items of one answer."""
    return tuple(Item(item, turn, Answer(message, len(items)) if index == 0 else None) for index, item in enumerate(items))


class Conversations:
    """The conversations of one database. `NotFound` is raised alike for what is missing, expired another tenant's, and more sensitive than
    `most`, the data class up to which the caller may see.
    """

    def __init__(self, database: Database, sealer: Sealer, keep_s: float, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._sealer = sealer
        self._keep_s = keep_s
        self._clock = clock

    async def create(self, tenant: str, metadata: dict[str, str], items: Sequence[Item], data_class: DataClass, user: str = "") -> Conversation:
        """Raises `Full` where the items do not fit."""
        now = self._clock()
        made = Conversation("conv_" + uuid.uuid4().hex, metadata, data_class, now)
        row = {
            "id": made.id,
            "tenant": tenant,
            "user_id": user or None,
            "metadata": msgspec.json.encode(metadata).decode(),
            "data_class": data_class,
            "last_position": 0,
            "created_at": now,
            "expires_at": now + self._keep_s,
        }

        def work(connection: Connection) -> None:
            connection.execute(insert(conversations), row)
            self._append(connection, tenant, made.id, items, data_class)

        await self._database.write(work)
        return made

    async def get(self, tenant: str, id: str, most: DataClass = "restricted") -> Conversation:
        """Raises `NotFound`."""
        query = select(conversations).where(*self._one(tenant, id, most))
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound("conversation", id)
        return _shown(row)

    async def listed(self, tenant: str, wanted: PageRequest, most: DataClass = "restricted") -> tuple[tuple[Conversation, ...], bool]:
        """Raises `NotFound` for the cursor."""
        query = select(conversations).where(*self._alive(tenant, most))
        rows, more = await self._database.read(lambda connection: page(connection, query, conversations, ("created_at", "id"), wanted, KIND))
        return tuple(_shown(row) for row in rows), more

    async def update(self, tenant: str, id: str, metadata: dict[str, str], most: DataClass = "restricted") -> Conversation:
        """Raises `NotFound`."""
        values = {"metadata": msgspec.json.encode(metadata).decode()}
        statement = update(conversations).where(*self._one(tenant, id, most)).values(values).returning(conversations)
        row = await self._database.write(lambda connection: connection.execute(statement).one_or_none())
        if row is None:
            raise NotFound("conversation", id)
        return _shown(row)

    async def delete(self, tenant: str, id: str, most: DataClass = "restricted") -> None:
        """The conversation and its items. Raises `NotFound`."""
        statement = delete(conversations).where(*self._one(tenant, id, most))
        if not await self._database.write(lambda connection: connection.execute(statement).rowcount):
            raise NotFound("conversation", id)

    async def append(
        self, tenant: str, id: str, items: Sequence[Item], data_class: DataClass, most: DataClass = "restricted", *, paid: bool = False
    ) -> list[Item]:
        """Add items at the end; returns them as they are kept, ids included. Raises `NotFound`, and `Full` where they do not fit.

        `paid` are those of a turn: they are added all the same, and it is the next turn that does not fit.
        """
        return await self._database.write(lambda connection: self._append(connection, tenant, id, items, data_class, most, paid=paid))

    def _append(
        self,
        connection: Connection,
        tenant: str,
        id: str,
        added: Sequence[Item],
        data_class: DataClass,
        most: DataClass = "restricted",
        *,
        paid: bool = False,
    ) -> list[Item]:
        now = self._clock()
        # Counted up first: the row is locked from here on, and two that add at the same time stand one behind the other.
        counted = (
            update(conversations)
            .where(*self._one(tenant, id, most))
            .values(last_position=conversations.c.last_position + len(added), expires_at=now + self._keep_s)
            .returning(conversations.c.last_position, conversations.c.data_class)
        )
        row = connection.execute(counted).one_or_none()
        if row is None:
            raise NotFound("conversation", id)
        raised = highest(row.data_class, data_class)
        if raised != row.data_class:
            connection.execute(update(conversations).where(conversations.c.id == id).values(data_class=raised))
        seal = self._sealer.of(tenant)
        items = _distinct(connection, id, added)
        first = row.last_position - len(added) + 1
        rows = [
            {
                "conversation": id,
                "position": first + index,
                "id": item.item["id"],
                "tenant": tenant,
                "content": packed(seal, item, f"{id}/{item.item['id']}"),
                "created_at": now,
            }
            for index, item in enumerate(items)
        ]
        if rows:
            connection.execute(insert(conversation_items), rows)
        if not paid and self._stored(connection, id) > FULL:
            raise Full
        return items

    async def items(self, tenant: str, id: str, most: DataClass = "restricted") -> tuple[DataClass, tuple[Item, ...]]:
        """All items, from the first, and the highest data class that they had. Raises `NotFound`, and `Full` where they are more than a turn may carry."""
        own = select(conversations).where(*self._one(tenant, id, most))
        query = select(conversation_items).where(conversation_items.c.conversation == id).order_by(conversation_items.c.position)

        def work(connection: Connection) -> tuple[DataClass, Sequence[Any]]:
            row = connection.execute(own).one_or_none()
            if row is None:
                raise NotFound("conversation", id)
            if self._stored(connection, id) > FULL:
                raise Full
            return row.data_class, connection.execute(query).all()

        data_class, rows = await self._database.read(work)
        budget = Budget()
        try:
            return data_class, tuple(self._opened(tenant, each, budget) for each in rows)
        except TooLarge as error:
            raise Full from error

    async def page(self, tenant: str, id: str, wanted: PageRequest, most: DataClass = "restricted") -> tuple[tuple[Item, ...], bool]:
        """Raises `NotFound` for the conversation and for the cursor."""
        await self.get(tenant, id, most)
        query = select(conversation_items).where(conversation_items.c.conversation == id)
        rows, more = await self._database.read(lambda connection: page(connection, query, conversation_items, ("position", "id"), wanted, ITEM))
        return opened_page(rows, more, wanted, lambda row, budget: self._opened(tenant, row, budget))

    async def item(self, tenant: str, id: str, item_id: str, most: DataClass = "restricted") -> Item:
        """Raises `NotFound` for the conversation and for the item."""
        await self.get(tenant, id, most)
        query = select(conversation_items).where(conversation_items.c.conversation == id, conversation_items.c.id == require_id(ITEM, item_id))
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise NotFound("item in this conversation", item_id)
        return self._opened(tenant, row)

    async def delete_item(self, tenant: str, id: str, item_id: str, most: DataClass = "restricted") -> Conversation:
        """Raises `NotFound` for the conversation and for the item."""
        conversation = await self.get(tenant, id, most)
        statement = delete(conversation_items).where(conversation_items.c.conversation == id, conversation_items.c.id == require_id(ITEM, item_id))
        if not await self._database.write(lambda connection: connection.execute(statement).rowcount):
            raise NotFound("item in this conversation", item_id)
        return conversation

    async def sweep(self) -> None:
        """Delete some of what has expired; the items go with their conversation."""
        expired = select(conversations.c.id).where(conversations.c.expires_at <= self._clock()).limit(SWEPT_AT_ONCE)
        await self._database.write(lambda connection: connection.execute(delete(conversations).where(conversations.c.id.in_(expired))))

    def _alive(self, tenant: str, most: DataClass) -> tuple[ColumnElement[bool], ...]:
        return conversations.c.tenant == tenant, conversations.c.expires_at > self._clock(), *up_to(conversations.c.data_class, most)

    def _one(self, tenant: str, id: str, most: DataClass = "restricted") -> tuple[ColumnElement[bool], ...]:
        return *self._alive(tenant, most), conversations.c.id == require_id(KIND, id)

    def _stored(self, connection: Connection, id: str) -> int:
        return connection.execute(select(stored_bytes(conversation_items)).where(conversation_items.c.conversation == id)).scalar_one()

    def _opened(self, tenant: str, row: Any, budget: Budget | None = None) -> Item:
        item = opened(self._sealer.of(tenant), row.content, f"{row.conversation}/{row.id}", Item, budget)
        if item is None:
            raise NotFound("item in this conversation", row.id)
        return item


def item_id(item: JsonObject) -> str:
    """A new id for an item, by what it is. Every id made here has `_hg_` in it: no provider knows it."""
    start = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}.get(item.get("type", "message"), "item")
    return f"{start}_hg_{uuid.uuid4().hex}"


def _distinct(connection: Connection, conversation: str, items: Sequence[Item]) -> list[Item]:
    """The items with ids that the conversation does not have yet: one that a client adds again gets another id."""
    ids = [item.item["id"] for item in items]
    own = conversation_items.c.conversation == conversation
    taken = set(connection.execute(select(conversation_items.c.id).where(own, conversation_items.c.id.in_(ids))).scalars()) if ids else set()
    distinct: list[Item] = []
    for item in items:
        if item.item["id"] in taken:
            item = msgspec.structs.replace(item, item={**item.item, "id": item_id(item.item)})
        taken.add(item.item["id"])
        distinct.append(item)
    return distinct


def _shown(row: Any) -> Conversation:
    return Conversation(row.id, msgspec.json.decode(row.metadata, type=dict[str, str]), row.data_class, row.created_at)


def messages_of(items: Sequence[Item], decode: Callable[[Sequence[JsonObject]], tuple[Message, ...]]) -> tuple[Message, ...]:
    """The conversation so far. `decode` makes messages of items that stand for themselves; neighbours are decoded together."""
    sizes: dict[str, int] = {}
    for item in items:
        if item.turn is not None:
            sizes[item.turn] = sizes.get(item.turn, 0) + 1
    whole = {item.turn for item in items if item.answer is not None and item.turn is not None and sizes[item.turn] == item.answer.size}
    messages: list[Message] = []
    plain: list[JsonObject] = []
    for item in items:
        if item.turn not in whole:
            plain.append(item.item)
        elif item.answer is not None:
            messages += decode(plain) if plain else ()
            messages.append(item.answer.message)
            plain = []
    return (*messages, *(decode(plain) if plain else ()))
