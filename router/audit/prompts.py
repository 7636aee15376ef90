"""Stored prompts, of tenants whose policy wants them: read, deleted. They are written by `router.audit.recording`."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct
from sqlalchemy import Connection, delete, select

from adapters.backend import DataClass
from retrieval.values import NotFound
from router.audit.recording import Said
from router.audit.tables import prompts
from router.kept.keeping import opened, up_to
from router.kept.sealing import Sealer


class StoredPrompt(Struct, frozen=True, kw_only=True):
    """What a request asked, as far as it is stored: redacted; of pictures, files and the like only that they were there."""

    request_id: str
    user_id: str | None
    created_at: float
    expires_at: float
    messages: tuple[Said, ...]


def read_prompt(
    connection: Connection, sealer: Sealer, tenant: str, request_id: str, most: DataClass = "restricted", clock: Callable[[], float] = time.time
) -> StoredPrompt:
    """`most` is the data class up to which the caller may see.

    Raises `NotFound` alike for what is missing, expired, more sensitive, another tenant's, or sealed with another secret.
    """
    mine = (prompts.c.request_id == request_id, prompts.c.tenant == tenant, prompts.c.expires_at > clock(), *up_to(prompts.c.data_class, most))
    row = connection.execute(select(prompts).where(*mine)).one_or_none()
    messages = None if row is None else opened(sealer.of(tenant), row.content, f"prompt/{request_id}", tuple[Said, ...])
    if row is None or messages is None:
        raise NotFound("prompt", request_id)
    return StoredPrompt(request_id=request_id, user_id=row.user_id, created_at=row.created_at, expires_at=row.expires_at, messages=messages)


def delete_prompt(connection: Connection, tenant: str, request_id: str, most: DataClass = "restricted") -> None:
    """Raises `NotFound`, also for one that is more sensitive than `most`."""
    mine = (prompts.c.request_id == request_id, prompts.c.tenant == tenant, *up_to(prompts.c.data_class, most))
    if not connection.execute(delete(prompts).where(*mine)).rowcount:
        raise NotFound("prompt", request_id)
