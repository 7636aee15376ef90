"""Administration: the policy's life, alerts, backends. Tenants, teams, users and keys: `identity`; usage and the ledger: `usage`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from litestar import MediaType, Response, get, post, put
from litestar.params import FromQuery
from msgspec import Meta, Struct

from config.yamlfile import Problem
from policies.load import PolicyError, load_policy
from router import policy_store
from router.alerts import book as alert_book
from router.alerts.shown import shown as shown_alert
from router.audit.changes import recorded_policy
from router.audit.log import Subject
from router.backends import try_backends
from router.embedding import candidates
from router.http.context import HttpRequest, actor_of, gateway_of, own_tenant, principal_of
from router.http.errors import ApiError, decode_body
from router.policy_in_force import known_price

if TYPE_CHECKING:
    from router.gateway import Gateway

YAML = "application/yaml"
Body = TypeVar("Body")
LAST_VERSION = 2**31 - 1
"""More than the database's column can count are never made."""


class Rollback(Struct, frozen=True, forbid_unknown_fields=True):
    version: Annotated[int, Meta(ge=1, le=LAST_VERSION)]


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
    version = await gateway.database.read(policy_store.active_version)
    assert version is not None, "a policy is imported before the first worker starts"
    await gateway.audit.note(actor_of(request), "policy.read", Subject("policy", str(version.version)))
    return Response(version.text, media_type=YAML, headers={"etag": version.etag, "x-headgate-policy": str(version.version)})


@put("/admin/policy", status_code=200, tags=["policy"], summary="Put a new policy in force")
async def put_policy(request: HttpRequest) -> Response[dict[str, Any]]:
    """The body is YAML. `If-Match` must name the version in force (428 without it, 412 when another one is). Never writes the file."""
    gateway, principal = gateway_of(request), principal_of(request)
    expected = request.headers.get("if-match")
    if expected is None:
        raise ApiError(428, "if_match_required", "Send If-Match with the ETag of GET /admin/policy, so that nobody's change is lost.")
    text = await _policy_text(request)
    validation = await _validate(text, gateway)
    if not validation.valid:
        raise ApiError(400, "invalid_policy", _first_lines(validation.problems), param=validation.problems[0].path or None)
    try:
        author, wanted = principal.key_id, None if expected == "*" else expected
        work = recorded_policy(
            gateway.audit,
            actor_of(request),
            "policy.put",
            lambda connection: policy_store.add_version(connection, text, source="api", author=author, expected=wanted),
        )
        version = await gateway.database.write(work)
    except policy_store.Conflict as error:
        await gateway.audit.note(actor_of(request), "policy.put", Subject("policy"), "refused")
        raise ApiError(412, "policy_changed", "The policy was changed meanwhile: read GET /admin/policy again and repeat your change.") from error
    await gateway.policy.refresh()
    return Response(_shown(version), headers={"etag": version.etag})


@post("/admin/policy/validate", status_code=200, tags=["policy"], summary="Check a policy without putting it in force")
async def validate_policy(request: HttpRequest) -> Validation:
    """The body is YAML; every problem comes with line, column and, where one is near, a suggestion."""
    gateway = gateway_of(request)
    return await _validate(await _policy_text(request), gateway)


@get("/admin/policy/versions", tags=["policy"], summary="Every policy that was ever active")
async def policy_versions(request: HttpRequest) -> dict[str, Any]:
    gateway = gateway_of(request)
    return {"data": [_shown(version) for version in await gateway.database.read(policy_store.list_versions)]}


@post("/admin/policy/rollback", status_code=200, tags=["policy"], summary="Make an earlier version active again")
async def rollback_policy(request: HttpRequest) -> dict[str, Any]:
    gateway = gateway_of(request)
    wanted = (await _decode(request, Rollback)).version
    earlier = await gateway.database.read(lambda connection: policy_store.get_version(connection, wanted))
    if earlier is None:
        raise ApiError(404, "version_not_found", f"No policy version {wanted}. See GET /admin/policy/versions.", param="version")
    validation = await _validate(earlier.text, gateway, from_file=earlier.source == "file")
    if not validation.valid:
        raise ApiError(409, "invalid_policy", "That version is not valid any more: " + _first_lines(validation.problems), param="version")
    work = recorded_policy(gateway.audit, actor_of(request), "policy.rollback", lambda connection: policy_store.activate(connection, wanted))
    version = await gateway.database.write(work)
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
    return "; ".join(f"{f'{problem.file}, ' if problem.file else ''}line {problem.line}, column {problem.column}: {problem}" for problem in problems[:5])


def _shown(version: policy_store.PolicyVersion) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(version)
    shown.pop("text")
    return shown


# --- alerts and backends ---------------------------------------------------------------------------------------------------------------------


@get("/admin/alerts", tags=["usage"], summary="The newest alerts on budgets, and whether they were delivered")
async def get_alerts(request: HttpRequest, tenant: FromQuery[str | None] = None, limit: FromQuery[int] = 100) -> dict[str, Any]:
    """What receivers are told, or could not be told yet. A tenant sees its own."""
    gateway, principal = gateway_of(request), principal_of(request)
    scope, rows = own_tenant(principal, tenant), max(1, min(limit, 1000))
    found = await gateway.database.read(lambda connection: alert_book.listed(connection, scope, rows))
    return {"data": [shown_alert(alert) for alert in found]}


@get("/admin/backends", tags=["operations"], summary="What is configured, and whether it is ready")
async def get_backends(request: HttpRequest) -> dict[str, Any]:
    gateway = gateway_of(request)
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
    get_alerts,
    get_backends,
)
