from __future__ import annotations

import pytest

from policies.access import ACTIONS, PLATFORM_MATRIX, PLATFORM_ROLES, TENANT_MATRIX, TENANT_ROLES, Principal, allowed, may_handle


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
