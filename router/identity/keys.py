"""API keys: made, hashed, listed, rotated, revoked.

A key is `hg-` and 40 characters of base32 randomness. The database holds only HMAC-SHA256(secret, key) and the first characters for
display; the look-up (`authenticator`) is by that hash, so no timing says how much of a key was right.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, false, insert, select

from adapters.backend import DataClass
from config.networks import parse_network
from policies.access import PLATFORM_ROLES, TENANT_ROLES, RouteGroup, Scopes, covers
from retrieval.store_rows import get_store
from retrieval.values import NotFound
from router.identity.errors import InvalidName, Unknown, may_exist
from router.identity.tables import keys
from router.identity.teams import live_team
from router.identity.tenants import PLATFORM, require_tenant
from router.identity.users import User, live_user

LONGEST_NAME = 200
MOST = 100
"""Of models, stores or networks in a key's scopes."""

LONGEST_OVERLAP_S = 90 * 86_400.0
"""How long a key that was rotated may go on beside its successor."""

UNNARROWED = Scopes()
ADMIN_KEY_NAME = "HEADGATE_ADMIN_KEY"
"""What the operator's key is called that the environment names."""


class KeyInfo(Struct, frozen=True, kw_only=True):
    """A key as it is shown: never the key itself. `replaced_by` is the key that it was rotated to."""

    id: str
    tenant: str
    team: str | None = None
    user: str | None = None
    role: str
    name: str
    prefix: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    replaced_by: str | None = None
    models: tuple[str, ...] | None = None
    routes: tuple[RouteGroup, ...] | None = None
    stores: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    max_data_class: DataClass = "restricted"

    @property
    def scopes(self) -> Scopes:
        return Scopes(routes=self.routes, models=self.models, stores=self.stores, networks=self.networks, max_data_class=self.max_data_class)


class NewKey(Struct, frozen=True, kw_only=True):
    """A key at its birth: the only time it is shown whole."""

    id: str
    key: str
    tenant: str
    role: str
    name: str
    expires_at: float | None = None


class _Kept(Struct, frozen=True, omit_defaults=True):
    """The scopes that stand in the column of that name; models and networks have their own."""

    routes: tuple[RouteGroup, ...] | None = None
    stores: tuple[str, ...] | None = None
    max_data_class: DataClass = "restricted"


def new_secret_key() -> str:
    return "hg-" + base64.b32encode(secrets.token_bytes(25)).decode().lower()


def key_hash(secret: bytes, key: str) -> str:
    return hmac.new(secret, key.encode(), hashlib.sha256).hexdigest()


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
    team: str | None = None,
    user: str | None = None,
    scopes: Scopes | None = None,
) -> NewKey:
    """Make a key for a tenant, or for the platform (`tenant=PLATFORM`). `models` is short for a scope of models.

    Raises `Unknown` for a tenant, team, user or vector store that is not there, and `InvalidName` for anything that cannot be: a role that is
    not one of the tenant's or more than the user's, a name that is too long, a range that is none.
    """
    scopes = scopes or Scopes(models=models)
    _check_role(tenant, role)
    if len(name) > LONGEST_NAME:
        raise InvalidName(f"the name has {len(name)} characters; at most {LONGEST_NAME} are kept", "name")
    if name and not name.isprintable():
        raise InvalidName("the name has characters that cannot be shown, such as a line break", "name")
    if tenant != PLATFORM:
        require_tenant(connection, tenant)
    owner = _check_actors(connection, tenant, role, team, user)
    scopes = _checked(connection, tenant, scopes)
    key = key or new_secret_key()
    row = {
        "id": "key_" + uuid.uuid4().hex[:24],
        "tenant": tenant,
        "team": team,
        "user": None if owner is None else owner.id,
        "role": role,
        "name": name,
        "prefix": key[:7],
        "hash": key_hash(secret, key),
        "created_at": time.time(),
        "expires_at": expires_at,
        **_columns(scopes),
    }
    connection.execute(insert(keys), row)
    return NewKey(id=str(row["id"]), key=key, tenant=tenant, role=role, name=name, expires_at=expires_at)


def _check_role(tenant: str, role: str) -> None:
    roles: tuple[str, ...] = PLATFORM_ROLES if tenant == PLATFORM else TENANT_ROLES
    if role not in roles:
        hint = " (a platform role has no tenant)" if role in PLATFORM_ROLES else ""
        raise InvalidName(f"role {role[:40]!r} is not one of {', '.join(roles)}{hint}")


def _check_actors(connection: Connection, tenant: str, role: str, team: str | None, user: str | None) -> User | None:
    """The user a key is for. Team and user are the tenant's own and alive, fit each other, and the user may do what the key may."""
    if tenant == PLATFORM and (team is not None or user is not None):
        raise InvalidName("a platform key has no team and no user", "team" if team is not None else "user")
    if team is not None:
        live_team(connection, tenant, team)
    if user is None:
        return None
    owner = live_user(connection, tenant, user)
    if team is None and owner.team is not None:
        live_team(connection, tenant, owner.team)
    if team is not None and owner.team is not None and owner.team != team:
        raise InvalidName(f"user {owner.id} is in another team, {owner.team}; leave the team out, or make the key without a user", "team")
    if not any(role == known and covers(owner.role, known) for known in TENANT_ROLES):
        raise InvalidName(f"role {role!r} may do more than the user's own, {owner.role!r}")
    return owner


def _checked(connection: Connection, tenant: str, scopes: Scopes) -> Scopes:
    """The scopes as they are kept, the ranges of addresses in one form."""
    if tenant == PLATFORM and (scopes.stores is not None or scopes.max_data_class != "restricted"):
        raise InvalidName("a platform key reaches no documents; leave this out", "stores" if scopes.stores is not None else "max_data_class")
    for field in ("models", "routes", "stores", "networks"):
        values = getattr(scopes, field)
        if values is not None and len(values) > MOST:
            raise InvalidName(f"{field} has {len(values)} entries; at most {MOST} are kept", field)
        if values is not None and field != "models" and not values:
            raise InvalidName(f"{field} is empty, so the key could do nothing; name at least one, or leave it out for no limit", field)
        if values is not None and not all(value and value.isprintable() for value in values):
            raise InvalidName(f"{field} has an entry that is empty or has a line break", field)
    for store in scopes.stores or ():
        try:
            get_store(connection, tenant, store, time.time())
        except NotFound as error:
            raise Unknown(str(error).rstrip("."), "vector_store", "stores") from error
    try:
        networks = None if scopes.networks is None else tuple(str(parse_network(each)) for each in scopes.networks)
    except ValueError as error:
        raise InvalidName(str(error), "networks") from error
    return msgspec.structs.replace(scopes, networks=networks)


def _columns(scopes: Scopes) -> dict[str, str | None]:
    kept = _Kept(scopes.routes, scopes.stores, scopes.max_data_class)
    return {
        "models": None if scopes.models is None else "\n".join(scopes.models),
        "scopes": None if kept == _Kept() else msgspec.json.encode(kept).decode(),
        "networks": None if scopes.networks is None else "\n".join(scopes.networks),
    }


def scopes_of(row: Mapping[Any, Any]) -> Scopes:
    """The scopes of a row of `keys`."""
    kept = _Kept() if row["scopes"] is None else msgspec.json.decode(row["scopes"], type=_Kept)
    return Scopes(routes=kept.routes, models=_lines(row["models"]), stores=kept.stores, networks=_lines(row["networks"]), max_data_class=kept.max_data_class)


def _lines(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split("\n"))


def list_keys(connection: Connection, tenant: str | None = None, team: str | None = None, user: str | None = None) -> list[KeyInfo]:
    """Every key, or one tenant's, team's or user's; oldest first."""
    query = select(keys).order_by(keys.c.created_at, keys.c.id)
    for column, wanted in ((keys.c.tenant, tenant), (keys.c.team, team), (keys.c.user, user)):
        if wanted is not None:
            query = query.where(column == wanted if wanted == PLATFORM or may_exist(wanted) else false())
    return [_info(row) for row in connection.execute(query).mappings()]


def get_key(connection: Connection, key_id: str, tenant: str | None = None) -> KeyInfo:
    """A key; with `tenant` only that tenant's. Raises `Unknown`."""
    query = select(keys).where(keys.c.id == key_id)
    if tenant is not None:
        query = query.where(keys.c.tenant == tenant)
    row = connection.execute(query).mappings().first() if may_exist(key_id) else None
    if row is None:
        raise Unknown(f"no key {key_id[:80]!r}", "key")
    return _info(row)


def revoke_key(connection: Connection, key_id: str) -> KeyInfo:
    """Revoke a key, for good. Raises `Unknown`."""
    info = get_key(connection, key_id)
    if info.revoked_at is None:
        connection.execute(keys.update().where(keys.c.id == key_id).values(revoked_at=time.time()))
    return get_key(connection, key_id)


def rotate_key(connection: Connection, secret: bytes, key_id: str, *, overlap_s: float, expires_at: float | None = None) -> NewKey:
    """Make a key of the same reach that follows this one, which goes on for `overlap_s` seconds at most and then is dead.

    The new one lives as long as the old one was meant to, or until `expires_at`. Raises `Unknown`, and `InvalidName` for a key that is dead
    or was rotated already, for the one that the environment names, and for an overlap that is negative or too long.
    """
    now = time.time()
    # Locked: of two that rotate the same key, one makes its successor.
    connection.execute(select(keys.c.id).where(keys.c.id == key_id).with_for_update())
    old = get_key(connection, key_id)
    if not 0 <= overlap_s <= LONGEST_OVERLAP_S:
        raise InvalidName(f"overlap_s must be from 0 to {LONGEST_OVERLAP_S:.0f} seconds", "overlap_s")
    if old.tenant == PLATFORM and old.name == ADMIN_KEY_NAME:
        raise InvalidName(f"key {old.id} is the one in {ADMIN_KEY_NAME}, and the next start would end its successor; change the variable and restart", "key")
    if old.replaced_by is not None:
        raise InvalidName(f"key {old.id} was rotated already, to {old.replaced_by}; rotate that one", "key")
    if not is_live(old, now):
        raise InvalidName(f"key {old.id} is {'revoked' if old.revoked_at is not None else 'expired'}; make a new one", "key")
    made = create_key(
        connection,
        secret,
        tenant=old.tenant,
        role=old.role,
        name=old.name,
        team=old.team,
        user=old.user,
        scopes=_still_there(connection, old),
        expires_at=expires_at if expires_at is not None else successor_expiry(old, now),
    )
    ends = now + overlap_s if old.expires_at is None else min(old.expires_at, now + overlap_s)
    connection.execute(keys.update().where(keys.c.id == key_id).values(expires_at=ends, replaced_by=made.id))
    return made


def successor_expiry(old: KeyInfo, now: float) -> float | None:
    """When the successor of a key ends: as long from now as the old one was meant to live."""
    return None if old.expires_at is None else now + old.expires_at - old.created_at


def is_live(key: KeyInfo, now: float) -> bool:
    """Whether a key is neither revoked nor expired. Its user or team may still be gone."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def _still_there(connection: Connection, old: KeyInfo) -> Scopes:
    """A key's scopes, without vector stores that were deleted since."""
    if old.stores is None:
        return old.scopes
    left = []
    for store in old.stores:
        try:
            left.append(get_store(connection, old.tenant, store, time.time()).id)
        except NotFound:
            continue
    if not left:
        raise InvalidName(f"all vector stores of key {old.id} are gone; make a new key", "stores")
    return msgspec.structs.replace(old.scopes, stores=tuple(left))


def _info(row: Mapping[Any, Any]) -> KeyInfo:
    shown = {name: row[name] for name in ("id", "tenant", "team", "user", "role", "name", "prefix", "created_at", "expires_at", "revoked_at", "replaced_by")}
    return KeyInfo(**shown, **msgspec.structs.asdict(scopes_of(row)))
