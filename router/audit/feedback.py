"""What users thought of answers: given once by each, read with the decision. Scores are figures; comments are sealed, and go with their user."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from adapters.backend import DataClass, may_see
from policies.access import Principal, allowed
from retrieval.values import NotFound
from router.audit.tables import decisions, feedback
from router.kept.keeping import opened, packed
from router.kept.sealing import Sealer
from router.tables import ledger


class Opinion(Struct, frozen=True, kw_only=True):
    """What one user (or key that acts for none) thinks of an answer, from 0 to 1. `comment` is for the tenant's own administrators only."""

    rater: str
    score: float
    created_at: float
    comment: str | None = None


class Feedback:
    """Takes opinions in and gives them out. `keep_s` is how long they stay: as long as decisions."""

    def __init__(self, sealer: Sealer, keep_s: float, clock: Callable[[], float] = time.time) -> None:
        self._sealer = sealer
        self._keep_s = keep_s
        self._clock = clock

    def give(self, connection: Connection, principal: Principal, request_id: str, score: float, comment: str | None) -> Opinion:
        """Keep it in place of what the same user said before. Raises `NotFound`, for another tenant's request as for none."""
        if not _known(connection, principal, request_id):
            raise NotFound("request", request_id[:200])
        now, rater = self._clock(), principal.user or principal.key_id
        values: dict[str, Any] = {
            "tenant": principal.tenant,
            "key_id": principal.key_id,
            "user_id": principal.user or None,
            "score": score,
            "comment": None if comment is None else packed(self._sealer.of(principal.tenant), comment, _place(request_id, rater)),
            "created_at": now,
            "expires_at": now + self._keep_s,
        }
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        statement = insert(feedback).values(request_id=request_id, rater=rater, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=["request_id", "rater"], set_=values))
        return Opinion(rater=rater, score=score, created_at=now, comment=comment)

    def of(self, connection: Connection, tenant: str, request_id: str, *, comments: bool = False) -> tuple[Opinion, ...]:
        """Everybody's, oldest first."""
        query = select(feedback).where(feedback.c.request_id == request_id, feedback.c.tenant == tenant).order_by(feedback.c.created_at, feedback.c.rater)
        seal = self._sealer.of(tenant)
        return tuple(
            Opinion(
                rater=row.rater,
                score=row.score,
                created_at=row.created_at,
                comment=opened(seal, row.comment, _place(request_id, row.rater), str) if comments and row.comment is not None else None,
            )
            for row in connection.execute(query)
        )


def sees_comments(principal: Principal, data_class: DataClass) -> bool:
    """Whether a caller may read what users wrote: as far as they may read stored prompts."""
    return not principal.platform and allowed(principal, "prompts.read") and may_see(principal.max_data_class, data_class)


def _known(connection: Connection, principal: Principal, request_id: str) -> bool:
    """Whether the caller's tenant made such a request, of data that the caller may see.

    The ledger knows of an answer before its decision is written down, and not how sensitive it is: till then a limited key knows its own only.
    """
    mine = (decisions.c.request_id == request_id, decisions.c.tenant == principal.tenant)
    row = connection.execute(select(decisions.c.data_class).where(*mine)).one_or_none()
    if row is not None:
        return may_see(principal.max_data_class, row.data_class)
    query = select(ledger.c.key_id).where(ledger.c.request_id == request_id, ledger.c.tenant == principal.tenant)
    keys = set(connection.execute(query).scalars())
    return bool(keys) and (principal.max_data_class == "restricted" or principal.key_id in keys)


def _place(request_id: str, rater: str) -> str:
    return f"feedback/{request_id}/{rater}"
