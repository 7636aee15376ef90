"""One answer to a request that is sent again: the record behind an inbound `Idempotency-Key`.

Guarantees, on SQLite and PostgreSQL alike, over all workers and replicas:

- of all requests with one key at most one is being answered; the others learn that it runs, or get what it answered;
- an answer is kept until it expires; what ended without spending anything is forgotten, so that the next request really runs;
- a record whose worker has died is taken over by the next request that asks for it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TypeAlias

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from config.database import Database
from router.http.errors import ErrorDetail
from router.kept.sealing import Sealer
from router.kept.tables import idempotency
from router.tables import workers

SWEPT_AT_ONCE = 1_000


class KeptAnswer(Struct, frozen=True):
    """What a client got: `body` is compressed (zlib). `error` is what the body says, where the answer is a refusal or a stream that broke."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    error: ErrorDetail | None = None


class Keyed(Struct, frozen=True):
    """A request under a key: its record's id, and the hash of its body."""

    id: str
    tenant: str
    fingerprint: str


class Mine(Struct, frozen=True):
    """The record is this request's: it runs, and must `keep` or `forget`."""


class Running(Struct, frozen=True):
    """Another request with this key and body is being answered."""


class Mismatch(Struct, frozen=True):
    """The key was used for another body."""


Claim: TypeAlias = Mine | Running | Mismatch | KeptAnswer


def keyed(tenant: str, route: str, key: str, body: bytes, reach: str = "") -> Keyed:
    """The key is of the tenant's and the route's own, and of those who reach as far. Neither the key nor the body is kept in the clear."""
    place = "\0".join((tenant, route, key, *([reach] if reach else ()))).encode()
    return Keyed(hashlib.sha256(place).hexdigest(), tenant, hashlib.sha256(body).hexdigest())


class Idempotency:
    """The records as one worker sees them. `keep_s` is how long an answer is kept."""

    def __init__(self, database: Database, sealer: Sealer, worker: str, keep_s: float, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._sealer = sealer
        self._worker = worker
        self._keep_s = keep_s
        self._clock = clock

    async def claim(self, request: Keyed, request_id: str) -> Claim:
        """Take the record for `request_id`, or learn what became of it. An answer that does not open any more (another secret) counts as none."""
        now = self._clock()
        row = {
            "id": request.id,
            "tenant": request.tenant,
            "fingerprint": request.fingerprint,
            "worker": self._worker,
            "request_id": request_id,
            "done": False,
            "answer": None,
            "created_at": now,
            "expires_at": now + self._keep_s,
        }
        return await self._database.write(lambda connection: self._claim(connection, request, row))

    def _claim(self, connection: Connection, request: Keyed, row: dict[str, object]) -> Claim:
        own = idempotency.c.id == request.id
        connection.execute(delete(idempotency).where(own, idempotency.c.done, idempotency.c.expires_at <= row["created_at"]))
        insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(idempotency)
        if connection.execute(insert.values(row).on_conflict_do_nothing(index_elements=["id"])).rowcount:
            return Mine()
        # Locked, so that of two that find a dead worker's record one takes it over.
        found = connection.execute(select(idempotency).where(own).with_for_update()).one_or_none()
        if found is None:
            return Running()  # forgotten just now: whoever looks again finds it free
        if found.fingerprint != request.fingerprint:
            return Mismatch()
        if found.done:
            if (answer := self._opened(request, found.answer)) is not None:
                return answer
        elif connection.execute(select(workers.c.id).where(workers.c.id == found.worker)).first() is not None:
            return Running()
        connection.execute(update(idempotency).where(own).values(row))
        return Mine()

    def _opened(self, request: Keyed, sealed: bytes | None) -> KeptAnswer | None:
        content = None if sealed is None else self._sealer.of(request.tenant).kept(sealed, request.id)
        return None if content is None else msgspec.msgpack.decode(content, type=KeptAnswer)

    async def keep(self, request: Keyed, request_id: str, answer: KeptAnswer) -> None:
        """Keep what was answered. Does nothing where the record was taken over meanwhile."""
        sealed = self._sealer.of(request.tenant).keep(msgspec.msgpack.encode(answer), request.id)
        values = {"done": True, "answer": sealed, "expires_at": self._clock() + self._keep_s}
        owned = (idempotency.c.id == request.id, idempotency.c.request_id == request_id)
        await self._database.write(lambda connection: connection.execute(update(idempotency).where(*owned).values(values)))

    async def forget(self, request: Keyed, request_id: str) -> None:
        """Give the key free: nothing was spent. Does nothing where the record was taken over meanwhile."""
        owned = (idempotency.c.id == request.id, idempotency.c.request_id == request_id)
        await self._database.write(lambda connection: connection.execute(delete(idempotency).where(*owned)))

    async def erase(self, tenant: str, request_id: str) -> None:
        """Forget what a request answered: its client deleted that. The key is free again."""
        owned = (idempotency.c.tenant == tenant, idempotency.c.request_id == request_id, idempotency.c.done)
        await self._database.write(lambda connection: connection.execute(delete(idempotency).where(*owned)))

    async def sweep(self) -> None:
        """Delete some of what has expired. A record that still runs stays for as long as its worker lives."""
        over = idempotency.c.done | idempotency.c.worker.not_in(select(workers.c.id))
        expired = select(idempotency.c.id).where(idempotency.c.expires_at <= self._clock(), over).limit(SWEPT_AT_ONCE)
        await self._database.write(lambda connection: connection.execute(delete(idempotency).where(idempotency.c.id.in_(expired))))
