"""The commands without a running server, each as text and as JSON."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import stat
import time
from pathlib import Path

import pytest

from adapters.types import Usage
from config.database import open_database
from config.prices import Price
from router.money.accounting import Accounting
from router.money.settlement import AttemptPlan, Caps, Settlement
from tests.router.cli.kit import Command
from tests.seals import SEALS, SECRET

POLICY = """
version: 1
backends:
  mini: {kind: scripted, price: {input: 1, output: 4}}
  large: {kind: scripted, price: {input: 3, output: 15}}
rules:
  - {name: code, when: {task: code}, use: [large]}
default: mini
fallback: []
tenants: {acme: {budget_usd: {month: 5}}}
cases:
  - {name: code goes to large, given: {task: code}, expect: {backend: large}}
  - {name: chats go to large, given: {}, expect: {backend: large}}
"""


def test_tenants_and_keys_live_in_the_home_folder(headgate: Command) -> None:
    assert headgate("tenants", "create", "acme").out == "tenant acme made; give it a key: headgate keys create --tenant acme\n"
    assert headgate("tenants", "create", "globex", "--json").json == {"name": "globex"}
    assert [row["name"] for row in headgate("tenants", "list", "--json").json] == ["acme", "globex"]
    assert headgate("tenants", "list").out.split() == ["NAME", "acme", "globex"]
    made = headgate("keys", "create", "--tenant", "acme", "--role", "member", "--json").json
    assert made["key"].startswith("hg-")
    assert headgate("keys", "create", "--tenant", "acme").out.startswith("hg-")
    assert headgate("keys", "create", "--role", "operator", "--json").json["tenant"] == ""
    listed = headgate("keys", "list", "--tenant", "acme", "--json").json
    assert made["id"] in {row["id"] for row in listed}
    assert made["key"] not in json.dumps(listed)
    assert headgate("keys", "revoke", made["id"]).out == f"{made['id']} revoked\n"
    (line,) = [line for line in headgate("keys", "list").out.splitlines() if made["id"] in line]
    assert line.endswith("revoked")


def test_teams_users_and_narrowed_keys_are_made_listed_and_closed(headgate: Command) -> None:
    headgate("tenants", "create", "acme")
    team = headgate("teams", "create", "Research", "--tenant", "acme", "--json").json
    user = headgate("users", "create", "--tenant", "acme", "--team", team["id"], "--subject", "auth0|1", "--name", "Ada", "--json").json
    assert (team["name"], user["team"], user["role"], user["display_name"]) == ("Research", team["id"], "member", "Ada")
    narrow = ["--route", "chat", "--route", "usage", "--network", "10.0.0.0/8", "--model", "mini", "--max-data-class", "internal", "--expires", "90d"]
    made = headgate("keys", "create", "--tenant", "acme", "--user", user["id"], *narrow, "--json").json
    (key,) = headgate("keys", "list", "--user", user["id"], "--json").json
    assert (key["id"], key["user"], key["team"], key["routes"], key["networks"]) == (made["id"], user["id"], None, ["chat", "usage"], ["10.0.0.0/8"])
    assert (key["models"], key["max_data_class"]) == (["mini"], "internal")
    assert key["expires_at"] == pytest.approx(time.time() + 90 * 86_400, abs=300)
    for group, command, undo, id, state in (("teams", "archive", "restore", team["id"], "archived"), ("users", "disable", "enable", user["id"], "disabled")):
        assert headgate(group, command, id).out == f"{id} {state}\n"
        (line,) = [line for line in headgate(group, "list", "--tenant", "acme").out.splitlines() if id in line]
        assert line.endswith(state)
        headgate(group, undo, id)
        assert headgate(group, "list", "--json").json[0][f"{state}_at"] is None


def test_a_key_is_rotated_with_an_overlap(headgate: Command) -> None:
    headgate("tenants", "create", "acme")
    old = headgate("keys", "create", "--tenant", "acme", "--expires", "2999-01-01", "--json").json
    new = headgate("keys", "rotate", old["id"], "--overlap", "24h", "--json").json
    assert new["key"] != old["key"]
    first, second = headgate("keys", "list", "--json").json
    assert (first["replaced_by"], second["replaced_by"], second["role"]) == (new["id"], None, "member")
    assert first["expires_at"] == pytest.approx(time.time() + 86_400, abs=300)
    assert headgate("keys", "rotate", new["id"]).out.startswith("hg-")
    states = [line.split()[-1] for line in headgate("keys", "list").out.splitlines()[1:]]
    assert states == ["live", "expired", "live"]


def test_documents_are_added_found_listed_and_deleted(headgate: Command, tmp_path: Path) -> None:
    (tmp_path / "handbook.md").write_text("# Parking\n\nParking in the garage costs 12 euros a day.\n")
    (done,) = headgate("documents", "add", "handbook.md", "--store", "kb", "--json").json
    assert (done["filename"], done["status"]) == ("handbook.md", "completed")
    (hit,) = headgate("documents", "search", "what does the garage cost", "--store", "kb", "--json").json
    assert "12 euros" in hit["text"]
    assert "handbook.md  [" in headgate("documents", "search", "garage", "--store", "kb").out
    assert "kb" in headgate("documents", "list").out
    assert "handbook.md" in headgate("documents", "list", "--store", "kb").out
    (listed,) = headgate("documents", "list", "--store", "kb", "--json").json
    assert listed["filename"] == "handbook.md"
    assert headgate("documents", "delete", done["file_id"], "--json").json == {"id": done["file_id"], "deleted": True}
    assert headgate("documents", "search", "garage", "--store", "kb").out == "nothing found\n"
    assert headgate("documents", "list", "--store", "kb", "--json").json == []


def test_a_policy_is_validated_and_tested(headgate: Command, tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(POLICY)  # found without being named
    assert "valid; 3 backends, 1 rules" in headgate("policy", "validate").out
    assert headgate("policy", "validate", "--json").json == {"valid": True, "problems": []}
    tested = headgate("policy", "test")
    assert tested.status == 1
    assert "ok    code goes to large" in tested.out
    assert "FAIL  chats go to large\n        expected backend 'large', got 'mini'" in tested.out
    assert "1 of 2 cases hold" in tested.out
    assert [row["ok"] for row in json.loads(headgate("policy", "test", "--json").out)] == [True, False]
    (tmp_path / "headgate.yaml").write_text(POLICY.replace("given: {}, expect: {backend: large}", "given: {}, expect: {backend: mini}"))
    assert headgate("policy", "test").status == 0
    (tmp_path / "bad.yaml").write_text("version: 1\ndefault: nope\n")
    refused = headgate("policy", "validate", "bad.yaml", "--json")
    assert refused.status == 2
    assert json.loads(refused.out)["problems"][0]["line"] == 2


def test_explain_says_where_a_request_goes_and_why(headgate: Command, tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(POLICY)
    done = headgate("policy", "explain", "Write a function that sorts a list in Python")
    assert (done.status, done.out.splitlines()[:2]) == (0, ["candidates: large", "  rule:code"])
    assert "request: task code; language en; data class internal; input tokens 18; turns 1; complexity 0." in done.out
    assert headgate("policy", "explain", "Hello there", "--json").json["candidates"] == ["mini"]
    unknown = headgate("policy", "explain", "Hello", "--model", "gpt-0")
    assert unknown.status == 1
    assert unknown.out.startswith("refused: model_not_found: there is no model 'gpt-0'")
    (tmp_path / "body.json").write_text('{"model": "large", "messages": [{"role": "user", "content": "Hi"}]}')
    assert headgate("policy", "explain", "--body", "body.json", "--json").json["candidates"] == ["large"]


def test_the_embedded_policy_explains_why_a_provider_is_left_out(headgate: Command) -> None:
    done = headgate("policy", "explain", "Hello")
    assert done.out.splitlines()[0] == "candidates: extractive"
    assert "openai: OPENAI_API_KEY is not set" in done.out
    with_key = headgate("policy", "explain", "Hello", "--json", OPENAI_API_KEY="sk-of-a-test").json
    assert with_key["candidates"] == ["openai"]


def test_the_schema_for_editors_names_every_section(headgate: Command) -> None:
    schema = json.loads(headgate("policy", "schema").out)
    assert {"backends", "rules", "default", "moderation"} <= schema["$defs"]["PolicyFile"]["properties"].keys()
    included = json.loads(headgate("policy", "schema", "--included").out)
    assert included["$ref"] == "#/$defs/IncludedFile"
    assert {"const": "openai"} in [entry["properties"]["kind"] for name, entry in schema["$defs"].items() if name.startswith("backend-")]


def test_doctor_says_what_is_there_and_fails_only_for_what_must_be_mended(headgate: Command, tmp_path: Path) -> None:
    done = headgate("doctor")
    assert done.status == 0
    assert "note  backend openai: openai gpt-5-mini: OPENAI_API_KEY is not set" in done.out
    assert "ok    backend extractive: extractive extractive: ready" in done.out
    found = {finding["subject"]: finding["level"] for finding in headgate("doctor", "--json").json}
    assert found["database"] == "ok"
    (tmp_path / "embedders.yaml").write_text(
        "version: 1\nbackends: {mini: {kind: scripted}}\nembedders: {small: {kind: openai, model: text-embedding-3-small}}\ndefault: mini\n"
    )
    assert "note  embedder small: openai text-embedding-3-small: OPENAI_API_KEY is not set" in headgate("doctor", "--config", "embedders.yaml").out
    (tmp_path / "bad.yaml").write_text("version: 1\ndefault: nope\n")
    broken = headgate("doctor", "--config", "bad.yaml", DATABASE_URL="postgresql://me:hidden@127.0.0.1:1/x")
    assert broken.status == 1
    assert "FAIL  database: postgresql://me:***@127.0.0.1:1/x does not answer" in broken.out
    assert "FAIL  policy:" in broken.out


def test_a_new_home_is_its_owners_alone_and_an_open_one_is_left_as_it_is_and_named(headgate: Command, tmp_path: Path) -> None:
    home, before = tmp_path / "var", os.umask(0o022)
    try:
        headgate("tenants", "create", "acme")
        assert (stat.S_IMODE(home.stat().st_mode), stat.S_IMODE((home / "headgate.db").stat().st_mode)) == (0o700, 0o600)
        assert "home's modes" not in headgate("doctor").out
        home.chmod(0o755)
        done = headgate("doctor")
    finally:
        os.umask(before)
    assert f"note  home's modes: others may look into {home} (mode 755)" in done.out
    assert (done.status, stat.S_IMODE(home.stat().st_mode)) == (0, 0o755)


async def book(url: str) -> None:
    """One answer of tenant acme, 1,000 tokens in and 500 out, and a failure of tenant globex."""
    database = open_database(url)
    accounting = Accounting(database, "worker", SEALS)
    plan = AttemptPlan("mini", "local", "scripted", Price(input=1, output=4), 1000, 1000, 5_000_000_000, "default", 1_767_225_600.0)
    for tenant, outcome, usage, cost in (
        ("acme", "ok", Usage(input_tokens=1000, output_tokens=500, source="provider"), 3_000_000_000),
        ("globex", "error", Usage(source="estimated"), 0),
    ):
        booking = await accounting.reserve(f"request-{tenant}", tenant, "key", 1, Caps(month=5 * 10**12), plan)
        await accounting.settle(booking, Settlement(outcome, usage, cost, None, "scripted", 100, None, 1_767_225_600.0))  # type: ignore[arg-type]
    await database.aclose()


def test_usage_and_the_ledger_are_reported_by_tenant_and_period(headgate: Command, database_url: str) -> None:
    for tenant in ("acme", "globex"):
        assert headgate("tenants", "create", tenant, DATABASE_URL=database_url, HEADGATE_SECRET=SECRET.decode()).status == 0
    asyncio.run(book(database_url))
    (line,) = headgate("usage", "--tenant", "acme", "--json", DATABASE_URL=database_url, HEADGATE_SECRET=SECRET.decode()).json["data"]
    assert (line["input_tokens"], line["output_tokens"], line["cost_usd"]) == (1000, 500, 0.003)
    shown = headgate("usage", DATABASE_URL=database_url, HEADGATE_SECRET=SECRET.decode()).out
    assert "0.003000" in shown
    assert "5.00" in shown  # the cap
    assert headgate("usage", "--since", "2026-01-02", "--json", DATABASE_URL=database_url, HEADGATE_SECRET=SECRET.decode()).json["data"] == []
    rows = [json.loads(line) for line in headgate("ledger", "export", DATABASE_URL=database_url, HEADGATE_SECRET=SECRET.decode()).out.splitlines()]
    assert {(row["tenant"], row["outcome"], row["cost"]) for row in rows} == {("acme", "ok", 3_000_000_000), ("globex", "error", 0)}
    exported = headgate(
        "ledger", "export", "--format", "csv", "--tenant", "acme", "--until", "2026-01-02", DATABASE_URL=database_url, HEADGATE_SECRET=SECRET.decode()
    ).out
    (row,) = csv.DictReader(io.StringIO(exported))
    assert (row["request_id"], row["cost_usd"]) == ("request-acme", "0.003")
    assert headgate("ledger", "export", "--since", "2026-01-02", DATABASE_URL=database_url, HEADGATE_SECRET=SECRET.decode()).out == ""
