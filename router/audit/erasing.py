"""Erasing a user: everything that was kept of what they said goes; what was spent and who did what stays, under an id that means nothing any more."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from sqlalchemy import Connection, delete

from router.audit.tables import prompts
from router.kept.tables import conversations, idempotency, kept_responses, remembered_parts

KEPT = {
    "prompts": prompts,
    "responses": kept_responses,
    "conversations": conversations,
    "idempotent_answers": idempotency,
    "remembered_parts": remembered_parts,
}
"""What is kept by user; the items of a conversation go with it."""

Forget = Callable[[Connection, str, str], None]
"""Takes a tenant and a user's id, and erases what is displayed of that user."""


class Erased(Struct, frozen=True):
    """How many rows went."""

    user: str
    deleted: dict[str, int]


def erase_user(connection: Connection, tenant: str, user: str, forget: Forget | None = None) -> Erased:
    """Delete what is kept of one of a tenant's users. Ledger, decisions and audit entries keep the user's id, so sums and chain stay as they are.

    Within a transaction that also records it. A request of the user's that still runs may keep its answer afterwards: revoke the user's keys first.
    """
    deleted = {name: connection.execute(delete(table).where(table.c.tenant == tenant, table.c.user_id == user)).rowcount for name, table in KEPT.items()}
    if forget is not None:
        forget(connection, tenant, user)
    return Erased(user, deleted)
