"""Who is told of budgets, and when a share is reached."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.alerting import reached
from policies.load import Policy, PolicyError
from policies.schema import json_schema

Load = Callable[..., Policy]
BASE = "version: 1\nbackends: {mini: {kind: openai, model: gpt-5-mini}}\ndefault: mini\n"
HOOK = '{url: "https://hooks.example.com/x", secret_env: HOOK_API_KEY'


def errors(load: Load, text: str, **options: object) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load(text, **options)
    return str(caught.value).splitlines()


def test_a_tenant_is_told_of_beside_the_policys_receiver_or_in_place_of_it(load: Load) -> None:
    policy = load(f"{BASE}alerts: {HOOK}, at: [0.8]}}\ntenants:\n  acme: {{alerts: {HOOK}, at: [0.5]}}}}\n  globex: {{alerts: {HOOK}, only: true, at: []}}}}\n")
    assert {name: each.at for name, each in policy.receivers("acme").items()} == {"policy": (0.8,), "tenant": (0.5,)}
    assert {name: each.at for name, each in policy.receivers("globex").items()} == {"tenant": ()}
    assert list(policy.receivers("initech")) == ["policy"]
    assert policy.shares == (0.5, 0.8)


def test_a_policy_without_alerts_tells_nobody_and_one_without_shares_still_tells_of_the_end(load: Load) -> None:
    assert (load(BASE).shares, load(BASE).receivers("acme")) == (None, {})
    assert load(f"{BASE}alerts: {HOOK}, at: []}}\n").shares == ()
    assert load(f"{BASE}alerts: {HOOK}}}\n").shares == (0.5, 0.8, 1.0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{url: 'https://x.example.com'}", "the key 'secret_env' is missing"),
        ("{url: 'https://x.example.com', secret_env: HEADGATE_SECRET}", "must end in _API_KEY, found 'HEADGATE_SECRET'"),
        ("{url: 'ftp://x', secret_env: A_API_KEY}", "expected an http or https URL"),
        ("{url: 'https://u:p@x.example.com', secret_env: A_API_KEY}", "must not hold a name or a password; what is sent is signed"),
        ("{url: 'https://x.example.com', secret_env: A_API_KEY, at: [0]}", "must be more than 0"),
        ("{url: 'https://x.example.com', secret_env: A_API_KEY, at: [80]}", "must be at most 1"),
        ("{url: 'https://x.example.com', secret_env: A_API_KEY, at: [0.5, 0.5]}", "0.5 stands in this list twice"),
        ("{url: 'https://x.example.com', secret_env: A_API_KEY, levels: [0.5]}", "unknown key 'levels'"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(load: Load, table: str, message: str) -> None:
    for text in (f"{BASE}alerts: {table}\n", f"{BASE}tenants: {{acme: {{alerts: {table}}}}}\n"):
        (problem,) = errors(load, text)
        assert "alerts" in problem
        assert message in problem


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.1.2.3", "hooks.internal", "[::1]", "169.254.169.254"])
def test_a_private_receiver_may_come_from_the_file_only(load: Load, host: str) -> None:
    table = f'{{url: "http://{host}:9000/x", secret_env: A_API_KEY}}'
    for text in (f"{BASE}alerts: {table}\n", f"{BASE}tenants: {{acme: {{alerts: {table}}}}}\n"):
        assert load(text).shares is not None
        (problem,) = errors(load, text, private_addresses=False)
        assert "is a private address" in problem
    assert load(f"{BASE}alerts: {HOOK}}}\n", private_addresses=False).shares is not None


def test_editors_know_the_keys() -> None:
    found = json_schema()["$defs"]
    assert set(found["Alerts"]["properties"]) == {"url", "secret_env", "at"}
    assert set(found["TenantAlerts"]["properties"]) == {"url", "secret_env", "at", "only"}


@given(st.integers(0, 10**17), st.integers(0, 10**17), st.lists(st.integers(1, 1000).map(lambda n: n / 1000)))
def test_a_share_is_reached_exactly_when_so_much_is_spent(spent: int, cap: int, shares: list[float]) -> None:
    found = reached(spent, cap, shares)
    assert found == sorted(share for share in shares if spent and spent >= Fraction(str(share)) * cap)


@given(st.integers(1, 10**14))
def test_a_picodollar_less_does_not_reach_it(tens: int) -> None:
    cap = 10 * tens
    assert reached(8 * tens, cap, (0.8, 1.0)) == [0.8]
    assert reached(8 * tens - 1, cap, (0.8, 1.0)) == []
    assert reached(cap, cap, (1.0,)) == [1.0]
