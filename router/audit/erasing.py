"""Erasing a user: what was kept of what they said goes, and what names them; what was spent and who did what stays, under an id that names nobody."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, delete, select, update

from config.database import Database
from router.audit.tables import decisions, feedback, prompts
from router.identity.holders import holder_ids
from router.identity.tables import users
from router.identity.users import forget_user, get_user
from router.kept.tables import conversations, idempotency, kept_responses, remembered_parts

KEPT = {
    "prompts": prompts,
    "responses": kept_responses,
    "conversations": conversations,
    "idempotent_answers": idempotency,
    "remembered_parts": remembered_parts,
    "feedback": feedback,
}
"""What is kept by user; the items of a conversation go with it."""

LATE_S = 86_400.0
"""How long after a user was erased something of theirs may still be written: by a request that was running then."""

MOST_AT_ONCE = 1_000


class Erased(Struct, frozen=True):
    """Which user, and how many rows went."""

    user: str
    tenant: str
    deleted: dict[str, int]


def erase_user(connection: Connection, user_id: str, secret: bytes, tenant: str | None = None) -> Erased:
    """Delete what is kept of a user, from before they were on record too, and what names them.

    Of their decisions the embeddings go. Ledger, decisions and audit entries keep the user's id, so sums and chain stay as they are.

    Within a transaction that also records it. `secret` is the service's. With `tenant` only one of that tenant's. Raises `Unknown`.
    Erasing once more takes what came since.
    """
    subject = get_user(connection, user_id, tenant).subject
    user = forget_user(connection, user_id, secret, tenant)  # first: no key of theirs asks for anything more
    theirs = [user.id, *(holder_ids(connection, secret, subject) if subject is not None else ())]
    deleted = {
        name: connection.execute(delete(table).where(table.c.tenant == user.tenant, table.c.user_id.in_(theirs))).rowcount for name, table in KEPT.items()
    }
    deleted["embeddings"] = connection.execute(update(decisions).where(decisions.c.tenant == user.tenant, *_embedded(theirs)).values(embedding=None)).rowcount
    return Erased(user.id, user.tenant, deleted)


class Leftovers:
    """What requests that were running, here or in another worker, have kept of users since they were erased."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def sweep(self) -> None:
        """Delete it. Writes nothing where nobody was erased of late."""
        erased = select(users.c.id).where(users.c.erased_at > self._clock() - LATE_S).order_by(users.c.erased_at.desc()).limit(MOST_AT_ONCE)
        late = await self._database.read(lambda connection: list(connection.execute(erased).scalars()))
        if late:
            await self._database.write(lambda connection: _delete(connection, late))


def _delete(connection: Connection, late: list[str]) -> None:
    for table in KEPT.values():
        connection.execute(delete(table).where(table.c.user_id.in_(late)))
    connection.execute(update(decisions).where(*_embedded(late)).values(embedding=None))


def _embedded(users: list[str]) -> tuple[ColumnElement[bool], ...]:
    """Their decisions that hold an embedding, from which much of what they asked can be told."""
    return decisions.c.user_id.in_(users), decisions.c.embedding.is_not(None)
