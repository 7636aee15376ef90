"""Tenants: who pays and whose documents they are."""

from __future__ import annotations

import re
import time

from sqlalchemy import Connection, insert, select

from router.identity.errors import Exists, InvalidName, Unknown
from router.identity.tables import tenants

PLATFORM = ""
"""The tenant of a platform key: none. Its role is one of the platform's (operator, auditor)."""

DEFAULT_TENANT = "default"
_TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def create_tenant(connection: Connection, name: str) -> None:
    """Raises `InvalidName` or `Exists`."""
    if not _TENANT_NAME.fullmatch(name):
        raise InvalidName(f"tenant name {name!r} must be 1-64 of a-z, 0-9, '_', '.', '-', beginning with a letter or digit", "name")
    if connection.execute(select(tenants.c.name).where(tenants.c.name == name)).first():
        raise Exists(f"tenant {name!r} exists already")
    connection.execute(insert(tenants), {"name": name, "created_at": time.time()})


def list_tenants(connection: Connection, tenant: str | None = None) -> list[dict[str, object]]:
    """All tenants, or only this one."""
    query = select(tenants).order_by(tenants.c.name)
    if tenant is not None:
        query = query.where(tenants.c.name == tenant)
    return [dict(row) for row in connection.execute(query).mappings()]


def require_tenant(connection: Connection, name: str) -> None:
    """Raises `Unknown`."""
    if not _TENANT_NAME.fullmatch(name) or not connection.execute(select(tenants.c.name).where(tenants.c.name == name)).first():
        raise Unknown(f"tenant {name[:80]!r} does not exist; make it with: headgate tenants create {name}", "tenant")
