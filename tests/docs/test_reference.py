"""Everything that has a name in the code has an entry in the documentation, and nothing else has."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, get_args

import click
import msgspec
import pytest
import yaml
from litestar import Litestar
from litestar.routes import HTTPRoute
from msgspec import NODEFAULT, Struct

from adapters.backend import BackendSpec, RemoteSpec, kind_named, kinds
from adapters.embedders import EmbedderSpec
from adapters.errors import ERRORS
from config.settings import Settings
from policies import federation, schema
from policies.access import PLATFORM_MATRIX, ROUTE_GROUPS, TENANT_MATRIX
from policies.access_matrix import ACCESS
from policies.decide import STATUS
from policies.load import load_policy
from policies.moderation.rules import DENY_LIST, RULES
from router.app import _CODES, create_app
from router.audit.log import AuditAction
from router.backends import load_kinds
from router.cli import cli
from router.gateway import Gateway
from router.launch import DEFAULT_POLICY
from router.policy_in_force import known_price
from router.tables import ledger
from router.telemetry import Metrics
from router.wire.call import Hints
from router.wire.headgate import Headgate
from tests.docs.reading import ROOT, names, page, table


def check_fields(rows: list[list[str]], fields: list[msgspec.structs.FieldInfo]) -> None:
    """A table `key | type | default | meaning` against a struct: the same keys in any order, and the same defaults where they are values."""
    assert sorted(row[0] for row in rows) == sorted(field.name for field in fields)
    shown = {row[0]: row[2] for row in rows}
    for field in fields:
        if field.default is NODEFAULT and field.default_factory is NODEFAULT:
            assert shown[field.name] == "required", field.name
            continue
        default = field.default if field.default is not NODEFAULT else field.default_factory()  # type: ignore[operator]
        if isinstance(default, Struct):
            assert shown[field.name] != "required"
        else:
            assert shown[field.name] == written(default), field.name


def written(value: Any) -> str:
    """A default as the tables write it."""
    match msgspec.to_builtins(value, enc_hook=str):
        case None:
            return "-"
        case "":
            return "empty"
        case bool() as truth:
            return str(truth).lower()
        case [*items]:
            return f"[{', '.join(map(str, items))}]"
        case other:
            return str(other)


def own(spec: type[BackendSpec], *parents: type[Struct]) -> list[msgspec.structs.FieldInfo]:
    """The fields that a kind adds, or whose default or type it changes."""
    inherited = {field.name: field for parent in parents for field in msgspec.structs.fields(parent)}
    fields = msgspec.structs.fields(spec)
    return [
        field for field in fields if field.name not in inherited or (field.type, field.default) != (inherited[field.name].type, inherited[field.name].default)
    ]


def test_every_setting_is_documented_with_its_default() -> None:
    check_fields(table(page("settings.md")), list(msgspec.structs.fields(Settings)))


def test_every_variable_that_the_code_reads_is_documented() -> None:
    documented = set(names(table(page("settings.md"), "Variables"))) | {f"HEADGATE_{field.upper()}" for field in Settings.__struct_fields__}
    read: set[str] = set()
    for folder in ("config", "adapters", "policies", "retrieval", "router"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and re.fullmatch(r"HEADGATE_[A-Z_]*[A-Z]|DATABASE_URL|[A-Z]+_API_KEY", node.value)
                ):
                    read.add(node.value)
    assert {"DATABASE_URL", "HEADGATE_CONFIG", "OPENAI_API_KEY"} <= read
    assert read <= documented


STRUCTS = {
    "File": schema.PolicyFile,
    "Rule": schema.Rule,
    "Weighted": schema.Weighted,
    "When": schema.When,
    "Complexity": schema.Complexity,
    "Target": schema.Target,
    "Moderation": schema.Moderation,
    "Tenant moderation": schema.TenantModeration,
    "Input": schema.InputLimits,
    "Grounding": schema.Grounding,
    "History": schema.History,
    "Alerts": schema.Alerts,
    "Tenant alerts": schema.TenantAlerts,
    "Tenant": schema.Tenant,
    "Tenant budget": schema.TenantBudget,
    "Budget": schema.Budget,
    "Prompts": schema.Prompts,
    "Limits": schema.Limits,
    "Default limits": schema.DefaultLimits,
    "Model limits": schema.ModelLimits,
    "Key limits": schema.KeyLimits,
    "Team limits": schema.TeamLimits,
    "Queue": schema.Queue,
    "Address limits": schema.IpLimits,
    "Case": schema.Case,
    "Given": schema.Given,
    "Expect": schema.Expect,
}


@pytest.mark.parametrize("section", STRUCTS)
def test_every_key_of_the_policy_is_documented_with_its_default(section: str) -> None:
    check_fields(table(page("policy.md"), section), list(msgspec.structs.fields(STRUCTS[section])))


def test_every_key_of_an_embedder_is_documented() -> None:
    check_fields(table(page("backends.md"), "Embedders"), list(msgspec.structs.fields(EmbedderSpec)))


@pytest.mark.parametrize(
    ("section", "struct"), [("Issuers", federation.Issuer), ("Client certificates", federation.Certificates), ("Client", federation.ClientCertificate)]
)
def test_every_key_of_the_identity_block_is_documented_with_its_default(section: str, struct: type[Struct]) -> None:
    check_fields(table(page("tokens.md"), section), list(msgspec.structs.fields(struct)))


def test_every_table_of_the_policy_has_a_section() -> None:
    found = {value for value in vars(schema).values() if isinstance(value, type) and issubclass(value, Struct) and value.__module__ == schema.__name__}
    assert found == set(STRUCTS.values())


def test_every_key_of_every_kind_of_backend_is_documented() -> None:
    load_kinds(Settings())
    text = page("backends.md")
    check_fields(table(text, "Keys of every kind"), list(msgspec.structs.fields(BackendSpec)))
    check_fields(table(text, "Keys of the remote kinds"), own(RemoteSpec, BackendSpec))
    shipped = [kind for kind in kinds() if kind_named(kind).spec.__module__.startswith("adapters.")]
    assert set(shipped) >= {"openai", "anthropic", "gemini", "llama", "extractive", "scripted"}
    for kind in shipped:
        spec = kind_named(kind).spec
        fields = own(spec, BackendSpec, RemoteSpec) if kind_named(kind).remote else own(spec, BackendSpec)
        if fields and [field.name for field in fields] != ["model"]:
            check_fields(table(text, kind), fields)
        else:
            assert f"\n## {kind}\n" in text


@pytest.fixture(scope="module")
def app() -> Litestar:
    async def never() -> Gateway:
        raise AssertionError("the application is not started here")

    return create_app(never, max_body_bytes=1)


def shown(app: Litestar) -> Iterator[tuple[str, str]]:
    """The endpoints of every route in the API reference."""
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for method, (handler, _) in route.route_handler_map.items():
            if method != "OPTIONS" and handler.include_in_schema is not False and not route.path_format.startswith("/schema"):
                yield method, route.path_format


def test_every_route_is_documented_with_the_action_it_needs(app: Litestar) -> None:
    documented = {row[0]: row[1] for row in table(page("api.md"), "Routes")}
    assert {" ".join(endpoint): ACCESS[endpoint] for endpoint in shown(app)} == documented


def test_every_group_of_routes_is_documented_with_its_actions() -> None:
    documented = {row[0]: set(row[1].split(", ")) for row in table(page("identity.md"), "Routes")}
    assert documented == {group: set(actions) for group, actions in ROUTE_GROUPS.items()}


def test_every_role_is_documented_with_its_actions() -> None:
    rows = {(row[0], row[1]): row[2] for row in table(page("api.md"), "Roles")}
    expected = {(role, "tenant"): actions for role, actions in TENANT_MATRIX.items()} | {
        (role, "platform"): actions for role, actions in PLATFORM_MATRIX.items()
    }
    assert rows.keys() == expected.keys()
    for key, actions in expected.items():
        shown = rows["owner", "tenant"] if rows[key] == "the same" else rows[key]
        assert set(shown.split(", ")) == actions, key


def _is_text(assigned: ast.Assign) -> bool:
    return isinstance(assigned.targets[0], ast.Name) and isinstance(assigned.value, ast.Constant) and isinstance(assigned.value.value, str)


def codes() -> dict[str, set[int]]:
    """Every code that the service's own source refuses with, and its statuses."""
    found: dict[str, set[int]] = defaultdict(set)
    for code, error in ERRORS.items():
        found[code].add(error.http_status)
    for outcome, status in STATUS.items():
        if outcome != "ok":
            found[outcome].add(status)
    for status, code in _CODES.items():
        found[code].add(status)
    for folder in ("router", "policies", "retrieval"):
        for file in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            named = {each.targets[0].id: each.value.value for each in tree.body if isinstance(each, ast.Assign) and _is_text(each)}  # type: ignore[attr-defined]
            for node in ast.walk(tree):
                match node:
                    case ast.Call(ast.Name("ApiError" | "Refusal"), [ast.Constant(int(status)), ast.Constant(str(code)), *_]) | ast.Call(
                        ast.Attribute(ast.Call(ast.Name("super")), "__init__"), [ast.Constant(int(status)), ast.Constant(str(code)), *_]
                    ):
                        found[code].add(status)
                    case ast.Call(ast.Name("ApiError" | "Refusal"), [ast.Constant(int(status)), ast.Name(name), *_]) if name in named:
                        found[named[name]].add(status)
                    case ast.Call(ast.Name("NotFound"), [ast.Constant(str(kind)), *_]):
                        found[re.split(" in | of ", kind)[0].replace(" ", "_") + "_not_found"].add(404)
    return found


def test_every_error_code_is_documented_with_its_status() -> None:
    rows = {row[0]: {int(status) for status in row[1].split(", ")} for row in table(page("api.md"), "Errors")}
    assert rows == codes()


def test_every_hint_and_every_field_about_an_answer_is_documented() -> None:
    text = page("api.md")
    assert sorted(names(table(text[text.index("`headgate` in the body") :]))) == sorted(Hints.__struct_fields__)
    assert sorted(names(table(text[text.index("The answer's `headgate` object") :]))) == sorted(Headgate.__struct_fields__)


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    documented = {row[0]: (row[1], row[2]) for row in table(page("metrics.md"))}
    found = {}
    for family in Metrics()._registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        collector = Metrics()._registry._names_to_collectors[name]
        labels: tuple[str, ...] = collector._labelnames  # type: ignore[attr-defined]
        found[name] = (family.type, ", ".join(labels) or "-")
    assert found == documented


def test_every_moderation_rule_is_documented() -> None:
    documented = {row[0]: (row[1], row[2]) for row in table(page("moderation.md"), "Rules")}
    assert documented == {rule.name: (rule.category, rule.placeholder) for rule in RULES} | {DENY_LIST: (DENY_LIST, "[REDACTED]")}


def test_every_ledger_column_is_documented() -> None:
    assert sorted(names(table(page("accounting.md"), "The ledger's columns"))) == sorted(column.name for column in ledger.columns)


def test_every_action_of_the_audit_log_is_documented() -> None:
    assert sorted(names(table(page("audit.md"), "Actions"))) == sorted(get_args(AuditAction))


def commands(group: click.Group, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_every_command_is_documented() -> None:
    assert sorted(row[0] for row in table(page("cli.md"))) == sorted(commands(cli, "headgate"))


def test_the_default_policy_with_every_commented_example_switched_on_is_valid_and_shows_every_section() -> None:
    load_kinds(Settings())
    text = DEFAULT_POLICY.read_text(encoding="utf-8")
    switched_on = re.sub(r"^( *)# ([a-z_]+:| {2,})", r"\1\2", text.replace("  output: [secrets]\n", "", 1), flags=re.MULTILINE)
    policy = load_policy(switched_on, price_of=known_price)
    assert policy.backends.keys() == {"openai", "anthropic", "gemini", "local", "cluster", "extractive"}
    assert (len(policy.file.rules), policy.file.tenants["acme"].budget_usd.month) == (3, 200)
    assert set(yaml.safe_load(switched_on)) == set(schema.PolicyFile.__struct_fields__)
