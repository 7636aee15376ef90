"""API keys: made, hashed, looked up, revoked.

A key is `hg-` and 40 characters of base32 randomness. The database holds only HMAC-SHA256(secret, key) and the first characters for
display; the look-up is by that hash, so no timing says how much of a key was right. A worker keeps an answer for at most
`CACHE_SECONDS`: a revoked key is dead in every worker within a second.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, insert, select

from config.database import STATE_LOCK, Database, exclusively
from policies.access import PLATFORM_ROLES, TENANT_ROLES, Principal
from router.tables import keys, tenants

CACHE_SECONDS = 0.5
CACHE_ENTRIES = 10_000
LONGEST_NAME = 200
PLATFORM = ""
"""The tenant of a platform key: none. Its role is one of the platform's (operator, auditor)."""

DEFAULT_TENANT = "default"
ADMIN_KEY_NAME = "HEADGATE_ADMIN_KEY"
_TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class InvalidName(ValueError):
    """A tenant name or role that cannot be used; the message says what can."""


class Exists(ValueError):
    """The tenant is there already."""


class Unknown(LookupError):
    """No such tenant or key."""


class KeyInfo(Struct, frozen=True, kw_only=True):
    """A key as it is shown: never the key itself."""

    id: str
    tenant: str
    role: str
    name: str
    prefix: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    models: tuple[str, ...] | None = None


class NewKey(Struct, frozen=True, kw_only=True):
    """A key at its birth: the only time it is shown whole."""

    id: str
    key: str
    tenant: str
    role: str
    name: str


def new_secret_key() -> str:
    return "hg-" + base64.b32encode(secrets.token_bytes(25)).decode().lower()


def key_hash(secret: bytes, key: str) -> str:
    return hmac.new(secret, key.encode(), hashlib.sha256).hexdigest()


def create_tenant(connection: Connection, name: str) -> None:
    """Raises `InvalidName` or `Exists`."""
    if not _TENANT_NAME.fullmatch(name):
        raise InvalidName(f"tenant name {name!r} must be 1-64 of a-z, 0-9, '_', '.', '-', beginning with a letter or digit")
    if connection.execute(select(tenants.c.name).where(tenants.c.name == name)).first():
        raise Exists(f"tenant {name!r} exists already")
    connection.execute(insert(tenants), {"name": name, "created_at": time.time()})


def list_tenants(connection: Connection, tenant: str | None = None) -> list[dict[str, object]]:
    """All tenants, or only this one."""
    query = select(tenants).order_by(tenants.c.name)
    if tenant is not None:
        query = query.where(tenants.c.name == tenant)
    return [dict(row) for row in connection.execute(query).mappings()]


def create_key(
    connection: Connection,
    secret: bytes,
    *,
    tenant: str,
    role: str,
    name: str = "",
    models: tuple[str, ...] | None = None,
    expires_at: float | None = None,
    key: str | None = None,
) -> NewKey:
    """Make a key for a tenant, or for the platform (`tenant=PLATFORM`).

    Raises `Unknown` for a tenant that is not there and `InvalidName` for a role that is not one of its roles or a
    name that is too long.
    """
    roles: tuple[str, ...] = PLATFORM_ROLES if tenant == PLATFORM else TENANT_ROLES
    if role not in roles:
        hint = " (a platform role has no tenant)" if role in PLATFORM_ROLES else ""
        raise InvalidName(f"role {role!r} is not one of {', '.join(roles)}{hint}")
    if tenant != PLATFORM and not connection.execute(select(tenants.c.name).where(tenants.c.name == tenant)).first():
        raise Unknown(f"tenant {tenant!r} does not exist; make it with: headgate tenants create {tenant}")
    if len(name) > LONGEST_NAME:
        raise InvalidName(f"the name has {len(name)} characters; at most {LONGEST_NAME} are kept")
    key = key or new_secret_key()
    key_id = "key_" + uuid.uuid4().hex[:24]
    connection.execute(
        insert(keys),
        {
            "id": key_id,
            "tenant": tenant,
            "role": role,
            "name": name,
            "prefix": key[:7],
            "hash": key_hash(secret, key),
            "models": "\n".join(models) if models is not None else None,
            "created_at": time.time(),
            "expires_at": expires_at,
        },
    )
    return NewKey(id=key_id, key=key, tenant=tenant, role=role, name=name)


def list_keys(connection: Connection, tenant: str | None = None) -> list[KeyInfo]:
    query = select(keys).order_by(keys.c.created_at, keys.c.id)
    if tenant is not None:
        query = query.where(keys.c.tenant == tenant)
    return [_info(row._mapping) for row in connection.execute(query)]


def get_key(connection: Connection, key_id: str) -> KeyInfo:
    row = connection.execute(select(keys).where(keys.c.id == key_id)).mappings().first()
    if row is None:
        raise Unknown(f"no key {key_id!r}")
    return _info(row)


def revoke_key(connection: Connection, key_id: str) -> KeyInfo:
    """Revoke a key, for good. Raises `Unknown`."""
    info = get_key(connection, key_id)
    if info.revoked_at is None:
        connection.execute(keys.update().where(keys.c.id == key_id).values(revoked_at=time.time()))
    return get_key(connection, key_id)


class FirstKeys(Struct, frozen=True):
    """Keys made at the first start, to be printed once: the platform's admin key, and one to chat with for the tenant `default`."""

    admin: str | None = None
    chat: str | None = None


def ensure_first_keys(connection: Connection, secret: bytes, configured: str | None) -> FirstKeys:
    """Make sure that an operator's key exists, and at the very first start the tenant `default` with a key.

    A configured admin key replaces the one configured before; without any, one is made. What was there already is not returned again.
    Of several replicas that start together one makes them, and the others wait for it.
    """
    exclusively(connection, STATE_LOCK)
    chat = None
    if not connection.execute(select(tenants.c.name).limit(1)).first():
        create_tenant(connection, DEFAULT_TENANT)
        chat = create_key(connection, secret, tenant=DEFAULT_TENANT, role="owner", name="first start").key
    live = (keys.c.role == "operator") & keys.c.revoked_at.is_(None)
    if configured is None:
        if connection.execute(select(keys.c.id).where(live)).first():
            return FirstKeys(chat=chat)
        return FirstKeys(create_key(connection, secret, tenant=PLATFORM, role="operator", name="first start").key, chat)
    digest = key_hash(secret, configured)
    connection.execute(keys.update().where(live & (keys.c.name == ADMIN_KEY_NAME) & (keys.c.hash != digest)).values(revoked_at=time.time()))
    if connection.execute(select(keys.c.id).where(keys.c.hash == digest)).first() is None:
        create_key(connection, secret, tenant=PLATFORM, role="operator", name=ADMIN_KEY_NAME, key=configured)
    else:
        connection.execute(keys.update().where(keys.c.hash == digest).values(revoked_at=None))
    return FirstKeys(chat=chat)


def _info(row: Mapping[Any, Any]) -> KeyInfo:
    fields: dict[str, Any] = dict(row)
    fields.pop("hash")
    models = fields.pop("models")
    return KeyInfo(models=tuple(models.split("\n")) if isinstance(models, str) else None, **fields)


class Authenticator:
    """From a presented key to its principal, with a short memory. Negative answers are remembered too."""

    def __init__(self, database: Database, secret: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._secret = secret
        self._clock = clock
        self._cache: dict[str, tuple[float, Principal | None]] = {}

    async def principal(self, key: str) -> Principal | None:
        """The principal of a live key, or None."""
        digest = key_hash(self._secret, key)
        now = self._clock()
        cached = self._cache.get(digest)
        if cached is not None and now - cached[0] < CACHE_SECONDS:
            return cached[1]
        principal = await self._database.read(lambda connection: _look_up(connection, digest))
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.clear()
        self._cache[digest] = (now, principal)
        return principal


def _look_up(connection: Connection, digest: str) -> Principal | None:
    row = connection.execute(select(keys).where(keys.c.hash == digest)).mappings().first()
    if row is None or row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= time.time()):
        return None
    return Principal(
        tenant=row["tenant"],
        role=row["role"],
        key_id=row["id"],
        allowed_models=tuple(row["models"].split("\n")) if row["models"] is not None else None,
        platform=row["tenant"] == PLATFORM,
    )
