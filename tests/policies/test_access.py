from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backend import DATA_CLASSES
from config.networks import parse_networks, within
from policies.access import (
    ACTIONS,
    PLATFORM_MATRIX,
    PLATFORM_ROLES,
    ROUTE_GROUPS,
    TENANT_MATRIX,
    TENANT_ROLES,
    Principal,
    Scopes,
    TenantRole,
    allowed,
    covers,
    lesser,
    may_grant,
    may_handle,
    narrowed,
    scopes_of,
)


def test_every_role_is_in_its_matrix() -> None:
    assert set(TENANT_MATRIX) == set(TENANT_ROLES)
    assert set(PLATFORM_MATRIX) == set(PLATFORM_ROLES)


def test_every_action_is_open_to_somebody() -> None:
    open_to = frozenset().union(*TENANT_MATRIX.values(), *PLATFORM_MATRIX.values())
    assert open_to == set(ACTIONS)


@pytest.mark.parametrize(
    ("role", "action", "yes"),
    [
        ("member", "chat", True),
        ("member", "files.write", True),
        ("member", "keys.write", False),
        ("member", "usage.read", False),
        ("service", "chat", True),
        ("service", "files.write", False),
        ("admin", "keys.write", True),
        ("owner", "keys.write", True),
        ("owner", "policy.write", False),
        ("owner", "policy.read", False),
        ("owner", "metrics.read", False),
        ("auditor", "usage.read", True),
        ("auditor", "chat", False),
        ("auditor", "files.read", False),
    ],
)
def test_a_tenants_roles_do_what_the_matrix_says(role: str, action: str, yes: bool) -> None:
    assert allowed(Principal(role=role, tenant="acme"), action) is yes  # type: ignore[arg-type]


@pytest.mark.parametrize("role", TENANT_ROLES)
@pytest.mark.parametrize("action", ACTIONS)
def test_nobody_reaches_another_tenant(role: str, action: str) -> None:
    assert not allowed(Principal(role=role, tenant="acme"), action, "other")  # type: ignore[arg-type]


@pytest.mark.parametrize("action", ["policy.write", "tenants.write", "backends.read", "metrics.read"])
@pytest.mark.parametrize("role", TENANT_ROLES)
def test_no_tenant_role_administers_the_platform(role: str, action: str) -> None:
    assert not allowed(Principal(role=role, tenant="acme"), action)  # type: ignore[arg-type]


def test_an_operator_runs_the_service_and_touches_no_content() -> None:
    operator = Principal(role="operator", platform=True)
    assert allowed(operator, "policy.write")
    assert allowed(operator, "keys.write", "acme")
    assert not allowed(operator, "chat")
    assert not allowed(operator, "files.read", "acme")


def test_a_platform_auditor_reads_and_never_writes() -> None:
    auditor = Principal(role="auditor", platform=True)
    assert allowed(auditor, "ledger.read", "acme")
    assert not any(allowed(auditor, action) for action in ACTIONS if action.endswith("write"))


@pytest.mark.parametrize("principal", [Principal(role="member", platform=True), Principal(role="operator", tenant="acme"), Principal(role="owner")])
def test_a_role_in_the_wrong_place_may_do_nothing(principal: Principal) -> None:
    assert not any(allowed(principal, action) for action in ACTIONS)


def test_a_key_touches_data_up_to_its_class() -> None:
    assert may_handle(Principal(role="member", tenant="a", max_data_class="internal"), "internal")
    assert not may_handle(Principal(role="member", tenant="a", max_data_class="internal"), "confidential")


NAMES = st.none() | st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True).map(tuple)
GROUPS = st.none() | st.lists(st.sampled_from(sorted(ROUTE_GROUPS)), min_size=1, unique=True).map(tuple)
NETWORKS = st.none() | st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "::/0", "2001:db8::/32"]), min_size=1, unique=True).map(tuple)
SCOPES = st.builds(Scopes, routes=GROUPS, models=NAMES, stores=NAMES, networks=NETWORKS, max_data_class=st.sampled_from(DATA_CLASSES))
EXPIRES = st.none() | st.sampled_from([1.0, 2.0, 3.0])
ROLES = st.sampled_from(TENANT_ROLES)


def holder(role: TenantRole, scopes: Scopes, expires_at: float | None) -> Principal:
    return Principal(
        role=role,
        tenant="acme",
        allowed_models=scopes.models,
        routes=scopes.routes,
        stores=scopes.stores,
        networks=scopes.networks,
        max_data_class=scopes.max_data_class,
        expires_at=expires_at,
    )


def good_from(principal: Principal, address: str) -> bool:
    return principal.networks is None or within(ip_address(address), parse_networks(principal.networks))


@given(SCOPES, EXPIRES, ROLES, SCOPES, EXPIRES)
def test_no_key_makes_one_that_reaches_further(own: Scopes, ends: float | None, role: TenantRole, wanted: Scopes, until: float | None) -> None:
    maker, made = holder("admin", own, ends), holder(role, wanted, until)
    if may_grant(maker, role, wanted, until) is not None:
        return
    assert role != "owner"
    assert all(allowed(maker, action) for action in ACTIONS if allowed(made, action))
    for field in ("allowed_models", "stores"):
        mine, its = getattr(maker, field), getattr(made, field)
        assert all(mine is None or name in mine for name in ("a", "b", "c") if its is None or name in its)
    assert all(may_handle(maker, data_class) for data_class in DATA_CLASSES if may_handle(made, data_class))
    assert all(good_from(maker, each) for each in ("10.1.2.3", "10.2.0.1", "8.8.8.8", "2001:db8::1", "2600::1") if good_from(made, each))
    assert ends is None or (until is not None and until <= ends)


@given(SCOPES, EXPIRES, st.sampled_from([role for role in TENANT_ROLES if role != "owner"]))
def test_a_key_may_always_make_one_of_its_own_reach(own: Scopes, ends: float | None, role: TenantRole) -> None:
    assert may_grant(holder("admin", own, ends), role, scopes_of(holder("admin", own, ends)), ends) is None


def test_only_an_unlimited_key_is_not_narrowed() -> None:
    assert not narrowed(holder("admin", Scopes(), None))
    for scopes in (Scopes(routes=("chat",)), Scopes(models=("a",)), Scopes(stores=("a",)), Scopes(networks=("::/0",)), Scopes(max_data_class="public")):
        assert narrowed(holder("admin", scopes, None))
    assert narrowed(holder("admin", Scopes(), 1.0))


def test_every_action_is_in_a_group_of_routes() -> None:
    assert frozenset().union(*ROUTE_GROUPS.values()) == set(ACTIONS)


@pytest.mark.parametrize("role", TENANT_ROLES)
def test_a_group_of_routes_gives_nothing_that_the_role_does_not(role: TenantRole) -> None:
    for group, actions in ROUTE_GROUPS.items():
        principal = holder(role, Scopes(routes=(group,)), None)
        assert {action for action in ACTIONS if allowed(principal, action)} == actions & TENANT_MATRIX[role]


@given(ROLES, ROLES)
def test_the_lesser_of_two_roles_may_do_nothing_that_either_may_not(one: TenantRole, other: TenantRole) -> None:
    least = lesser(one, other)
    if least is None:
        assert not covers(one, other)
        assert not covers(other, one)
    else:
        assert least in (one, other)
        assert TENANT_MATRIX[least] <= TENANT_MATRIX[one] & TENANT_MATRIX[other]
        assert least != "owner" or one == other == "owner"
