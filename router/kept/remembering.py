"""The opaque parts of an answer, for clients that do not send them back.

A provider's reasoning must come back to it with the calls it led to (a signature, a thought signature). In the chat dialect it travels as
`message.headgate.sealed`, and many clients drop a field they do not know. So an answer that holds tool calls and opaque parts is remembered
under its calls' ids, for its tenant, encrypted, until it expires; an assistant message that comes back with exactly those calls and without
opaque parts gets them again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from adapters.collect import CollectedChoice
from adapters.types import Message, ProviderPart, ToolCallPart
from config.database import Database
from router.kept.sealing import Sealer
from router.kept.tables import remembered_parts

log = structlog.get_logger("headgate.remembering")

LOOKED_UP = 500
"""Messages of one request, the latest, whose parts are looked for."""

SWEPT_AT_ONCE = 1_000


class Remembered(Struct, frozen=True):
    """The calls of one answer, as the client got them, and the opaque parts that belong to them."""

    calls: tuple[ToolCallPart, ...]
    parts: tuple[ProviderPart, ...]


class RememberedParts:
    """What one worker reads and writes of it. `keep_s` is how long an answer's parts are remembered; 0 is not at all."""

    def __init__(self, database: Database, sealer: Sealer, keep_s: float, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._sealer = sealer
        self._keep_s = keep_s
        self._clock = clock

    async def remember(self, tenant: str, choices: Iterable[CollectedChoice], user: str = "") -> None:
        """Remember what belongs to tool calls. A database that fails is logged: the answer stands without it."""
        rows = [self._row(tenant, user, choice) for choice in choices if self._keep_s > 0 and choice.tool_calls and choice.items]
        if not rows:
            return
        insert = (postgresql.insert if self._database.dialect == "postgresql" else sqlite.insert)(remembered_parts)
        again = {"user_id": insert.excluded.user_id, "content": insert.excluded.content, "expires_at": insert.excluded.expires_at}
        statement = insert.on_conflict_do_update(index_elements=["id"], set_=again)
        try:
            await self._database.write(lambda connection: connection.execute(statement, rows))
        except (SQLAlchemyError, OSError) as error:
            log.warning("parts_not_remembered", tenant=tenant, error=type(error).__name__)

    def _row(self, tenant: str, user: str, choice: CollectedChoice) -> dict[str, object]:
        parts = tuple(ProviderPart(item.provider, item.item) for item in choice.items)
        place = _place(tenant, choice.tool_calls[0].id)
        content = self._sealer.of(tenant).keep(msgspec.json.encode(Remembered(choice.tool_calls, parts)), place)
        return {"id": place, "tenant": tenant, "user_id": user or None, "content": content, "expires_at": self._clock() + self._keep_s}

    async def recall(self, tenant: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages with their opaque parts back. Reads the database only where a message has calls and no such parts."""
        bare = [message for message in messages if _calls(message) and not any(isinstance(part, ProviderPart) for part in message.parts)]
        if self._keep_s <= 0 or not bare:
            return messages
        places = {_place(tenant, call.id) for message in bare[-LOOKED_UP:] for call in _calls(message)[:1]}
        found = await self._read(tenant, sorted(places))
        return tuple(_restored(message, found.get(_place(tenant, calls[0].id)) if (calls := _calls(message)) else None) for message in messages)

    async def _read(self, tenant: str, places: list[str]) -> Mapping[str, Remembered]:
        columns = (remembered_parts.c.id, remembered_parts.c.content)
        query = select(*columns).where(remembered_parts.c.id.in_(bindparam("places", expanding=True)), remembered_parts.c.expires_at > self._clock())
        rows = await self._database.read(lambda connection: connection.execute(query, {"places": places}).all())
        seal = self._sealer.of(tenant)
        opened = {row.id: seal.kept(row.content, row.id) for row in rows}
        return {place: msgspec.json.decode(content, type=Remembered) for place, content in opened.items() if content is not None}

    async def sweep(self) -> None:
        """Delete some of what has expired."""
        expired = select(remembered_parts.c.id).where(remembered_parts.c.expires_at <= self._clock()).limit(SWEPT_AT_ONCE)
        await self._database.write(lambda connection: connection.execute(delete(remembered_parts).where(remembered_parts.c.id.in_(expired))))


def _place(tenant: str, call_id: str) -> str:
    return hashlib.sha256(f"{tenant}\0{call_id}".encode()).hexdigest()


def _calls(message: Message) -> tuple[ToolCallPart, ...]:
    return tuple(part for part in message.parts if isinstance(part, ToolCallPart)) if message.role == "assistant" else ()


def _restored(message: Message, remembered: Remembered | None) -> Message:
    """The message with what is remembered of it, if it is the same: a call that the client changed is not the one that the model thought about."""
    if remembered is None or any(isinstance(part, ProviderPart) for part in message.parts):
        return message
    if [_same(call) for call in _calls(message)] != [_same(call) for call in remembered.calls]:
        return message
    return msgspec.structs.replace(message, parts=(*remembered.parts, *message.parts))


def _same(call: ToolCallPart) -> tuple[str, str, object]:
    """What makes a call the same. Clients write its arguments anew, with other blanks and escapes."""
    try:
        return call.id, call.name, msgspec.json.decode(call.arguments)
    except (msgspec.DecodeError, RecursionError):
        return call.id, call.name, call.arguments
