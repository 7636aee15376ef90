"""Users of a tenant: the people (or machines) that keys and bearer tokens act for."""

from __future__ import annotations

import hmac
import time
import uuid
from typing import get_args

import msgspec
from msgspec import UNSET, Struct, UnsetType
from sqlalchemy import Connection, false, insert, select, update

from policies.access import TENANT_ROLES, TenantRole
from router.identity.errors import Exists, InvalidName, Unknown, may_exist
from router.identity.tables import former_subjects, keys, users
from router.identity.teams import live_team
from router.identity.tenants import require_tenant

LONGEST = {"subject": 255, "email": 320, "display_name": 200}
ERASED_NAME = "erased"
"""What the keys of an erased user are called."""
_PREFIX = "user_"


class User(Struct, frozen=True, kw_only=True):
    """A user. The keys of one that is disabled or erased are dead; an erased one has neither subject nor names, and never comes back.

    `subject` is the identity provider's name for them, unique in the tenant. `role` bounds what their keys may do.
    """

    id: str
    tenant: str
    team: str | None = None
    subject: str | None = None
    email: str | None = None
    display_name: str | None = None
    role: TenantRole
    created_at: float
    disabled_at: float | None = None
    erased_at: float | None = None


_SELECT = select(*(users.c[name] for name in User.__struct_fields__))


def create_user(
    connection: Connection,
    tenant: str,
    *,
    role: str,
    team: str | None = None,
    subject: str | None = None,
    email: str | None = None,
    display_name: str | None = None,
) -> User:
    """Raises `Unknown` for the tenant or the team, `InvalidName` for a value that cannot be, `Exists` for a subject that is somebody's."""
    require_tenant(connection, tenant)
    names = {"subject": subject, "email": email, "display_name": display_name}
    for field, value in names.items():
        _check(field, value)
    if team is not None:
        live_team(connection, tenant, team)
    user_id = _PREFIX + uuid.uuid4().hex[:24]
    _require_free(connection, tenant, user_id, subject)
    row = {"id": user_id, "tenant": tenant, "team": team, "role": _role(role), "created_at": time.time(), **names}
    connection.execute(insert(users), row)
    return get_user(connection, user_id)


def list_users(connection: Connection, tenant: str | None = None, team: str | None = None) -> list[User]:
    """Every user, or one tenant's, or one team's; oldest first."""
    query = _SELECT.order_by(users.c.created_at, users.c.id)
    if tenant is not None:
        query = query.where(users.c.tenant == tenant if may_exist(tenant) else false())
    if team is not None:
        query = query.where(users.c.team == team if may_exist(team) else false())
    return [User(**row) for row in connection.execute(query).mappings()]


def get_user(connection: Connection, user_id: str, tenant: str | None = None, *, locked: bool = False) -> User:
    """A user; with `tenant` only that tenant's; `locked` until the transaction ends. Raises `Unknown`."""
    query = _SELECT.where(users.c.id == user_id)
    if locked:
        query = query.with_for_update()
    if tenant is not None:
        query = query.where(users.c.tenant == tenant)
    row = connection.execute(query).mappings().first() if may_exist(user_id) else None
    if row is None:
        raise Unknown(f"no user {user_id[:80]!r}", "user")
    return User(**row)


def live_user(connection: Connection, tenant: str, user_id: str) -> User:
    """A user that a key can be made for. Raises `Unknown`, and `InvalidName` for one that is disabled or erased."""
    user = get_user(connection, user_id, tenant, locked=True)  # whoever erases the user meanwhile finds the key, and its name with it
    if user.disabled_at is not None or user.erased_at is not None:
        raise InvalidName(f"user {user.id} is {'erased' if user.erased_at is not None else 'disabled'}; a key of theirs would be dead", "user")
    return user


def change_user(
    connection: Connection,
    user_id: str,
    secret: bytes,
    *,
    team: str | UnsetType | None = UNSET,
    role: str | UnsetType = UNSET,
    subject: str | UnsetType | None = UNSET,
    email: str | UnsetType | None = UNSET,
    display_name: str | UnsetType | None = UNSET,
    disabled: bool | UnsetType = UNSET,
) -> User:
    """Change what is given; None takes a value away. Raises as `create_user`, and `InvalidName` for a user that was erased.

    Of a subject that goes a mark stays under `secret`, the service's: whoever is erased later is refused by every subject that they had.
    """
    user = get_user(connection, user_id, locked=True)
    if user.erased_at is not None:
        raise InvalidName(f"user {user.id} was erased and cannot be changed; make a new one", "user")
    given = {"team": team, "role": role, "subject": subject, "email": email, "display_name": display_name}
    values: dict[str, object] = {field: value for field, value in given.items() if value is not UNSET}
    for field in LONGEST:
        _check(field, values.get(field))
    if isinstance(team, str):
        live_team(connection, user.tenant, team)
    if isinstance(role, str):
        values["role"] = _role(role)
    if isinstance(subject, str):
        _require_free(connection, user.tenant, user_id, subject)
    if disabled is not UNSET and disabled != (user.disabled_at is not None):
        values["disabled_at"] = time.time() if disabled else None
    if user.subject is not None and values.get("subject", user.subject) != user.subject:
        _mark_subject(connection, secret, user)
    if values:
        connection.execute(update(users).where(users.c.id == user_id).values(values))
    return get_user(connection, user_id)


def forget_user(connection: Connection, user_id: str, secret: bytes, tenant: str | None = None) -> User:
    """Take away what names a user, for good: subject, e-mail, display name, and the names of their keys, which are dead from now on. Raises `Unknown`.

    Of the subject a mark stays under `secret`, by which their tokens are refused.
    """
    user = get_user(connection, user_id, tenant, locked=True)
    names: dict[str, str | None] = {"subject": None, "email": None, "display_name": None}
    if user.subject is not None:
        _mark_subject(connection, secret, user)
    connection.execute(update(users).where(users.c.id == user_id).values(**names, erased_at=time.time() if user.erased_at is None else user.erased_at))
    connection.execute(update(keys).where(keys.c.user == user_id, keys.c.name != "").values(name=ERASED_NAME))
    return get_user(connection, user_id)


def was_erased(connection: Connection, secret: bytes, tenant: str, subject: str) -> bool:
    """Whether a subject is, or once was, that of a user who was erased under this secret."""
    erased = select(users.c.id).join(former_subjects, former_subjects.c.user == users.c.id).where(users.c.erased_at.is_not(None))
    return connection.execute(erased.where(former_subjects.c.mark == subject_mark(secret, tenant, subject)).limit(1)).first() is not None


def _mark_subject(connection: Connection, secret: bytes, user: User) -> None:
    """Keep the mark of the subject that a user, who is locked, has now."""
    assert user.subject is not None, "whoever has none leaves no mark"
    row = {"mark": subject_mark(secret, user.tenant, user.subject), "user": user.id}
    if connection.execute(select(former_subjects.c.user).where(*(former_subjects.c[name] == value for name, value in row.items()))).first() is None:
        connection.execute(insert(former_subjects), row)


def subject_mark(secret: bytes, tenant: str, subject: str) -> str:
    """What stays of a subject that a user had: it tells whether a subject is theirs, to whoever has the secret, and nothing else."""
    return hmac.digest(secret, msgspec.json.encode(["erased subject", tenant, subject]), "sha256").hex()


def is_recorded(user: str) -> bool:
    """Whether a principal's user is one on record, not the hash of a token's or certificate's holder, nor nobody."""
    return user.startswith(_PREFIX)


def _role(role: str) -> TenantRole:
    for known in get_args(TenantRole):
        if role == known:
            return known  # type: ignore[no-any-return]
    raise InvalidName(f"role {role[:40]!r} is not one of {', '.join(TENANT_ROLES)}")


def _check(field: str, value: object) -> None:
    if isinstance(value, str) and not (1 <= len(value) <= LONGEST[field] and value.isprintable()):
        raise InvalidName(f"{field} has 1 to {LONGEST[field]} characters and no line breaks; leave it out for none", field)


def _require_free(connection: Connection, tenant: str, user_id: str, subject: str | None) -> None:
    """The message names nobody: a subject may be a person's address."""
    if subject is not None:
        taken = connection.execute(select(users.c.id).where(users.c.tenant == tenant, users.c.subject == subject, users.c.id != user_id)).first()
        if taken is not None:
            raise Exists(f"tenant {tenant!r} has a user with this subject already, {taken.id}", "subject")
