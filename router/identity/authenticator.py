"""From a presented key to its principal.

The look-up is by the key's keyed hash, so no timing says how much of a key was right. A worker keeps an answer for at most `CACHE_SECONDS`: a
revoked key is dead in every worker within a second, and so are those of a disabled user and an archived team.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import structlog
from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, select

from config.database import Database, Prepared
from config.networks import Address, Network, parse_networks, within
from policies.access import Principal, Role, TenantRole, lesser
from router.identity.keys import key_hash, scopes_of
from router.identity.tables import keys, teams, users
from router.identity.tenants import PLATFORM

log = structlog.get_logger("headgate.identity")

CACHE_SECONDS = 0.5
CACHE_ENTRIES = 10_000


class _Known(Struct, frozen=True):
    """A live key's principal, and the ranges that its key is good from."""

    principal: Principal
    networks: tuple[Network, ...] | None


class Authenticator:
    """From a presented key to its principal, with a short memory. Negative answers are remembered too."""

    def __init__(self, database: Database, secret: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._secret = secret
        self._clock = clock
        self._cache: dict[str, tuple[float, _Known | None]] = {}
        self._asking: dict[str, asyncio.Task[_Known | None]] = {}

    async def principal(self, key: str, address: Callable[[], Address | None] | None = None) -> Principal | None:
        """The principal of a live key, or None. A key that is limited to networks is none from elsewhere; `address` is asked only for such a key."""
        digest = key_hash(self._secret, key)
        now = self._clock()
        cached = self._cache.get(digest)
        if cached is not None and now - cached[0] < CACHE_SECONDS:
            known = cached[1]
        else:
            asking = self._asking.get(digest)
            if asking is None:  # those who come with the same key meanwhile wait for the same answer
                asking = self._asking[digest] = asyncio.create_task(self._ask(digest, now))
                asking.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody must look at it, also when all have left
            known = await asyncio.shield(asking)
        if known is None:
            return None
        if known.networks is not None:
            client = None if address is None else address()
            if client is None or not within(client, known.networks):
                log.warning("key_refused_by_network", key_id=known.principal.key_id, address=str(client))
                return None
        return known.principal

    async def _ask(self, digest: str, now: float) -> _Known | None:
        try:
            known = await self._database.read(lambda connection: _look_up(connection, digest))
        finally:
            del self._asking[digest]
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.clear()
        self._cache[digest] = (now, known)
        return known


_TEAM = func.coalesce(keys.c.team, users.c.team)
_OF_A_KEY = Prepared(
    select(
        keys,
        _TEAM.label("current_team"),
        teams.c.archived_at,
        teams.c.name.label("team_name"),
        users.c.id.label("user_id"),
        users.c.role.label("user_role"),
        users.c.disabled_at,
        users.c.erased_at,
    )
    .select_from(keys.outerjoin(users, users.c.id == keys.c.user).outerjoin(teams, teams.c.id == _TEAM))
    .where(keys.c.hash == bindparam("digest"))
)


def _look_up(connection: Connection, digest: str) -> _Known | None:
    row: dict[str, Any] | None = next((each._asdict() for each in _OF_A_KEY.run(connection, {"digest": digest})), None)
    role = None if row is None or _is_dead(row, time.time()) else _role(row)
    if row is None or role is None:
        return None
    scopes = scopes_of(row)
    principal = Principal(
        tenant=row["tenant"],
        role=role,
        team=row["current_team"] or "",
        team_name=row["team_name"] or "",
        user=row["user"] or "",
        key_id=row["id"],
        key_name=row["name"],
        allowed_models=scopes.models,
        max_data_class=scopes.max_data_class,
        routes=scopes.routes,
        stores=scopes.stores,
        networks=scopes.networks,
        expires_at=row["expires_at"],
        platform=row["tenant"] == PLATFORM,
    )
    return _Known(principal, None if scopes.networks is None else parse_networks(scopes.networks))


def _is_dead(row: Mapping[Any, Any], now: float) -> bool:
    if row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= now):
        return True
    user_gone = row["user"] is not None and (row["user_id"] is None or row["disabled_at"] is not None or row["erased_at"] is not None)
    return user_gone or row["archived_at"] is not None


def _role(row: Mapping[Any, Any]) -> Role | None:
    """The key's role, or its user's where that may do less by now; None where neither covers the other: nobody gave the key the user's new role."""
    role: Role = row["role"]
    return role if row["user"] is None else lesser(cast(TenantRole, row["user_role"]), cast(TenantRole, role))
