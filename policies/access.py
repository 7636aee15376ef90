"""Who may do what: roles, actions, the matrix between them, and what narrows a key, as data. Which route needs which action: `access_matrix`."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from msgspec import Struct

from adapters.backend import DataClass, may_see
from config.networks import contains

TenantRole: TypeAlias = Literal["owner", "admin", "auditor", "member", "service"]
PlatformRole: TypeAlias = Literal["operator", "auditor"]
Role: TypeAlias = Literal["owner", "admin", "auditor", "member", "service", "operator"]
Action: TypeAlias = Literal[
    "chat",
    "embeddings",
    "moderations",
    "models.read",
    "files.read",
    "files.write",
    "stores.read",
    "stores.write",
    "route.explain",
    "usage.read",
    "ledger.read",
    "ledger.write",
    "policy.read",
    "policy.write",
    "backends.read",
    "tenants.read",
    "tenants.write",
    "teams.read",
    "teams.write",
    "users.read",
    "users.write",
    "users.erase",
    "keys.read",
    "keys.write",
    "metrics.read",
    "audit.read",
    "audit.verify",
    "decisions.read",
    "prompts.read",
    "prompts.write",
]
RouteGroup: TypeAlias = Literal["chat", "embeddings", "moderations", "documents", "usage", "policy", "identity", "audit", "metrics"]

TENANT_ROLES: tuple[TenantRole, ...] = get_args(TenantRole)
PLATFORM_ROLES: tuple[PlatformRole, ...] = get_args(PlatformRole)
ACTIONS: tuple[Action, ...] = get_args(Action)

_USE: frozenset[Action] = frozenset({"chat", "embeddings", "moderations", "models.read", "files.read", "stores.read", "route.explain"})
_DOCUMENTS: frozenset[Action] = frozenset({"files.write", "stores.write"})
_WATCH: frozenset[Action] = frozenset({"models.read", "policy.read", "backends.read", "metrics.read", "audit.verify"})
_MODELS: frozenset[Action] = frozenset({"models.read"})
_LOOK: frozenset[Action] = frozenset({"usage.read", "ledger.read", "tenants.read", "teams.read", "users.read", "keys.read", "audit.read", "decisions.read"})
_CHANGE: frozenset[Action] = frozenset({"teams.write", "users.write", "users.erase", "keys.write"})
_PROMPTS: frozenset[Action] = frozenset({"prompts.read", "prompts.write"})

TENANT_MATRIX: dict[TenantRole, frozenset[Action]] = {
    "owner": _USE | _DOCUMENTS | _LOOK | _CHANGE | _PROMPTS,
    "admin": _USE | _DOCUMENTS | _LOOK | _CHANGE | _PROMPTS,
    "auditor": _LOOK | _MODELS,
    "member": _USE | _DOCUMENTS,
    "service": _USE,
}
"""What a tenant's roles may do, always and only inside their own tenant. An auditor sees figures and never prompts or documents."""

_CONTENT: frozenset[Action] = frozenset({"chat", "embeddings", "moderations", "files.read", "files.write", "stores.read", "stores.write"})

PLATFORM_MATRIX: dict[PlatformRole, frozenset[Action]] = {
    "operator": frozenset(ACTIONS) - _CONTENT - _PROMPTS,
    "auditor": _LOOK | _WATCH,
}
"""What the platform's roles may do, over all tenants. They run the service and own no tenant's content: they neither chat nor read documents or prompts."""

ROUTE_GROUPS: dict[RouteGroup, frozenset[Action]] = {
    "chat": frozenset({"chat", "route.explain", "models.read"}),
    "embeddings": frozenset({"embeddings", "models.read"}),
    "moderations": frozenset({"moderations", "models.read"}),
    "documents": frozenset({"files.read", "files.write", "stores.read", "stores.write"}),
    "usage": frozenset({"usage.read", "ledger.read", "ledger.write"}),
    "policy": frozenset({"policy.read", "policy.write", "backends.read"}),
    "identity": frozenset(
        {"tenants.read", "tenants.write", "teams.read", "teams.write", "users.read", "users.write", "users.erase", "keys.read", "keys.write"}
    ),
    "audit": frozenset({"audit.read", "audit.verify", "decisions.read", "prompts.read", "prompts.write"}),
    "metrics": frozenset({"metrics.read"}),
}
"""The routes that a key can be limited to, by name: the actions of each. What the key's role may not do, a group does not give."""


class Scopes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What narrows a key beneath its role. None: not narrowed.

    `routes` are groups of routes, `models` backends or models, `stores` vector stores by id, `networks` the addresses the key is good from
    (CIDR ranges), `max_data_class` the most sensitive data that it may touch.
    """

    routes: tuple[RouteGroup, ...] | None = None
    models: tuple[str, ...] | None = None
    stores: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    max_data_class: DataClass = "restricted"


class Principal(Struct, frozen=True, kw_only=True):
    """Who asks. A platform principal belongs to no tenant (`tenant` is empty).

    `team` and `user` are the ids of those inside the tenant for whom the key acts, empty for none; `team_name` is how policies name the team,
    `subject` how an identity provider names the user.
    `allowed_models` are the backends or models
    the key may use (None: whatever the policy allows). `max_data_class` is the most sensitive data the key may touch. `routes`, `stores` and
    `networks` narrow it as in `Scopes`; `expires_at` is when it ends (seconds since the epoch).
    """

    role: Role
    tenant: str = ""
    team: str = ""
    team_name: str = ""
    user: str = ""
    subject: str = ""
    key_id: str = ""
    key_name: str = ""
    allowed_models: tuple[str, ...] | None = None
    max_data_class: DataClass = "restricted"
    routes: tuple[RouteGroup, ...] | None = None
    stores: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    expires_at: float | None = None
    platform: bool = False


def role_allows(principal: Principal, action: Action, tenant: str | None = None) -> bool:
    """Whether the principal's role may do this, whatever its key is limited to."""
    if principal.platform:
        role = principal.role
        return (role == "operator" or role == "auditor") and action in PLATFORM_MATRIX[role]
    if principal.role == "operator" or not principal.tenant or (tenant is not None and tenant != principal.tenant):
        return False
    return action in TENANT_MATRIX[principal.role]


def allowed(principal: Principal, action: Action, tenant: str | None = None) -> bool:
    """Whether the principal may do this; with `tenant`, whether it may do it to that tenant."""
    return role_allows(principal, action, tenant) and (principal.routes is None or any(action in ROUTE_GROUPS[group] for group in principal.routes))


def covers(role: TenantRole, other: TenantRole) -> bool:
    """Whether a role may do all that the other may. Only an owner is an owner's equal: it alone grants that role."""
    return TENANT_MATRIX[other] <= TENANT_MATRIX[role] and (other != "owner" or role == "owner")


def lesser(role: TenantRole, other: TenantRole) -> TenantRole | None:
    """The one of two roles that the other covers; None where neither covers the other."""
    return other if covers(role, other) else role if covers(other, role) else None


def may_grant(principal: Principal, role: str, scopes: Scopes, expires_at: float | None = None) -> str | None:
    """None where the principal may make a key of this role, scopes and expiry; else the field in which that key would reach further than its own.

    None makes a key that may do more, from elsewhere, or for longer.
    """
    if not may_appoint(principal, role):
        return "role"
    for field, own, wanted in (
        ("models", principal.allowed_models, scopes.models),
        ("routes", principal.routes, scopes.routes),
        ("stores", principal.stores, scopes.stores),
    ):
        if own is not None and (wanted is None or not set(wanted) <= set(own)):
            return field
    if principal.networks is not None and (scopes.networks is None or not all(_inside(each, principal.networks) for each in scopes.networks)):
        return "networks"
    if not may_see(principal.max_data_class, scopes.max_data_class):
        return "max_data_class"
    if principal.expires_at is not None and (expires_at is None or expires_at > principal.expires_at):
        return "expires_at"
    return None


def may_appoint(principal: Principal, role: str) -> bool:
    """Whether the principal may give this role to somebody, or take it away: only an owner an owner's."""
    return principal.platform or role != "owner" or principal.role == "owner"


def scopes_of(principal: Principal) -> Scopes:
    """What narrows the principal's key."""
    return Scopes(
        routes=principal.routes,
        models=principal.allowed_models,
        stores=principal.stores,
        networks=principal.networks,
        max_data_class=principal.max_data_class,
    )


def may_handle(principal: Principal, data_class: DataClass) -> bool:
    """Whether the key may touch data of this class."""
    return may_see(principal.max_data_class, data_class)


def _inside(network: str, ranges: tuple[str, ...]) -> bool:
    return any(contains(outer, network) for outer in ranges)


def narrowed(principal: Principal) -> bool:
    """Whether a key is limited beneath its role, in what it reaches or for how long."""
    lists = (principal.allowed_models, principal.routes, principal.stores, principal.networks)
    return any(each is not None for each in lists) or principal.max_data_class != "restricted" or principal.expires_at is not None
