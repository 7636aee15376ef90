"""What is on record of somebody who comes with a token or certificate instead of one of our keys."""

from __future__ import annotations

import hmac
import re
from typing import cast

import msgspec
from sqlalchemy import Connection, or_, select

from policies.access import TENANT_ROLES, Principal, TenantRole, lesser
from policies.claims import stable_id
from router.identity.tables import teams, tenants, users
from router.identity.users import was_erased
from router.tables import policy_versions

_ISSUER = re.compile(r"""issuer["']?\s*:\s*["']?([^\s"',}]+)""")


def holder_id(secret: bytes, plain: str) -> str:
    """What somebody who comes with a token or certificate is called: of 37 characters too, and told from nothing without the service's secret."""
    kind, _, _ = plain.partition(":")
    return f"{kind}:{hmac.digest(secret, b'headgate holder v1 ' + plain.encode(), 'sha256')[:16].hex()}"


def holder_ids(connection: Connection, secret: bytes, subject: str) -> list[str]:
    """What a subject was called before it was on record, by any issuer that a policy here ever had."""
    texts = connection.execute(select(policy_versions.c.text).where(policy_versions.c.text.contains("issuer"))).scalars()
    issuers = {found for text in texts for found in _ISSUER.findall(text)}  # what is no issuer's name after all called nobody anything
    return [holder_id(secret, stable_id("oidc", issuer, subject)) for issuer in sorted(issuers)]


def on_record(connection: Connection, principal: Principal, secret: bytes) -> Principal | str:
    """The principal with the id, team and role of the user whose `subject` it has, where there is one; else why it may not come in.

    A user's role bounds what a token gives, as it bounds a key. A team that a token names, by name or id, counts where the tenant has it; one
    that is on record for the user goes before it. `secret` is the service's: whoever was erased under it stays out until they are made anew.
    """
    if connection.execute(select(tenants.c.name).where(tenants.c.name == principal.tenant)).first() is None:
        return "there is no such tenant"
    named = principal.team
    if principal.subject:
        user = connection.execute(select(users).where(users.c.tenant == principal.tenant, users.c.subject == principal.subject)).mappings().first()
        if user is not None:
            if user["disabled_at"] is not None or user["erased_at"] is not None:
                return "the user is disabled"
            assert principal.role in TENANT_ROLES, "a platform principal is not looked up here"
            role = lesser(_tenant_role(user["role"]), _tenant_role(principal.role))
            if role is None:
                return "neither the user's role nor the token's covers the other"
            principal = msgspec.structs.replace(principal, user=user["id"], role=role)
            named = user["team"] or named
        elif was_erased(connection, secret, principal.tenant, principal.subject):
            return "the user was erased"
    if not named:
        return principal
    query = select(teams).where(teams.c.tenant == principal.tenant, or_(teams.c.id == named, teams.c.name == named))
    team = connection.execute(query).mappings().first()
    if team is None:
        return msgspec.structs.replace(principal, team="")
    if team["archived_at"] is not None:
        return msgspec.structs.replace(principal, team="") if principal.role == "owner" else "the team is archived"
    return msgspec.structs.replace(principal, team=team["id"], team_name=team["name"])


def _tenant_role(role: str) -> TenantRole:
    return cast(TenantRole, role)
