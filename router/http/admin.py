"""Administration: the policy's life, tenants, keys, backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from litestar import MediaType, Response, delete, get, post, put
from litestar.params import FromPath, FromQuery
from msgspec import Meta, Struct

from config.yamlfile import Problem
from policies.access import may_grant
from policies.load import PolicyError, load_policy
from router import auth, policy_store
from router.backends import try_backends
from router.embedding import candidates
from router.http.context import HttpRequest, gateway_of, principal_of
from router.http.errors import ApiError, decode_body
from router.http.scope import tenant_scope
from router.policy_in_force import known_price

if TYPE_CHECKING:
    from router.gateway import Gateway

YAML = "application/yaml"
Body = TypeVar("Body")


class NewTenant(Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class NewKeyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """An absent `tenant` makes a platform key."""

    role: str
    tenant: str = auth.PLATFORM
    name: Annotated[str, Meta(max_length=auth.LONGEST_NAME)] = ""
    models: tuple[str, ...] | None = None
    expires_at: float | None = None


class Rollback(Struct, frozen=True, forbid_unknown_fields=True):
    version: int


class Validation(Struct, frozen=True):
    """Whether a policy can be put in force, and every reason why not."""

    valid: bool
    problems: tuple[Problem, ...] = ()


async def _decode(request: HttpRequest, into: type[Body]) -> Body:
    return decode_body(await request.body(), into)


# --- policy ----------------------------------------------------------------------------------------------------------------------------------


@get("/admin/policy", tags=["policy"], summary="The policy in force, as YAML, with its ETag", media_type=MediaType.TEXT)
async def get_policy(request: HttpRequest) -> Response[str]:
    """The text that is active now; send its ETag back in `If-Match` to change it."""
    gateway = gateway_of(request)
    gateway.require(principal_of(request), "policy.read")
    version = await gateway.database.read(policy_store.active_version)
    assert version is not None, "a policy is imported before the first worker starts"
    return Response(version.text, media_type=YAML, headers={"etag": version.etag, "x-headgate-policy": str(version.version)})


@put("/admin/policy", status_code=200, tags=["policy"], summary="Put a new policy in force")
async def put_policy(request: HttpRequest) -> Response[dict[str, Any]]:
    """The body is YAML. `If-Match` must name the version in force (428 without it, 412 when another one is). Never writes the file."""
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "policy.write")
    expected = request.headers.get("if-match")
    if expected is None:
        raise ApiError(428, "if_match_required", "Send If-Match with the ETag of GET /admin/policy, so that nobody's change is lost.")
    text = await _policy_text(request)
    validation = await _validate(text, gateway)
    if not validation.valid:
        raise ApiError(400, "invalid_policy", _first_lines(validation.problems), param=validation.problems[0].path or None)
    try:
        version = await gateway.database.write(
            lambda connection: policy_store.add_version(connection, text, source="api", author=principal.key_id, expected=None if expected == "*" else expected)
        )
    except policy_store.Conflict as error:
        raise ApiError(412, "policy_changed", "The policy was changed meanwhile: read GET /admin/policy again and repeat your change.") from error
    await gateway.policy.refresh()
    return Response(_shown(version), headers={"etag": version.etag})


@post("/admin/policy/validate", status_code=200, tags=["policy"], summary="Check a policy without putting it in force")
async def validate_policy(request: HttpRequest) -> Validation:
    """The body is YAML; every problem comes with line, column and, where one is near, a suggestion."""
    gateway = gateway_of(request)
    gateway.require(principal_of(request), "policy.read")
    return await _validate(await _policy_text(request), gateway)


@get("/admin/policy/versions", tags=["policy"], summary="Every policy that was ever active")
async def policy_versions(request: HttpRequest) -> dict[str, Any]:
    gateway = gateway_of(request)
    gateway.require(principal_of(request), "policy.read")
    return {"data": [_shown(version) for version in await gateway.database.read(policy_store.list_versions)]}


@post("/admin/policy/rollback", status_code=200, tags=["policy"], summary="Make an earlier version active again")
async def rollback_policy(request: HttpRequest) -> dict[str, Any]:
    gateway = gateway_of(request)
    gateway.require(principal_of(request), "policy.write")
    wanted = (await _decode(request, Rollback)).version
    earlier = await gateway.database.read(lambda connection: policy_store.get_version(connection, wanted))
    if earlier is None:
        raise ApiError(404, "version_not_found", f"No policy version {wanted}. See GET /admin/policy/versions.", param="version")
    validation = await _validate(earlier.text, gateway, from_file=earlier.source == "file")
    if not validation.valid:
        raise ApiError(409, "invalid_policy", "That version is not valid any more: " + _first_lines(validation.problems), param="version")
    version = await gateway.database.write(lambda connection: policy_store.activate(connection, wanted))
    assert version is not None
    await gateway.policy.refresh()
    return _shown(version)


async def _policy_text(request: HttpRequest) -> str:
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid_policy", f"The policy is not UTF-8: {error}.") from error


async def _validate(text: str, gateway: Gateway, *, from_file: bool = False) -> Validation:
    trusted = from_file or gateway.settings.allow_private_backends
    try:
        policy = load_policy(text, "policy.yaml", price_of=known_price, private_addresses=trusted)
        await try_backends(policy, gateway.policy.environ)
    except PolicyError as error:
        return Validation(False, tuple(error.problems))
    return Validation(True)


def _first_lines(problems: tuple[Problem, ...]) -> str:
    return "; ".join(f"line {problem.line}, column {problem.column}: {problem}" for problem in problems[:5])


def _shown(version: policy_store.PolicyVersion) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(version)
    shown.pop("text")
    return shown


# --- tenants and keys ------------------------------------------------------------------------------------------------------------------------


@get("/admin/tenants", tags=["tenants"], summary="List tenants")
async def get_tenants(request: HttpRequest) -> dict[str, Any]:
    """All of them for the platform's keys; a tenant's own keys see their tenant."""
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "tenants.read")
    scope = tenant_scope(principal, None)
    return {"data": await gateway.database.read(lambda connection: auth.list_tenants(connection, scope))}


@post("/admin/tenants", status_code=200, tags=["tenants"], summary="Make a tenant")
async def post_tenant(request: HttpRequest) -> dict[str, Any]:
    gateway = gateway_of(request)
    gateway.require(principal_of(request), "tenants.write")
    name = (await _decode(request, NewTenant)).name
    try:
        await gateway.database.write(lambda connection: auth.create_tenant(connection, name))
    except auth.InvalidName as error:
        raise ApiError(400, "invalid_name", f"{error}.", param="name") from error
    except auth.Exists as error:
        raise ApiError(409, "exists", f"{error}.", param="name") from error
    return {"name": name}


@get("/admin/keys", tags=["tenants"], summary="List keys, without their secrets")
async def get_keys(request: HttpRequest, tenant: FromQuery[str | None] = None) -> dict[str, Any]:
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "keys.read")
    scope = tenant_scope(principal, tenant)
    return {"data": await gateway.database.read(lambda connection: auth.list_keys(connection, scope))}


@post("/admin/keys", status_code=200, tags=["tenants"], summary="Make a key; it is shown this once")
async def post_key(request: HttpRequest) -> auth.NewKey:
    """A tenant's own administrators make keys of their tenant; only an operator makes another tenant's, or the platform's."""
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "keys.write")
    body = await _decode(request, NewKeyBody)
    if not principal.platform and body.tenant != principal.tenant:
        raise ApiError(403, "not_permitted", "You may make keys of your own tenant only.", param="tenant")
    if not may_grant(principal, body.role, body.models):
        param = "models" if may_grant(principal, body.role, principal.allowed_models) else "role"
        raise ApiError(403, "not_permitted", "A key may not do more than the key that makes it.", param=param)
    try:
        return await gateway.database.write(
            lambda connection: auth.create_key(
                connection, gateway.secret, tenant=body.tenant, role=body.role, name=body.name, models=body.models, expires_at=body.expires_at
            )
        )
    except auth.Unknown as error:
        raise ApiError(404, "tenant_not_found", f"{error}.", param="tenant") from error
    except auth.InvalidName as error:
        raise ApiError(400, "invalid_role", f"{error}.", param="role") from error


@delete("/admin/keys/{key_id:str}", status_code=200, tags=["tenants"], summary="Revoke a key")
async def revoke_key(request: HttpRequest, key_id: FromPath[str]) -> auth.KeyInfo:
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "keys.write")
    try:
        info = await gateway.database.read(lambda connection: auth.get_key(connection, key_id))
        if not principal.platform and info.tenant != principal.tenant:
            raise auth.Unknown(f"no key {key_id!r}")
        if not may_grant(principal, info.role, principal.allowed_models):
            raise ApiError(403, "not_permitted", f"The role {principal.role!r} may not revoke a key of role {info.role!r}.")
        return await gateway.database.write(lambda connection: auth.revoke_key(connection, key_id))
    except auth.Unknown as error:
        raise ApiError(404, "key_not_found", f"{error}.") from error


# --- backends -------------------------------------------------------------------------------------------------------------------------------


@get("/admin/backends", tags=["operations"], summary="What is configured, and whether it is ready")
async def get_backends(request: HttpRequest) -> dict[str, Any]:
    gateway = gateway_of(request)
    gateway.require(principal_of(request), "backends.read")
    active = gateway.policy.current
    return {
        "data": [
            {
                "name": name,
                "kind": active.policy.backends[name].spec.kind,
                "provider": backend.provider,
                "model": backend.model,
                "capabilities": backend.capabilities,
                "price": active.price(name),
                "health": health,
                "circuit": active.circuit(name),
                "rate_limit": active.rate_limits.get(name),
            }
            for (name, backend), health in zip(active.backends.items(), active.health.values(), strict=True)
        ],
        "embedders": [
            {
                "name": name,
                "provider": each.embedder.provider,
                "model": each.embedder.model,
                "clearance": each.clearance,
                "price": each.price,
                "health": each.embedder.health(),
            }
            for name, each in candidates(gateway, active).items()
        ],
    }


handlers = (
    get_policy,
    put_policy,
    validate_policy,
    policy_versions,
    rollback_policy,
    get_tenants,
    post_tenant,
    get_keys,
    post_key,
    revoke_key,
    get_backends,
)
