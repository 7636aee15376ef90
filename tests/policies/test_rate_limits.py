"""Which counters a principal's requests are counted in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policies.access import Principal
from policies.load import Policy, PolicyError
from policies.rate_limits import Scopes, address_scope, merged, model_scopes, priority_class, scopes_of

Load = Callable[..., Policy]
HEAD = "version: 1\nbackends: {mini: {kind: openai, model: gpt-5-mini}}\ndefault: mini\n"


def scopes(load: Load, text: str, **principal: str) -> Scopes:
    file = load(HEAD + text).file
    who = Principal(role="member", tenant="acme", key_id="key_1", **principal)  # type: ignore[arg-type]
    return scopes_of(merged(file.limits, file.tenants["acme"].limits if "acme" in file.tenants else type(file.limits)()), who)


def test_a_tenant_without_limits_has_none(load: Load) -> None:
    assert not scopes(load, "")


def test_a_tenants_own_fields_go_before_the_policys(load: Load) -> None:
    found = scopes(load, "limits: {rpm: 60, tpm: 5000, on_limit: wait, priority: low}\ntenants: {acme: {limits: {rpm: 600}}}")
    assert [(scope.measure, scope.limit) for scope in (*found.requests, *found.tokens)] == [("requests", 600), ("tokens", 5000)]
    assert (found.wait, found.priority) == (True, "low")


def test_every_holder_has_its_own_counter_and_says_its_name(load: Load) -> None:
    text = """tenants:
  acme:
    limits:
      rpm: 600
      models: {gpt-5-mini: {rpm: 60}}
      teams: {search: {tpm: 9000, concurrency: 5, priority: high, models: {mini: {tpm: 100}}}}
      per_key: {rpm: 30, concurrency: 2}
"""
    found = scopes(load, text, team="team_7", team_name="search")
    assert [(scope.kind, scope.limit, str(scope)) for scope in found.requests] == [
        ("tenant", 600, "tenant 'acme': 600 requests per minute"),
        ("key", 30, "this API key: 30 requests per minute"),
    ]
    assert [(scope.kind, scope.limit) for scope in found.tokens] == [("team", 9000)]
    assert [(scope.kind, scope.limit) for scope in found.slots] == [("team", 5), ("key", 2)]
    assert found.priority == "high"
    own = model_scopes(found, "mini", "gpt-5-mini")
    assert [scope.limit for scope in (*own.requests, *own.tokens)] == [60, 100]
    assert len({scope.id for scope in (*found.requests, *found.tokens, *found.slots, *own.requests, *own.tokens)}) == 7
    elsewhere = scopes(load, text, team="team_8", team_name="other")
    assert elsewhere.tokens == ()
    assert elsewhere.requests == found.requests


def test_two_keys_and_two_tenants_share_no_counter(load: Load) -> None:
    file = load(HEAD + "limits: {per_key: {rpm: 5}, rpm: 50}").file
    ids = [
        {scope.id for scope in scopes_of(merged(file.limits, type(file.limits)()), Principal(role="member", tenant=tenant, key_id=key)).requests}
        for tenant, key in (("a", "key_1"), ("a", "key_2"), ("b", "key_3"))
    ]
    assert len(ids[0] & ids[1]) == 1
    assert not (ids[0] | ids[1]) & ids[2]


def test_a_very_long_name_still_has_a_short_id(load: Load) -> None:
    name = "m" * 900
    text = f"version: 1\nbackends: {{mini: {{kind: openai, model: {name}}}}}\ndefault: mini\nlimits: {{models: {{{name}: {{rpm: 1}}}}}}"
    file = load(text).file
    (scope,) = model_scopes(scopes_of(merged(file.limits, type(file.limits)()), Principal(role="member", tenant="a")), name).requests
    assert len(scope.id) < 100


def test_a_request_may_be_content_with_less_and_never_has_more() -> None:
    assert [priority_class("normal", asked) for asked in (None, "high", "normal", "low")] == [1, 1, 1, 2]


def test_addresses_are_limited_only_where_the_policy_says_so(load: Load) -> None:
    assert address_scope(load(HEAD).file.limits, "10.0.0.1") is None
    scope = address_scope(load(HEAD + "limits: {per_ip: {rpm: 30}}").file.limits, "10.0.0.1")
    assert scope is not None
    assert (scope.kind, scope.limit) == ("ip", 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: {models: {gpt-5-mni: {rpm: 1}}}", "limits.models.gpt-5-mni: no backend, embedder or model is called 'gpt-5-mni'; did you mean 'gpt-5-mini'?"),
        ("tenants: {a: {limits: {teams: {t: {models: {x: {rpm: 1}}}}}}}", "tenants.a.limits.teams.t.models.x: no backend, embedder or model is called 'x'"),
        ("limits: {queue: {max_s: 5}}", "limits.queue: does nothing without on_limit: wait"),
        ("tenants: {a: {limits: {queue: {max_s: 5}}}}", "tenants.a.limits.queue: does nothing without on_limit: wait"),
        ("limits: {rpm: 0}", "limits.rpm: must be at least 1, found 0"),
        ("limits: {burst_s: 61}", "limits.burst_s: must be at most 60, found 61"),
        ("tenants: {a: {limits: {per_ip: {rpm: 1}}}}", "tenants.a.limits.per_ip: unknown key 'per_ip'"),
    ],
)
def test_a_limit_that_limits_nothing_is_a_mistake(load: Load, text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load(HEAD + text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "limits: {queue: {max_s: 5}}\ntenants: {a: {limits: {on_limit: wait}}}",
        "limits: {on_limit: wait}\ntenants: {a: {limits: {queue: {max_s: 5}}}}",
        "limits: {models: {mini: {rpm: 1}, all-MiniLM-L6-v2: {rpm: 1}}}",
    ],
)
def test_a_limit_that_means_something_is_none(load: Load, text: str) -> None:
    load(HEAD + text)
