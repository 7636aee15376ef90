"""The `identity` block: what can never work, or must not be asked for keys, is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from policies.access import Principal
from policies.claims import NoAccess, principal_of, stable_id, values
from policies.federation import Issuer, PlatformRoleClaim, RoleClaim, TeamClaim, TenantClaim
from policies.load import Policy, PolicyError, load_policy

GOOD = {"issuer": "https://login.example.com", "audience": "a", "tenant": "acme", "role": "member"}


def load(block: str, *, private: bool = True) -> Policy:
    return load_policy(f"version: 1\ndefault: extractive\nidentity:\n{block}\n", price_of=lambda *_: None, private_addresses=private)


def issuer_block(**changed: str) -> str:
    keys = {**GOOD, **changed}
    return "  issuers:\n    corp: {" + ", ".join(f"{key}: {value}" for key, value in keys.items() if value) + "}"


def problems(block: str, *, private: bool = True) -> str:
    with pytest.raises(PolicyError) as caught:
        load(block, private=private)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"issuer": "http://login.example.com"}, "must begin with https://"),
        ({"issuer": "login.example.com"}, "is no https URL"),
        ({"issuer": "'https://a:b@login.example.com'"}, "must not hold a name"),
        ({"issuer": "'https://login.example.com?x=1'"}, "must not hold a query"),
        ({"jwks_url": "file:///etc/passwd"}, "is no https URL"),
        ({"jwks_url": "'https://login.example.com:0/'"}, "is no https URL"),
        ({"algorithms": "[HS256]"}, "HS256"),
        ({"algorithms": "[none]"}, "none"),
        ({"algorithms": "[]"}, "must not be empty"),
        ({"audience": "[]"}, "must not be empty"),
        ({"role": ""}, "tenant and role belong together"),
        ({"tenant": ""}, "tenant and role belong together"),
        ({"tenant": "", "role": ""}, "would never get a role"),
        ({"role": "operator"}, "operator"),
        ({"role": "{claim: groups, map: {x: operator}}"}, "operator"),
        ({"role": "{claim: groups, map: {}}"}, "matches nothing"),
        ({"role": "{claim: [], map: {x: member}}"}, "matches nothing"),
        ({"require": "{azp: []}"}, "matches nothing"),
        ({"leeway_s": "301"}, "must be at most 300"),
        ({"jwks_ttl_s": "1"}, "must be at least 10"),
        ({"audiences": "x"}, "did you mean 'audience'"),
    ],
)
def test_an_issuer_that_cannot_be_trusted_or_used_is_refused_with_its_line(changed: dict[str, str], said: str) -> None:
    text = problems(issuer_block(**changed))
    assert said in text
    assert "policy.yaml:" in text


@pytest.mark.parametrize("url", ["https://10.0.0.1", "https://keys.internal", "https://localhost", "https://[::1]"])
def test_a_private_issuer_is_for_the_policy_file_only(url: str) -> None:
    for block in (issuer_block(issuer=f"'{url}'"), issuer_block(jwks_url=f"'{url}/keys'")):
        load(block)
        assert "is a private address" in problems(block, private=False)


def test_plain_http_is_for_this_machine_and_for_the_policy_file_only() -> None:
    block = issuer_block(issuer="'http://127.0.0.1:8443'")
    load(block)
    assert "must begin with https://" in problems(block, private=False)
    assert "must begin with https://" in problems(issuer_block(issuer="'http://10.0.0.1'"))


def test_two_entries_for_the_same_tokens_are_refused() -> None:
    assert "takes tokens for 'a' already" in problems(
        issuer_block() + "\n    other: {issuer: 'https://login.example.com', audience: [b, a], tenant: t, role: member}"
    )
    load(issuer_block() + "\n    other: {issuer: 'https://login.example.com', audience: [b], tenant: t, role: member}")


@pytest.mark.parametrize(
    ("second", "refused"),
    [
        ("issuer: 'https://other.example.com', tenant: acme", True),
        ("issuer: 'https://other.example.com', tenant: {claim: org, map: {a: globex, b: acme}}", True),
        ("issuer: 'https://login.example.com', tenant: acme, user: email", True),
        ("issuer: 'https://login.example.com', tenant: acme", False),
        ("issuer: 'https://other.example.com', tenant: globex", False),
        ("issuer: 'https://other.example.com', tenant: acme, match_users: false", False),
    ],
)
def test_only_one_issuers_names_are_looked_up_among_a_tenants_users(second: str, refused: bool) -> None:
    block = issuer_block() + f"\n    other: {{{second}, audience: b, role: member}}"
    if refused:
        assert "'corp' names users of tenant 'acme' already" in (said := problems(block))
        assert "policy.yaml:6" in said
    else:
        load(block)


def test_an_issuer_that_matches_no_users_gives_no_subject() -> None:
    assert principal_of("corp", issuer(), {"sub": "s"}).subject == "s"
    found = principal_of("corp", issuer(match_users=False), {"sub": "s"})
    assert (found.subject, found.user) == ("", stable_id("oidc", GOOD["issuer"], "s"))


@pytest.mark.parametrize(
    ("certificates", "said"),
    [
        ("{format: xfcc, clients: []}", "lets nobody in"),
        ("{format: xfcc, header: authorization, clients: [{uri: x, tenant: t, role: member}]}", "a meaning of its own"),
        ("{format: xfcc, header: X-Cert, clients: [{uri: x, tenant: t, role: member}]}", "must match"),
        ("{format: xfcc, clients: [{uri: x, subject: y, tenant: t, role: member}]}", "exactly one of"),
        ("{format: xfcc, clients: [{tenant: t, role: member}]}", "exactly one of"),
        ("{format: xfcc, clients: [{uri: x, tenant: t}]}", "a tenant and a role"),
        ("{format: xfcc, clients: [{uri: x, tenant: t, role: member, platform_role: operator}]}", "a tenant and a role"),
        ("{format: xfcc, clients: [{sha256: AB, tenant: t, role: member}]}", "must match"),
        ("{format: xfcc, clients: [{uri: x, tenant: t, role: member}, {uri: x, tenant: u, role: owner}]}", "twice"),
        ("{format: der, clients: [{uri: x, tenant: t, role: member}]}", "der"),
    ],
)
def test_certificates_that_cannot_count_are_refused(certificates: str, said: str) -> None:
    assert said in problems(f"  certificates: {certificates}")


def issuer(**changed: Any) -> Issuer:
    return Issuer(**{**GOOD, **changed})


def test_the_first_line_of_the_map_that_the_claim_holds_is_the_role_whatever_order_the_token_has() -> None:
    spec = issuer(role=RoleClaim(claim="g", map={"b": "admin", "a": "member"}))
    for groups in (["a", "b"], ["b", "a"], ["x", "b", "a"]):
        assert principal_of("corp", spec, {"sub": "s", "g": groups}).role == "admin"
    assert principal_of("corp", spec, {"sub": "s", "g": "a"}).role == "member"


def test_a_platform_role_comes_from_its_own_map_only_and_belongs_to_no_tenant() -> None:
    spec = issuer(platform_role=PlatformRoleClaim(claim="p", map={"ops": "operator"}))
    found = principal_of("corp", spec, {"sub": "s", "p": "ops"})
    assert (found.platform, found.role, found.tenant) == (True, "operator", "")
    assert not principal_of("corp", spec, {"sub": "s", "role": "operator", "groups": ["ops"], "platform": True}).platform


def test_team_models_and_data_class_come_along() -> None:
    spec = issuer(team=TeamClaim(claim=("org", "dept"), map={"7": "research"}), models=("mini",), max_data_class="internal", user=("org", "id"))
    found = principal_of("corp", spec, {"sub": "s", "org": {"dept": ["9", "7"], "id": "u"}})
    assert (found.team, found.allowed_models, found.max_data_class) == ("research", ("mini",), "internal")
    assert found.user == stable_id("oidc", spec.issuer, "u")
    assert principal_of("corp", spec, {"org": {"id": "u"}}).team == ""


@pytest.mark.parametrize(
    "claims", [{}, {"sub": ""}, {"sub": 7}, {"sub": "x" * 2000}, {"sub": "s", "t": ["1", "2"]}, {"sub": "s", "t": "3"}, {"sub": "s", "t": {"1": 1}}]
)
def test_without_a_user_or_one_tenant_there_is_no_access(claims: dict[str, Any]) -> None:
    with pytest.raises(NoAccess):
        principal_of("corp", issuer(tenant=TenantClaim(claim="t", map={"1": "acme", "2": "globex"})), claims)


def test_required_claims_must_hold_one_of_their_values() -> None:
    spec = issuer(require={"azp": ("cli", "batch"), "scope": "llm"})
    assert isinstance(principal_of("corp", spec, {"sub": "s", "azp": "cli", "scope": "openid llm"}), Principal)
    for claims in ({"azp": "cli"}, {"azp": "web", "scope": "llm"}, {"azp": "cli", "scope": "llmx"}, {"azp": None, "scope": "llm"}):
        with pytest.raises(NoAccess):
            principal_of("corp", spec, {"sub": "s", **claims})


def test_only_texts_are_values_of_a_claim() -> None:
    claims = {"a": ["x", 1, None, ["y"]], "b": True, "c": 1, "https://e.x/d": "v", "scp": "p q"}
    assert [values(claims, name) for name in ("a", "b", "c", "https://e.x/d", "scp")] == [{"x"}, set(), set(), {"v"}, {"p", "q"}]
    assert values(claims, ("a", "x")) == set()


def test_ids_tell_parts_apart() -> None:
    assert stable_id("oidc", "ab", "c") != stable_id("oidc", "a", "bc")
    assert len(stable_id("oidc", "a" * 999)) == 37
    assert stable_id("oidc", "\ud800") == stable_id("oidc", "\ud800")
