"""`headgate audit`, `decisions`, `erase` and `ledger verify`, without a running server."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.router.cli.kit import Command
from tests.serving import serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}}
default: mini
fallback: []
"""


def changed(home: Path, *statements: str) -> None:
    """Past the service, as somebody with the database's file does it."""
    with closing(sqlite3.connect(home / "headgate.db")) as connection:
        for statement in ("DROP TRIGGER audit_log_no_update", "DROP TRIGGER audit_log_no_delete", *statements):
            connection.execute(statement)
        connection.commit()


def test_what_commands_change_is_in_the_log_with_who_ran_them(headgate: Command, tmp_path: Path) -> None:
    headgate("tenants", "create", "acme")
    key = headgate("keys", "create", "--tenant", "acme", "--role", "member", "--json").json
    headgate("keys", "revoke", key["id"])
    headgate("ledger", "export")
    text = tmp_path / "a.txt"
    text.write_text("A text.")
    found = headgate("audit", "list", "--json").json
    assert [entry["action"] for entry in found["data"]] == ["ledger.read", "key.revoke", "key.create", "tenant.create"]
    assert {(entry["actor"], entry["request_id"]) for entry in found["data"]} == {("cli", "")}
    assert all(entry["details"]["os_user"] for entry in found["data"])
    assert key["key"] not in str(found)
    assert "key.revoke" in headgate("audit", "list").out
    assert len(headgate("audit", "list", "--action", "key.create", "--json").json["data"]) == 1
    assert headgate("audit", "list", "--limit", "1", "--json").json["has_more"]
    exported = headgate("audit", "export", "--format", "csv", "--tenant", "acme").out.splitlines()
    assert exported[0].startswith("seq,id,at,actor")
    assert len(exported) == 5  # with its own
    assert len(headgate("audit", "export").out.splitlines()) == 10  # with its own entry, which was there before the first line was shown


def test_what_an_export_shows_is_recorded_before_also_where_nobody_can_write_it_down(headgate: Command, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "ledger.csv"
    assert headgate("ledger", "export", "--format", "csv", "--out", str(missing)).status != 0
    assert [each["action"] for each in headgate("audit", "list", "--json").json["data"]] == ["ledger.read"]


def test_a_change_of_the_file_is_found_by_verify_and_located(headgate: Command, tmp_path: Path) -> None:
    for name in ("acme", "globex", "initech"):
        headgate("tenants", "create", name)
    done = headgate("audit", "verify")
    assert (done.status, "3 entries" in done.out, "whole" in done.out) == (0, True, True)
    kept = headgate("audit", "head").out.strip()
    assert headgate("audit", "head", "--json").json["head"] == kept
    assert headgate("audit", "verify", "--head", kept).status == 0
    assert headgate("audit", "verify", "--head", "3:x").status == 2
    changed(tmp_path / "var", "UPDATE audit_log SET object_id = 'other' WHERE seq = 2")
    done = headgate("audit", "verify")
    assert done.status == 1
    assert done.out.startswith("row 2, column hash: was changed")
    done = headgate("audit", "verify", "--json")
    assert done.status == 1
    assert '"position": 2' in done.out
    done = headgate("ledger", "verify")
    assert done.status == 1
    assert "audit_log: row audit_log_no_update: the trigger" in done.out


def test_entries_are_pruned_under_a_checkpoint(headgate: Command) -> None:
    for name in ("acme", "globex", "initech"):
        headgate("tenants", "create", name)
    assert headgate("audit", "prune", "--through", "9").status == 1
    assert headgate("audit", "prune", "--through", "2", "--json").json == {"through": 2, "removed": 2}
    assert headgate("audit", "verify", "--json").json["rows"] == 2
    assert [entry["action"] for entry in headgate("audit", "list", "--json").json["data"]] == ["audit.prune", "tenant.create"]


def test_whole_books_verify_and_a_changed_counter_is_named(headgate: Command, tmp_path: Path) -> None:
    headgate("tenants", "create", "acme")
    assert headgate("ledger", "verify", "--json").json == {"ok": True, "problems": [], "sealing": None}
    assert headgate("ledger", "verify").out == "the books hold together\n"
    with closing(sqlite3.connect(tmp_path / "var" / "headgate.db")) as connection:
        for period in ("month:2026-11", "day:2026-11-21"):
            connection.execute("INSERT INTO budgets (tenant, period, cap, spent, reserved) VALUES ('acme', ?, 10, 7, 0)", (period,))
        connection.commit()
    done = headgate("ledger", "verify")
    assert done.status == 1
    assert "budgets: row acme month:2026-11, column spent: is not the sum of the ledger's rows; expected 0, found 7" in done.out


def test_what_a_command_logs_is_not_among_what_it_prints(headgate: Command, tmp_path: Path) -> None:
    headgate("tenants", "create", "acme")
    with closing(sqlite3.connect(tmp_path / "var" / "headgate.db")) as connection:
        connection.execute("DELETE FROM audit_heads")
        connection.commit()
    done = headgate("audit", "export")
    assert "audit_discontinued" in done.err
    assert [json.loads(line)["action"] for line in done.out.splitlines()][-2:] == ["audit.discontinued", "audit.read"]


@pytest.fixture
async def request_id(tmp_path: Path) -> str:
    """A request that was answered in this home, and recorded."""
    import openai

    async with (
        serving(POLICY, tmp_path / "var") as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk,
    ):
        answer = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])
        assert answer.model_extra is not None
        return str(answer.model_extra["headgate"]["decision_id"])


def test_a_decision_is_shown_and_made_once_more(request_id: str, headgate: Command) -> None:
    shown = headgate("decisions", "show", request_id)
    assert (shown.status, "candidates: mini" in shown.out, "0.0000" in shown.out) == (0, True, True)
    assert headgate("decisions", "show", request_id, "--json").json["decision"]["decision"]["candidates"] == ["mini"]
    assert headgate("decisions", "replay", request_id).out == "the same decision\n"
    assert headgate("decisions", "replay", request_id, "--json").json["equal"] is True
    missing = headgate("decisions", "show", "nothing")
    assert (missing.status, "x-request-id" in missing.err) == (1, True)
    assert [entry["action"] for entry in headgate("audit", "list", "--action", "decision.read", "--json").json["data"]] == ["decision.read"] * 4


def test_a_user_is_erased_by_their_id_alone(headgate: Command) -> None:
    headgate("tenants", "create", "acme")
    missing = headgate("erase", "user_x")
    assert (missing.status, "headgate users list" in missing.err) == (1, True)
    user = headgate("users", "create", "--tenant", "acme", "--email", "jane@example.com", "--name", "Jane", "--json").json
    headgate("keys", "create", "--tenant", "acme", "--user", user["id"], "--name", "Jane's")
    assert headgate("erase", user["id"], "--json").json == {
        "user": user["id"],
        "tenant": "acme",
        "deleted": {"prompts": 0, "responses": 0, "conversations": 0, "idempotent_answers": 0, "remembered_parts": 0, "feedback": 0, "embeddings": 0},
    }
    (erased,), (key,) = headgate("users", "list", "--json").json, headgate("keys", "list", "--json").json
    assert (erased["email"], erased["display_name"], key["name"]) == (None, None, "erased")
    assert headgate("audit", "list", "--action", "user.erase", "--json").json["data"][0]["object_id"] == user["id"]
    assert "ane" not in headgate("audit", "export").out


def test_changes_of_teams_users_and_keys_are_in_the_log(headgate: Command) -> None:
    headgate("tenants", "create", "acme")
    team = headgate("teams", "create", "Research", "--tenant", "acme", "--json").json["id"]
    user = headgate("users", "create", "--tenant", "acme", "--team", team, "--json").json["id"]
    key = headgate("keys", "create", "--tenant", "acme", "--user", user, "--json").json["id"]
    new = headgate("keys", "rotate", key, "--json").json["id"]
    for _ in range(2):
        headgate("keys", "revoke", new)
        headgate("users", "disable", user)
        headgate("teams", "archive", team)
    headgate("users", "enable", user)
    headgate("teams", "restore", team)
    headgate("users", "list")
    headgate("keys", "list", "--tenant", "acme")
    assert headgate("teams", "create", "Research", "--tenant", "acme").status == 1
    assert headgate("users", "disable", "user_x").status == 1
    found = headgate("audit", "list", "--json").json["data"]
    assert [(entry["action"], entry["object_id"]) for entry in reversed(found)] == [
        ("tenant.create", "acme"),
        ("team.create", team),
        ("user.create", user),
        ("key.create", key),
        ("key.rotate", key),
        ("key.create", new),
        ("key.revoke", new),
        ("user.disable", user),
        ("team.archive", team),
        ("user.enable", user),
        ("team.restore", team),
        ("user.read", ""),
        ("key.read", ""),
    ]
    assert {entry["actor"] for entry in found} == {"cli"}
    assert headgate("audit", "verify").status == 0
