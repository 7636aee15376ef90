"""`/admin/tenants`, `/admin/teams`, `/admin/users` and `/admin/keys`: who may ask. A tenant's administrators see and change their own tenant only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from litestar import delete, get, patch, post
from litestar.params import FromPath, FromQuery
from msgspec import UNSET, Meta, Struct, UnsetType, structs
from sqlalchemy import Connection

from adapters.backend import DataClass
from policies.access import Principal, RouteGroup, Scopes, TenantRole, may_appoint, may_grant, narrowed
from router.audit.erasing import Erased, erase_user
from router.audit.identities import key_made, key_revoked, key_rotated, team_changes, team_made, user_changes, user_made
from router.audit.log import Entry, Subject
from router.gateway import Gateway
from router.http.context import HttpRequest, actor_of, gateway_of, own_tenant, principal_of
from router.http.errors import ApiError, decode_body
from router.identity import keys, teams, tenants, users
from router.identity.errors import Exists, InvalidName, Unknown
from router.identity.keys import KeyInfo, NewKey
from router.identity.teams import Team
from router.identity.tenants import PLATFORM
from router.identity.users import User, is_recorded

T = TypeVar("T")
Names = Annotated[tuple[str, ...], Meta(min_length=1, max_length=keys.MOST)]
"""Some of a key's scopes: at least one, for without any the key could do nothing."""


class NewTenant(Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class NewTeam(Struct, frozen=True, forbid_unknown_fields=True):
    """Without `tenant`, in the tenant of the key that asks; the platform's keys name one."""

    name: str
    tenant: str | None = None


class ChangedTeam(Struct, frozen=True, forbid_unknown_fields=True):
    name: str | None = None
    archived: bool | None = None


class NewUser(Struct, frozen=True, forbid_unknown_fields=True):
    """Without `tenant`, in the tenant of the key that asks; the platform's keys name one."""

    role: TenantRole
    tenant: str | None = None
    team: str | None = None
    subject: str | None = None
    email: str | None = None
    display_name: str | None = None


class ChangedUser(Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out stays; null takes it away."""

    team: str | UnsetType | None = UNSET
    role: TenantRole | UnsetType = UNSET
    subject: str | UnsetType | None = UNSET
    email: str | UnsetType | None = UNSET
    display_name: str | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET


class Erasure(Struct, frozen=True, forbid_unknown_fields=True):
    """No fields: the path says who."""


class NewKeyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """An absent `tenant` makes a platform key. Without `user` the key is of the user who makes it, where they are on record; null is nobody's."""

    role: str
    tenant: str = PLATFORM
    name: Annotated[str, Meta(max_length=keys.LONGEST_NAME)] = ""
    team: str | None = None
    user: str | UnsetType | None = UNSET
    expires_at: float | None = None
    models: Annotated[tuple[str, ...], Meta(max_length=keys.MOST)] | None = None
    routes: Annotated[tuple[RouteGroup, ...], Meta(min_length=1)] | None = None
    stores: Names | None = None
    networks: Names | None = None
    max_data_class: DataClass = "restricted"

    @property
    def scopes(self) -> Scopes:
        return Scopes(models=self.models, routes=self.routes, stores=self.stores, networks=self.networks, max_data_class=self.max_data_class)


class Rotation(Struct, frozen=True, forbid_unknown_fields=True):
    """`overlap_s` is how long the old key goes on, in seconds; `expires_at` when the new one ends, else as long from now as the old one was meant to live."""

    overlap_s: Annotated[float, Meta(ge=0, le=keys.LONGEST_OVERLAP_S)] = 0.0
    expires_at: float | None = None


# --- tenants ---------------------------------------------------------------------------------------------------------------------------------


@get("/admin/tenants", tags=["tenants"], summary="List tenants")
async def get_tenants(request: HttpRequest) -> dict[str, Any]:
    """All of them for the platform's keys; a tenant's own keys see their tenant."""
    gateway = gateway_of(request)
    scope = own_tenant(principal_of(request), None)
    return {"data": await gateway.database.read(lambda connection: tenants.list_tenants(connection, scope))}


@post("/admin/tenants", status_code=200, tags=["tenants"], summary="Make a tenant")
async def post_tenant(request: HttpRequest) -> dict[str, Any]:
    name = decode_body(await request.body(), NewTenant).name
    made = Subject("tenant", name, name)
    try:
        await gateway_of(request).audit.change(actor_of(request), "tenant.create", made, lambda connection: tenants.create_tenant(connection, name))
    except InvalidName as error:
        raise ApiError(400, "invalid_name", f"{error}.", param="name") from error
    except Exists as error:
        raise ApiError(409, "exists", f"{error}.", param="name") from error
    return {"name": name}


# --- teams -----------------------------------------------------------------------------------------------------------------------------------


@get("/admin/teams", tags=["tenants"], summary="List teams")
async def get_teams(request: HttpRequest, tenant: FromQuery[str | None] = None) -> dict[str, Any]:
    scope = own_tenant(principal_of(request), tenant)
    return {"data": await gateway_of(request).database.read(lambda connection: teams.list_teams(connection, scope))}


@post("/admin/teams", status_code=200, tags=["tenants"], summary="Make a team")
async def post_team(request: HttpRequest) -> Team:
    body = decode_body(await request.body(), NewTeam)
    tenant, actor = _tenant_named(principal_of(request), body.tenant), actor_of(request)

    def work(connection: Connection) -> tuple[Team, list[Entry]]:
        team = teams.create_team(connection, tenant, body.name)
        return team, [team_made(actor, team)]

    return await _write(gateway_of(request), work)


@get("/admin/teams/{team_id:str}", tags=["tenants"], summary="One team")
async def get_team(request: HttpRequest, team_id: FromPath[str]) -> Team:
    scope = own_tenant(principal_of(request), None)
    return await _read(gateway_of(request), lambda connection: teams.get_team(connection, team_id, scope))


@patch("/admin/teams/{team_id:str}", tags=["tenants"], summary="Rename a team, archive it or bring it back")
async def patch_team(request: HttpRequest, team_id: FromPath[str]) -> Team:
    """The keys of an archived team are dead in every worker within a second; those of its users too. Only an owner does that to one with owners in it."""
    principal, actor = principal_of(request), actor_of(request)
    scope = own_tenant(principal, None)
    body = decode_body(await request.body(), ChangedTeam)

    def work(connection: Connection) -> tuple[Team, list[Entry]]:
        before = teams.get_team(connection, team_id, scope)
        if body.archived is False:
            _require_wide(principal)
        if body.archived is not None and not may_appoint(principal, "owner") and teams.holds_an_owner(connection, team_id):
            raise ApiError(403, "not_permitted", "An owner, or an owner's key, is in this team: only an owner archives it or brings it back.", param="archived")
        after = teams.change_team(connection, team_id, name=body.name, archived=body.archived)
        return after, team_changes(actor, before, after)

    return await _write(gateway_of(request), work)


# --- users -----------------------------------------------------------------------------------------------------------------------------------


@get("/admin/users", tags=["tenants"], summary="List users")
async def get_users(request: HttpRequest, tenant: FromQuery[str | None] = None, team: FromQuery[str | None] = None) -> dict[str, Any]:
    gateway, scope = gateway_of(request), own_tenant(principal_of(request), tenant)
    found = await gateway.database.read(lambda connection: users.list_users(connection, scope, team))
    await gateway.audit.note(actor_of(request), "user.read", Subject("users", "", scope or "", {"count": len(found)}))
    return {"data": found}


@post("/admin/users", status_code=200, tags=["tenants"], summary="Make a user")
async def post_user(request: HttpRequest) -> User:
    """`subject` is the identity provider's name for the user; an owner gives it. Nobody makes one who may do more than they may themselves."""
    principal, actor = principal_of(request), actor_of(request)
    body = decode_body(await request.body(), NewUser)
    tenant = _tenant_named(principal, body.tenant)
    _require_wide(principal)
    _require_appointable(principal, body.role)
    if body.subject is not None:
        _require_subject(principal)
    about = structs.asdict(body)
    del about["tenant"]

    def work(connection: Connection) -> tuple[User, list[Entry]]:
        user = users.create_user(connection, tenant, **about)
        return user, [user_made(actor, user)]

    return await _write(gateway_of(request), work)


@get("/admin/users/{user_id:str}", tags=["tenants"], summary="One user")
async def get_user(request: HttpRequest, user_id: FromPath[str]) -> User:
    gateway, scope = gateway_of(request), own_tenant(principal_of(request), None)
    user = await _read(gateway, lambda connection: users.get_user(connection, user_id, scope))
    await gateway.audit.note(actor_of(request), "user.read", Subject("user", user.id, user.tenant))
    return user


@patch("/admin/users/{user_id:str}", tags=["tenants"], summary="Change a user's team, role or names, disable them or let them in again")
async def patch_user(request: HttpRequest, user_id: FromPath[str]) -> User:
    """The keys of a disabled user are dead in every worker within a second; those of a user with a lesser role may do no more than that.

    Only an owner changes a `subject`.
    """
    gateway, principal, actor = gateway_of(request), principal_of(request), actor_of(request)
    scope = own_tenant(principal, None)
    body = decode_body(await request.body(), ChangedUser)
    changes = {field: value for field, value in structs.asdict(body).items() if value is not UNSET}

    def work(connection: Connection) -> tuple[User, list[Entry]]:
        user = users.get_user(connection, user_id, scope)
        if changes.keys() - {"disabled"} or body.disabled is False:
            _require_wide(principal)
        for role in (user.role, body.role):
            if role is not UNSET:
                _require_appointable(principal, role)
        if body.subject is not UNSET and body.subject != user.subject:
            _require_subject(principal)
        after = users.change_user(connection, user_id, gateway.secret, **changes)
        return after, user_changes(actor, user, after)

    return await _write(gateway, work)


@post("/admin/users/{user_id:str}/erase", status_code=200, tags=["tenants"], summary="Erase what is kept of a user, and their names, for good")
async def erase(request: HttpRequest, user_id: FromPath[str]) -> Erased:
    """Their keys are dead in every worker within a second. Only an owner erases an owner."""
    gateway, principal, actor = gateway_of(request), principal_of(request), actor_of(request)
    scope = own_tenant(principal, None)
    decode_body(await request.body() or b"{}", Erasure)
    await gateway.recorder.flush()

    def work(connection: Connection) -> tuple[Erased, list[Entry]]:
        _require_appointable(principal, users.get_user(connection, user_id, scope).role)
        done = erase_user(connection, user_id, gateway.secret, scope)
        return done, [Entry(actor, "user.erase", Subject("user", done.user, done.tenant, {"deleted": done.deleted}))]

    return await _write(gateway, work)


# --- keys ------------------------------------------------------------------------------------------------------------------------------------


@get("/admin/keys", tags=["tenants"], summary="List keys, without their secrets")
async def get_keys(
    request: HttpRequest, tenant: FromQuery[str | None] = None, team: FromQuery[str | None] = None, user: FromQuery[str | None] = None
) -> dict[str, Any]:
    gateway, scope = gateway_of(request), own_tenant(principal_of(request), tenant)
    found = await gateway.database.read(lambda connection: keys.list_keys(connection, scope, team, user))
    await gateway.audit.note(actor_of(request), "key.read", Subject("keys", "", scope or "", {"count": len(found)}))
    return {"data": found}


@get("/admin/keys/{key_id:str}", tags=["tenants"], summary="One key, without its secret")
async def get_key(request: HttpRequest, key_id: FromPath[str]) -> KeyInfo:
    gateway, scope = gateway_of(request), own_tenant(principal_of(request), None)
    key = await _read(gateway, lambda connection: keys.get_key(connection, key_id, scope))
    await gateway.audit.note(actor_of(request), "key.read", Subject("key", key.id, key.tenant))
    return key


@post("/admin/keys", status_code=200, tags=["tenants"], summary="Make a key; it is shown this once")
async def post_key(request: HttpRequest) -> NewKey:
    """A tenant's own administrators make keys of their tenant; only an operator makes another tenant's, or the platform's.

    Who is a user on record makes keys of that user, which are dead once they are disabled, unless the body names another `user`, or none by null.
    """
    gateway, principal, actor = gateway_of(request), principal_of(request), actor_of(request)
    body = decode_body(await request.body(), NewKeyBody)
    if not principal.platform and body.tenant != principal.tenant:
        raise ApiError(403, "not_permitted", "You may make keys of your own tenant only.", param="tenant")
    _require_grantable(principal, body.role, body.scopes, body.expires_at)
    if body.expires_at is not None and body.expires_at <= time.time():
        raise ApiError(400, "invalid_request", "expires_at: is in the past; give seconds since the epoch.", param="expires_at")

    user = (principal.user if is_recorded(principal.user) else None) if body.user is UNSET else body.user

    def work(connection: Connection) -> tuple[NewKey, list[Entry]]:
        about = {"tenant": body.tenant, "role": body.role, "name": body.name, "team": body.team, "user": user}
        made = keys.create_key(connection, gateway.secret, **about, scopes=body.scopes, expires_at=body.expires_at)  # type: ignore[arg-type]
        return made, [key_made(actor, keys.get_key(connection, made.id))]

    return await _write(gateway, work)


@post("/admin/keys/{key_id:str}/rotate", status_code=200, tags=["tenants"], summary="Make a key that follows another; it is shown this once")
async def rotate_key(request: HttpRequest, key_id: FromPath[str]) -> NewKey:
    """The new key reaches what the old one does. The old one goes on for `overlap_s` seconds, so that whoever uses it can change over."""
    gateway, principal, actor = gateway_of(request), principal_of(request), actor_of(request)
    scope = own_tenant(principal, None)
    body = decode_body(await request.body() or b"{}", Rotation)

    def work(connection: Connection) -> tuple[NewKey, list[Entry]]:
        old, now = keys.get_key(connection, key_id, scope), time.time()
        ends = body.expires_at if body.expires_at is not None else keys.successor_expiry(old, now)
        if ends is not None and ends <= now:
            raise ApiError(400, "invalid_request", "expires_at: is in the past; give seconds since the epoch.", param="expires_at")
        _require_grantable(principal, old.role, old.scopes, ends)
        made = keys.rotate_key(connection, gateway.secret, key_id, overlap_s=body.overlap_s, expires_at=ends)
        return made, key_rotated(actor, keys.get_key(connection, key_id), keys.get_key(connection, made.id))

    return await _write(gateway, work)


@delete("/admin/keys/{key_id:str}", status_code=200, tags=["tenants"], summary="Revoke a key")
async def revoke_key(request: HttpRequest, key_id: FromPath[str]) -> KeyInfo:
    principal, actor = principal_of(request), actor_of(request)
    scope = own_tenant(principal, None)

    def work(connection: Connection) -> tuple[KeyInfo, list[Entry]]:
        info = keys.get_key(connection, key_id, scope)
        if not may_appoint(principal, info.role):
            raise ApiError(403, "not_permitted", f"The role {principal.role!r} may not revoke a key of role {info.role!r}.")
        return keys.revoke_key(connection, key_id), key_revoked(actor, info)

    return await _write(gateway_of(request), work)


# --- what the routes share -------------------------------------------------------------------------------------------------------------------


def _tenant_named(principal: Principal, tenant: str | None) -> str:
    """The tenant that something is made in. Another's is answered as one that does not exist."""
    named = own_tenant(principal, tenant)
    if named is None:
        raise ApiError(400, "invalid_request", "tenant: is missing; a key of the platform names the tenant.", param="tenant")
    return named


def _require_appointable(principal: Principal, role: str) -> None:
    if not may_appoint(principal, role):
        raise ApiError(403, "not_permitted", f"The role {principal.role!r} may not make or change a user of role {role!r}.", param="role")


def _require_subject(principal: Principal) -> None:
    """A record with a subject bounds whoever comes with a token of that name, and without it they have the token's role: it may make an owner less,
    or somebody more. So it takes an owner, as all that is done to owners does."""
    if not may_appoint(principal, "owner"):
        raise ApiError(403, "not_permitted", "Only an owner gives a user a subject, changes it or takes it away.", param="subject")


def _require_wide(principal: Principal) -> None:
    """A user may sign in with all that their role may do, so a key that may do less than its role makes nobody and lets nobody in, a team's people
    included."""
    if narrowed(principal):
        raise ApiError(403, "not_permitted", "This key is limited beneath its role: it may disable users and archive teams, and lets nobody in.")


def _require_grantable(principal: Principal, role: str, scopes: Scopes, expires_at: float | None) -> None:
    field = may_grant(principal, role, scopes, expires_at)
    if field is not None:
        raise ApiError(403, "not_permitted", "A key may not do more, from elsewhere or for longer than the key that makes it.", param=field)


async def _read(gateway: Gateway, work: Callable[[Connection], T]) -> T:
    try:
        return await gateway.database.read(work)
    except Unknown as error:
        raise _missing(error) from error


async def _write(gateway: Gateway, work: Callable[[Connection], tuple[T, Sequence[Entry]]]) -> T:
    """Do the work and record it, in one transaction."""
    try:
        return await gateway.database.write(gateway.audit.recorded(work))
    except Unknown as error:
        raise _missing(error) from error
    except InvalidName as error:
        raise _invalid(error) from error
    except Exists as error:
        raise ApiError(409, "exists", f"{error}.", param=error.field) from error


def _invalid(error: InvalidName) -> ApiError:
    if error.field == "role":
        return ApiError(400, "invalid_role", f"{error}.", param="role")
    return ApiError(400, "invalid_request", f"{error.field}: {error}.", param=error.field)


def _missing(error: Unknown) -> ApiError:
    match error.kind:
        case "tenant":
            return ApiError(404, "tenant_not_found", f"{error}.", param=error.field)
        case "team":
            return ApiError(404, "team_not_found", f"{error}.", param=error.field)
        case "user":
            return ApiError(404, "user_not_found", f"{error}.", param=error.field)
        case "key":
            return ApiError(404, "key_not_found", f"{error}.")
        case _:
            return ApiError(404, "vector_store_not_found", f"{error}.", param=error.field)


handlers = (
    get_tenants,
    post_tenant,
    get_teams,
    post_team,
    get_team,
    patch_team,
    get_users,
    post_user,
    get_user,
    patch_user,
    erase,
    get_keys,
    get_key,
    post_key,
    rotate_key,
    revoke_key,
)
