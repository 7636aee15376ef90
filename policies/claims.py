"""From what a verified token or certificate says to a principal. Pure: no clock, no I/O; whoever calls has checked the signature."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from policies.access import Principal
from policies.federation import Claim, ClientCertificate, Issuer

Claims: TypeAlias = Mapping[str, Any]
LONGEST_USER = 1024
_SPACED = frozenset({"scope", "scp"})
"""Claims that OAuth writes as one string of words."""

V = TypeVar("V", bound=str)


class NoAccess(Exception):
    """The token is genuine, and nothing in it gives its holder access; the message is for the log."""


def principal_of(name: str, issuer: Issuer, claims: Claims) -> Principal:
    """The principal that an issuer's token makes; `name` is the issuer's in the policy. Raises `NoAccess`."""
    for claim, wanted in issuer.require.items():
        if not values(claims, claim) & set((wanted,) if isinstance(wanted, str) else wanted):
            raise NoAccess("a required claim does not hold")
    who = _at(claims, issuer.user)
    if not isinstance(who, str) or not 0 < len(who) <= LONGEST_USER:
        raise NoAccess("the user claim is missing")
    user = stable_id("oidc", issuer.issuer, who)
    if issuer.platform_role is not None and (platform := _first(issuer.platform_role.map, values(claims, issuer.platform_role.claim))) is not None:
        return Principal(role=platform, user=user, subject=who, key_id=user, platform=True, allowed_models=issuer.models, max_data_class=issuer.max_data_class)
    tenant = _tenant(issuer, claims)
    role = issuer.role if isinstance(issuer.role, str) or issuer.role is None else _first(issuer.role.map, values(claims, issuer.role.claim))
    if role is None:
        raise NoAccess("no role")
    team = issuer.team if isinstance(issuer.team, str) or issuer.team is None else _first(issuer.team.map, values(claims, issuer.team.claim))
    return Principal(
        tenant=tenant,
        role=role,
        team=team or "",
        user=user,
        subject=who if issuer.match_users else "",
        key_id=user,
        allowed_models=issuer.models,
        max_data_class=issuer.max_data_class,
    )


def principal_of_certificate(client: ClientCertificate) -> Principal:
    """The principal of a client that is known by its certificate."""
    key_id = stable_id("cert", client.sha256 or "", client.uri or "", client.subject or "")
    role = client.role or client.platform_role
    assert role is not None, "a client has one of them"
    return Principal(
        tenant=client.tenant or "",
        role=role,
        team=client.team,
        user=key_id,
        key_id=key_id,
        allowed_models=client.models,
        max_data_class=client.max_data_class,
        platform=client.platform_role is not None,
    )


def stable_id(kind: str, *parts: str) -> str:
    """An id of 37 characters, the same for the same parts: parts are told apart whatever is in them.

    Whoever can guess the parts can confirm the guess by it, so it leaves the door only under a key (`router.identity.holders.holder_id`).
    """
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return f"{kind}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def values(claims: Claims, claim: Claim) -> frozenset[str]:
    """The strings that a claim holds: its text, the texts in its list, or the words of `scope`. Anything else holds none."""
    found = _at(claims, claim)
    if isinstance(found, str):
        last = claim if isinstance(claim, str) else claim[-1]
        return frozenset(found.split(" ")) if last in _SPACED else frozenset({found})
    return frozenset(each for each in found if isinstance(each, str)) if isinstance(found, list) else frozenset()


def _at(claims: Claims, claim: Claim) -> object:
    found: object = claims
    for step in (claim,) if isinstance(claim, str) else claim:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _first(mapping: Mapping[str, V], held: frozenset[str]) -> V | None:
    """In the order in which the policy is written, so that nobody's token decides it."""
    return next((mapped for value, mapped in mapping.items() if value in held), None)


def _tenant(issuer: Issuer, claims: Claims) -> str:
    if isinstance(issuer.tenant, str):
        return issuer.tenant
    if issuer.tenant is None:
        raise NoAccess("no role")
    held = values(claims, issuer.tenant.claim)
    found = {tenant for value, tenant in issuer.tenant.map.items() if value in held}
    if len(found) != 1:
        raise NoAccess("no tenant" if not found else "more than one tenant")
    return found.pop()
