"""The keys of the first start, and the operator's key that the environment names."""

from __future__ import annotations

import time

from msgspec import Struct
from sqlalchemy import Connection, or_, select

from config.database import STATE_LOCK, exclusively
from router.identity.keys import ADMIN_KEY_NAME, create_key, key_hash
from router.identity.tables import keys, tenants
from router.identity.tenants import DEFAULT_TENANT, PLATFORM, create_tenant


class FirstKeys(Struct, frozen=True):
    """Keys made at the first start, to be printed once: the platform's admin key, and one to chat with for the tenant `default`."""

    admin: str | None = None
    chat: str | None = None


def ensure_first_keys(connection: Connection, secret: bytes, configured: str | None) -> FirstKeys:
    """Make sure that an operator's key exists, and at the very first start the tenant `default` with a key.

    A configured admin key replaces the one configured before, and is good for as long as it is configured; without any, one is made.
    What was there already is not returned again.
    Of several replicas that start together one makes them, and the others wait for it.
    """
    exclusively(connection, STATE_LOCK)
    chat = None
    if not connection.execute(select(tenants.c.name).limit(1)).first():
        create_tenant(connection, DEFAULT_TENANT)
        chat = create_key(connection, secret, tenant=DEFAULT_TENANT, role="owner", name="first start").key
    now = time.time()
    live = (keys.c.role == "operator") & keys.c.revoked_at.is_(None) & or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
    if configured is None:
        if connection.execute(select(keys.c.id).where(live)).first():
            return FirstKeys(chat=chat)
        return FirstKeys(create_key(connection, secret, tenant=PLATFORM, role="operator", name="first start").key, chat)
    digest = key_hash(secret, configured)
    connection.execute(keys.update().where(live & (keys.c.name == ADMIN_KEY_NAME) & (keys.c.hash != digest)).values(revoked_at=now))
    if connection.execute(select(keys.c.id).where(keys.c.hash == digest)).first() is None:
        create_key(connection, secret, tenant=PLATFORM, role="operator", name=ADMIN_KEY_NAME, key=configured)
    else:
        connection.execute(keys.update().where(keys.c.hash == digest).values(revoked_at=None, expires_at=None))
    return FirstKeys(chat=chat)
