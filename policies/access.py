"""Who may do what: roles, actions and the matrix between them, as data."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from msgspec import Struct

from adapters.backend import DataClass, may_see

TenantRole: TypeAlias = Literal["owner", "admin", "auditor", "member", "service"]
PlatformRole: TypeAlias = Literal["operator", "auditor"]
Role: TypeAlias = Literal["owner", "admin", "auditor", "member", "service", "operator"]
Action: TypeAlias = Literal[
    "chat",
    "models.read",
    "files.read",
    "files.write",
    "stores.read",
    "stores.write",
    "route.explain",
    "usage.read",
    "ledger.read",
    "policy.read",
    "policy.write",
    "backends.read",
    "tenants.read",
    "tenants.write",
    "keys.read",
    "keys.write",
    "metrics.read",
]

TENANT_ROLES: tuple[TenantRole, ...] = get_args(TenantRole)
PLATFORM_ROLES: tuple[PlatformRole, ...] = get_args(PlatformRole)
ACTIONS: tuple[Action, ...] = get_args(Action)

_USE: frozenset[Action] = frozenset({"chat", "models.read", "files.read", "stores.read", "route.explain"})
_DOCUMENTS: frozenset[Action] = frozenset({"files.write", "stores.write"})
_ADMINISTER: frozenset[Action] = frozenset({"usage.read", "ledger.read", "keys.read", "keys.write", "tenants.read"})

TENANT_MATRIX: dict[TenantRole, frozenset[Action]] = {
    "owner": _USE | _DOCUMENTS | _ADMINISTER,
    "admin": _USE | _DOCUMENTS | _ADMINISTER,
    "auditor": frozenset({"models.read", "usage.read", "ledger.read", "keys.read", "tenants.read"}),
    "member": _USE | _DOCUMENTS,
    "service": _USE,
}
"""What a tenant's roles may do, always and only inside their own tenant. An auditor sees figures and never prompts or documents."""

PLATFORM_MATRIX: dict[PlatformRole, frozenset[Action]] = {
    "operator": frozenset(ACTIONS) - {"chat", "files.read", "files.write", "stores.read", "stores.write"},
    "auditor": frozenset({"models.read", "usage.read", "ledger.read", "policy.read", "backends.read", "tenants.read", "keys.read", "metrics.read"}),
}
"""What the platform's roles may do, over all tenants. They run the service and own no tenant's content: they neither chat nor read documents."""


class Principal(Struct, frozen=True, kw_only=True):
    """Who asks. A platform principal belongs to no tenant (`tenant` is empty).

    `team` and `user` are the ids of those inside the tenant for whom the key acts, empty for none; `team_name` is the team's name, as the policy
    calls it. `allowed_models` are the backends or models the key may use (None: whatever the policy allows). `max_data_class` is the most sensitive
    data the key may touch.
    """

    role: Role
    tenant: str = ""
    team: str = ""
    team_name: str = ""
    user: str = ""
    key_id: str = ""
    allowed_models: tuple[str, ...] | None = None
    max_data_class: DataClass = "restricted"
    platform: bool = False


def allowed(principal: Principal, action: Action, tenant: str | None = None) -> bool:
    """Whether the principal may do this; with `tenant`, whether it may do it to that tenant."""
    if principal.platform:
        role = principal.role
        return (role == "operator" or role == "auditor") and action in PLATFORM_MATRIX[role]
    if principal.role == "operator" or not principal.tenant or (tenant is not None and tenant != principal.tenant):
        return False
    return action in TENANT_MATRIX[principal.role]


def may_grant(principal: Principal, role: str, models: tuple[str, ...] | None) -> bool:
    """Whether the principal may make a key of this role and these models, as far as its own reach goes: none makes a key that may do more."""
    if principal.allowed_models is not None and (models is None or not set(models) <= set(principal.allowed_models)):
        return False
    return principal.platform or role != "owner" or principal.role == "owner"


def may_handle(principal: Principal, data_class: DataClass) -> bool:
    """Whether the key may touch data of this class."""
    return may_see(principal.max_data_class, data_class)
