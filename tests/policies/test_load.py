from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from adapters.backend import kinds
from config.prices import FREE, Price
from policies.load import Policy, PolicyError
from policies.moderation import moderate
from policies.schema import PolicyFile, Use, json_schema

Load = Callable[..., Policy]
BACKENDS = """version: 1
backends:
  local: {kind: llama, model: some/llama}
  mini: {kind: openai, model: gpt-5-mini}
  claude: {kind: anthropic, model: claude-sonnet-4-5, clearance: confidential}
"""
WHOLE = (
    BACKENDS
    + """
settings: {port: 9000}
rules:
  - name: confidential-stays-home
    when: {data_class: [confidential, restricted]}
    use: [local]
    lock: true
  - name: code
    when: {task: code}
    use: [claude, mini]
  - name: canary
    when: {tenant: acme}
    use: {weighted: {mini: 5, claude: 95}}
complexity: {weak: local, strong: claude, threshold: 0.6}
default: mini
fallback: [mini, local, extractive]
moderation: {output: [pii, secrets, deny-list], on_match: redact, deny_list: [nightfall], per_rule: {card: block}}
grounding: {stores: [vs_1]}
tenants:
  acme: {budget_usd: {month: 200}, on_budget_end: local, data_class: confidential, moderation: {deny_list: [moonrise]}, grounding: {stores: [vs_2], limit: 3}}
cases:
  - {given: {data_class: restricted}, expect: {backend: local}}
"""
)


def errors(load: Load, text: str, **options: object) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        load(text, **options)
    return str(caught.value).splitlines()


def test_the_documented_format_loads(load: Load) -> None:
    policy = load(WHOLE)
    assert set(policy.backends) == {"local", "mini", "claude", "extractive"}
    assert policy.file.rules[2].use == Use(weighted={"mini": 5.0, "claude": 95.0})
    assert policy.file.settings.port == 9000
    assert (policy.backends["local"].clearance, policy.backends["mini"].clearance, policy.backends["claude"].clearance) == (
        "restricted",
        "internal",
        "confidential",
    )
    assert policy.backends["extractive"].price == FREE
    assert policy.backends["mini"].price == Price(input=1.0, output=2.0)
    assert policy.tenant("acme").budget_usd.month == 200
    assert policy.tenant("nobody").data_class == "internal"
    assert len(policy.hash) == 64
    assert policy.hash.startswith(policy.version)


def test_a_tenants_fields_replace_the_policys_own(load: Load) -> None:
    policy = load(WHOLE)
    assert policy.grounding("acme").stores == ("vs_2",)
    assert policy.grounding("other").stores == ("vs_1",)
    assert policy.moderation("acme").output == ("pii", "secrets", "deny-list")
    acme, other = policy.moderation_rules("acme"), policy.moderation_rules("other")
    assert moderate(acme, "moonrise and nightfall").text == "[REDACTED] and nightfall"
    assert moderate(other, "moonrise and nightfall").text == "moonrise and [REDACTED]"
    assert policy.moderation_rules("third") is other


def test_the_hash_is_of_the_text(load: Load) -> None:
    assert load(WHOLE).hash == load(WHOLE).hash
    assert load(WHOLE).hash != load(WHOLE + "\n").hash


def test_a_price_in_the_file_goes_before_the_price_book(load: Load) -> None:
    policy = load("version: 1\nbackends: {a: {kind: openai, model: unpriced, price: {input: 0, output: 1}}}\ndefault: a")
    assert policy.backends["a"].price == Price(input=0.0, output=1.0)


def test_problems_of_every_section_are_told_at_once(load: Load) -> None:
    text = """version: 1
backends:
  a: {kind: opnai, model: x}
  b: {kind: openai, model: y, tmeout_s: 3}
rules:
  - {name: one, use: [c]}
default: extractve
cache: {ttl_s: 60}
tenants: {acme: {on_budget_end: bb, limits: {rmp: 3}}}
"""
    assert errors(load, text) == [
        "policy.yaml:3:13: backends.a.kind: unknown kind 'opnai'; did you mean 'openai'?",
        "policy.yaml:4:31: backends.b.tmeout_s: unknown key 'tmeout_s'; did you mean 'timeout_s'?",
        "policy.yaml:6:23: rules[0].use[0]: there is no backend 'c'; there are a, b, extractive",
        "policy.yaml:7:10: default: there is no backend 'extractve'; did you mean 'extractive'?",
        "policy.yaml:8:1: cache: 'cache' is not supported yet",
        "policy.yaml:9:46: tenants.acme.limits.rmp: unknown key 'rmp'; did you mean 'rpm'?",
    ]


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("default: mni", "default: there is no backend 'mni'; did you mean 'mini'?"),
        ("default: [mini, mini]", "default[1]: 'mini' stands in this list twice"),
        ("default: []", "default: an empty list routes nothing"),
        ("default: mini\nfallback: [clade]", "fallback[0]: there is no backend 'clade'; did you mean 'claude'?"),
        ("complexity: {weak: locl, strong: claude, threshold: 0.5}", "complexity.weak: there is no backend 'locl'; did you mean 'local'?"),
        ("complexity: {weak: local, strong: claude, threshold: 5}", "complexity.threshold: must be at most 1, found 5"),
        ("complexity: {weak: local, strong: claude}", "complexity needs either a 'threshold' or a 'target'"),
        ("complexity: {weak: local, strong: claude, threshold: 0.5, target: {strong_share: 0.3}}", "complexity needs either a 'threshold' or a 'target'"),
        ("complexity: {weak: local, strong: claude, target: {strong_share: 3}}", "complexity.target.strong_share: must be at most 1, found 3"),
        ("complexity: {weak: local, strong: claude, target: {}}", "a target is exactly one of strong_share, cost_usd_per_1k and min_quality"),
        ("complexity: {weak: local, strong: claude, target: {cost_usd_per_1k: 0}}", "complexity.target.cost_usd_per_1k: must be more than 0, found 0"),
        ("default: mini\ntenants: {acme: {on_budget_end: lcal}}", "tenants.acme.on_budget_end: there is no backend 'lcal'; did you mean 'local'?"),
        (
            "tenants: {acme: {budget_usd: {models: {mni: {day: 1}}}}}",
            "tenants.acme.budget_usd.models.mni: there is no backend, embedder or model 'mni'; did you mean 'mini'?",
        ),
        ("rules: [{name: r, use: {weighted: {mnii: 1}}}]", "rules[0].use.weighted.mnii: there is no backend 'mnii'; did you mean 'mini'?"),
        ("rules: [{name: r, use: {weighted: {mini: 0, claude: 0}}}]", "the weights sum to 0"),
        ("rules: [{name: r, use: {weighted: {mini: -1}}}]", "must be at least 0, found -1"),
        ("rules: [{name: r, use: []}]", "an empty list routes nothing"),
        ("rules: [{name: r, when: {task: []}, use: [mini]}]\ndefault: mini", "rules[0].when.task: an empty list matches nothing"),
        ("rules: [{name: r, when: {task: cdoe}, use: [mini]}]", "did you mean 'code'?"),
        ("rules: [{name: r, when: {needs: tool}, use: [mini]}]", "did you mean 'tools'?"),
        ("rules: [{name: r, when: {min_complexity: 0.9, max_complexity: 0.1}, use: [mini]}]\ndefault: mini", "0.9 is more than max_complexity (0.1)"),
        ("rules: [{name: r, when: {model: gpt-5-mini}, use: [claude]}]\ndefault: mini", "a request for 'gpt-5-mini' pins that backend"),
        ("rules: [{name: r, when: {task: code}, use: [mini]}, {name: r, when: {task: math}, use: [mini]}]\ndefault: mini", "rule 0 is called 'r' too"),
        (
            "rules: [{name: all, use: [mini]}, {name: late, when: {task: code}, use: [claude]}]",
            "rules[1]: this rule can never decide: rule 'all' before it has no condition",
        ),
        (
            "rules: [{name: r, when: {data_class: [internal, restricted]}, use: [local, claude], lock: true}]\ndefault: mini",
            "whose clearance is lower: 'claude' (confidential)",
        ),
        ("rules: [{name: r, when: {data_class: restricted}, use: [claude]}]\ndefault: mini", "none of these backends may see restricted data"),
        ("default: mini\nmoderation: {output: [pi]}", "moderation.output[0]: no moderation rule or category is named 'pi'"),
        ("default: mini\nmoderation: {output: [pii], deny_list: [x]}", "these terms do nothing"),
        ("default: mini\ntenants: {t: {moderation: {deny_list: [x]}}}", "tenants.t.moderation.deny_list: these terms do nothing"),
        ("default: mini\nmoderation: {output: [pii], on_match: redcat}", "did you mean 'redact'?"),
        ("default: mini\ncases: [{given: {}, expect: {backend: mnii}}]", "cases[0].expect.backend: there is no backend 'mnii'"),
        ("default: mini\ncases: [{given: {}, expect: {}}]", "a case must expect something"),
        ("{}", "not valid YAML"),
        ("", "a request that no rule matches would go nowhere: set 'default'"),
        ("default: 5", "put it in quotes: '5'"),
        ("default: mini\nmerge: 1", "unknown key 'merge'"),
    ],
)
def test_what_could_never_work_is_refused(load: Load, rest: str, message: str) -> None:
    found = errors(load, BACKENDS + rest)
    assert any(message in line for line in found), found
    assert all(re.match(r"policy\.yaml:\d+:\d+: ", line) for line in found)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{kind: openai, model: unpriced}", "the price of 'unpriced' is not known"),
        ("{kind: openai}", "the key 'model' is missing"),
        ("{kind: openai, model: m, api_key_env: HOME}", "must end in _API_KEY, found 'HOME'"),
        ("{kind: openai, model: m, base_url: 'ftp://x/'}", "expected an http or https URL"),
        ("{kind: openai, model: m, base_url: 'http://u:p@x/'}", "must not hold a name or a password"),
        ("{kind: openai, model: m, price: {input: 1, output: 1}, queue_s: 3}", "does nothing here: no `max_concurrency`"),
        ("{kind: openai, model: m, price: {input: 1, output: 1}, hedge: {after_s: 1, backend: mni}}", "there is no backend 'mni'"),
        ("{kind: openai, model: m, retry: {attempts: 0}}", "retry.attempts"),
        ("{kind: openai, model: m, breaker: {open: 5}}", "breaker"),
        ("{kind: openai, model: m, clearance: secret}", "expected one of public, internal, confidential, restricted"),
        ("{kind: openai, model: 5}", "put it in quotes: '5'"),
        ("{model: m}", "the key 'kind' is missing"),
        ("{kind: llama, model: m, device: gpu}", "must match"),
    ],
)
def test_a_backend_that_could_never_work_is_refused(load: Load, table: str, message: str) -> None:
    (line,) = errors(load, f"version: 1\nbackends:\n  a: {table}\ndefault: a\n")
    assert message in line


def test_the_built_in_backend_cannot_be_made_something_else(load: Load) -> None:
    assert "'extractive' is built in" in errors(load, "version: 1\nbackends: {extractive: {kind: openai, model: m}}\ndefault: extractive")[0]
    assert (
        load("version: 1\nbackends: {extractive: {kind: extractive, clearance: internal}}\ndefault: extractive").backends["extractive"].clearance == "internal"
    )


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "localhost",
        "[::1]",
        "vllm",
        "a.internal",
        "2130706433",
        "127.1",
        "0x7f.1",
        "localhost.",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[ff02::1]",
    ],
)
def test_a_private_address_may_come_from_the_file_only(load: Load, host: str) -> None:
    text = f"version: 1\nbackends: {{a: {{kind: openai, model: m, base_url: 'http://{host}:8000/v1'}}}}\ndefault: a"
    assert load(text).backends["a"].spec.model == "m"
    assert "is a private address" in errors(load, text, private_addresses=False)[0]


@pytest.mark.parametrize("host", ["api.mistral.ai", "8.8.8.8", "[2606:4700::1111]", "[64:ff9b::808:808]"])
def test_a_public_address_may_come_from_anywhere(load: Load, host: str) -> None:
    assert load(f"version: 1\nbackends: {{a: {{kind: openai, model: m, base_url: 'https://{host}/v1'}}}}\ndefault: a", private_addresses=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com:abc/v1",
        "https://example.com:99999/v1",
        "https://1\uff127.0.0.1/v1",
        "https://a..b.com/v1",
        "https://exa mple.com/v1",
        "https://[::1/v1",
        "https://example.com\\@127.0.0.1/v1",
        "https://" + "a" * 64 + ".com/v1",
        "ftp://example.com",
    ],
)
def test_an_address_that_nothing_can_connect_to_is_a_problem_of_the_policy(load: Load, url: str) -> None:
    text = f"version: 1\nbackends: {{a: {{kind: openai, model: m, base_url: {msgspec.json.encode(url).decode()}}}}}\ndefault: a"
    assert "backends.a.base_url" in errors(load, text)[0]


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("{kind: scripted, bill_to: /var/log/bill}", "bill_to"),
        ("{kind: llama, model: /etc}", "model"),
        ("{kind: llama, model: ../models/llama}", "model"),
        ("{kind: llama, model: ~/llama}", "model"),
        ("{kind: llama, model: here}", "model"),
    ],
)
def test_files_of_this_machine_may_come_from_the_file_only(load: Load, table: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    text = f"version: 1\nbackends: {{a: {table}}}\ndefault: a"
    assert load(text).backends["a"]
    (problem,) = errors(load, text, private_addresses=False)
    assert f"backends.a.{key}: names a file or folder" in problem


def test_a_hub_id_may_come_from_anywhere(load: Load) -> None:
    assert load("version: 1\nbackends: {a: {kind: llama, model: meta-llama/Llama-3.2-1B-Instruct}}\ndefault: a", private_addresses=False)


@pytest.mark.parametrize(("name", "value"), [("x-a", "one\r\ntwo: 2"), ("x-a", "\u2603"), ("x a", "fine"), ("x-a", "\u0000")])
def test_a_header_that_cannot_be_sent_is_a_problem_of_the_policy(load: Load, name: str, value: str) -> None:
    header = msgspec.json.encode({name: value}).decode()
    assert "backends.a.headers" in errors(load, f"version: 1\nbackends: {{a: {{kind: openai, model: m, headers: {header}}}}}\ndefault: a")[0]


def test_a_lock_after_an_unconditional_rule_still_holds_and_is_accepted(load: Load) -> None:
    load(BACKENDS + "rules: [{name: all, use: [mini]}, {name: home, when: {data_class: restricted}, use: [local], lock: true}]")


def test_the_json_schema_knows_every_section_and_every_kind() -> None:
    schema = json_schema()
    assert set(schema["$defs"]["PolicyFile"]["properties"]) == {field.encode_name for field in msgspec.structs.fields(PolicyFile)}
    assert schema["$defs"]["BackendSpec"]["oneOf"] == [{"$ref": f"#/$defs/backend-{kind}"} for kind in kinds()]
    text = msgspec.json.encode(schema).decode()
    for name in re.findall(r'"#/\$defs/([^"]+)"', text):
        assert name in schema["$defs"]


def test_the_shipped_policy_loads_and_its_own_cases_hold() -> None:
    from adapters.price_book import price_for
    from policies.cases import run_cases
    from policies.load import load_policy

    path = Path(__file__).resolve().parents[2] / "config" / "defaults" / "headgate.yaml"
    policy = load_policy(path.read_text(), str(path), price_of=lambda _, spec: price_for(spec))
    results = run_cases(policy)
    assert len(results) == 3
    assert [result.failures for result in results] == [(), (), ()]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("price: {input: -1, output: 1}", "price.input: must be at least 0, found -1"),
        ("price: {input: 1, output: 1, cache_read: -0.5}", "price.cache_read: must be at least 0, found -0.5"),
        ("price: {input: 1, output: 1, request: -2}", "price.request: must be at least 0, found -2"),
        ("price: {input: 1, output: 1, tiers: [{above: -5, input: 1, output: 1}]}", "price.tiers[0].above: must be at least 0, found -5"),
        ("max_output_tokens: 0", "max_output_tokens: must be at least 1, found 0"),
        ("context_window: -8", "context_window: must be at least 1, found -8"),
        ("timeout_s: 0", "timeout_s: must be more than 0, found 0"),
        ("total_s: -1", "total_s: must be more than 0, found -1"),
        ("connect_s: -1", "connect_s: must be more than 0, found -1"),
    ],
)
def test_numbers_of_a_backend_that_make_no_sense_are_refused_with_their_line(load: Load, table: str, problem: str) -> None:
    with pytest.raises(PolicyError) as raised:
        load(f"version: 1\nbackends:\n  mini:\n    kind: openai\n    model: gpt-5-mini\n    {table}\ndefault: mini\n")
    assert f"backends.mini.{problem}" in str(raised.value)
    assert ":6:" in str(raised.value)


@pytest.mark.parametrize("name", ["naïve", "日本", "a\tb", "a\nb", "x" * 65, "a;b"])
def test_a_name_that_no_header_can_hold_is_refused_where_it_stands(load: Load, name: str) -> None:
    quoted = msgspec.json.encode(name).decode()
    text = f"version: 1\nbackends:\n  {quoted}: {{kind: scripted}}\nrules:\n  - {{name: {quoted}, use: [extractive]}}\ndefault: extractive\n"
    lines = errors(load, text)
    assert len(lines) == 2
    assert lines[0].startswith("policy.yaml:3:3: ")
    assert lines[1].startswith("policy.yaml:5:12: rules[0].name: ")
    assert all("is no name: 1 to 64 of the letters A to Z, digits, spaces and _ . : / @ + - are" in line for line in lines)


def test_a_policy_says_whether_it_asks_how_hard_a_question_is(load: Load) -> None:
    plain = BACKENDS + "default: mini\n"
    assert not load(plain).asks_complexity
    assert load(WHOLE).asks_complexity
    assert load(plain + "rules: [{name: hard, when: {min_complexity: 0.7}, use: [claude]}]\n").asks_complexity
