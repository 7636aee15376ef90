"""`headgate policy import, show, versions, rollback, diff, replay`: without a running server."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.router.cli.kit import Command
from tests.serving import serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}}
  large: {kind: scripted, text: "Large.", price: {input: 10, output: 40}}
default: mini
fallback: []
cases: [{given: {}, expect: {backend: mini}}]
"""
LARGE = POLICY.replace("default: mini", "default: large")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "headgate.yaml"
    file.write_text(POLICY)
    return file


@pytest.fixture
async def asked(tmp_path: Path) -> None:
    """Three requests that were answered in this home, and recorded."""
    async with serving(POLICY, tmp_path / "var") as service, aiohttp.ClientSession(headers=service.bearer()) as session:
        for _ in range(3):
            body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
            async with session.post(f"{service.url}/v1/chat/completions", json=body) as answer:
                assert answer.status == 200


def test_a_file_is_imported_with_who_and_why_and_gone_back_from(headgate: Command, policy: Path) -> None:
    assert headgate("policy", "import", "--comment", "the first one").out == "policy version 1 is active\n"
    assert headgate("policy", "import").out == "policy version 1 is active\n", "the same text is no new version"
    other = policy.with_name("other.yaml")
    other.write_text(LARGE.replace("backend: mini", "backend: large"))
    made = headgate("policy", "import", str(other), "--author", "ops", "--comment", "mini is ill", "--json").json
    assert (made["version"], made["author"], made["comment"], made["source"]) == (2, "ops", "mini is ill", "cli")
    shown = headgate("policy", "versions").out
    assert "mini is ill" in shown
    assert "the first one" in shown
    assert headgate("policy", "show", "1").out == POLICY
    assert headgate("policy", "show").out == other.read_text()
    assert headgate("policy", "rollback", "1", "--comment", "mini is well").status == 0
    entries = headgate("audit", "list", "--json").json["data"]
    assert [(entry["action"], entry["details"].get("comment")) for entry in reversed(entries) if entry["action"] != "policy.read"] == [
        ("policy.import", "the first one"),
        ("policy.import", "mini is ill"),
        ("policy.rollback", "mini is well"),
    ]
    assert headgate("policy", "show", "9").status == 1
    assert headgate("policy", "import", "--comment", "two\nlines").status == 2


def test_a_file_whose_cases_do_not_hold_is_imported_only_by_force(headgate: Command, policy: Path) -> None:
    headgate("policy", "import")
    policy.write_text(LARGE)
    refused = headgate("policy", "import")
    assert refused.status == 2
    assert f"{policy}:8:9: cases[0]: the case 'case 1' does not hold: expected backend 'mini', got 'large'" in refused.err
    assert headgate("policy", "versions", "--json").json[0]["version"] == 1
    assert headgate("policy", "import", "--force").status == 0
    assert headgate("policy", "versions", "--json").json[0]["version"] == 2


@pytest.mark.usefixtures("asked")
def test_policies_are_compared_over_what_was_asked_and_decisions_made_again(headgate: Command, policy: Path) -> None:
    candidate = policy.with_name("candidate.yaml")
    candidate.write_text(LARGE)
    done = headgate("policy", "diff", "active", str(candidate))
    assert "-default: mini\n+default: large" in done.out
    assert "3 of 3 recorded requests change (100.0 %)" in done.out
    assert "mini  large  default" in done.out
    found = headgate("policy", "diff", "1", str(candidate), "--json", "--limit", "2").json
    assert (found["requests"], found["changed"], found["groups"][0]["requests"]) == (2, 2, 2)
    assert headgate("policy", "diff", "1", "1").out.splitlines() == ["0 of 3 recorded requests change (0.0 %)"]
    assert "no recorded request" in headgate("policy", "diff", "1", "1", "--until", "2001-01-01").out
    assert headgate("policy", "diff", "1", "nothing.yaml").status == 1
    assert headgate("policy", "diff", "7", "1").status == 1

    assert headgate("policy", "replay").out == "3 of 3 decisions are the same (100.00 %)\n"
    with closing(sqlite3.connect(policy.parent / "var" / "headgate.db")) as connection:
        connection.execute("""UPDATE decisions SET decision = replace(decision, '"mini"', '"large"') WHERE rowid = 1""")
        connection.commit()
    done = headgate("policy", "replay", "--version", "1")
    assert done.status == 1
    assert done.out.startswith("2 of 3 decisions are the same (66.67 %)\n")
    assert 'candidates: ["large"] was recorded, now ["mini"]' in done.out
    assert headgate("policy", "replay", "--json", "--version", "2").json["requests"] == 0
    with closing(sqlite3.connect(policy.parent / "var" / "headgate.db")) as connection:
        connection.execute("UPDATE policy_versions SET text = 'version: 9'")
        connection.commit()
    done = headgate("policy", "replay")
    assert "version 1 cannot be loaded any more, its 3 decisions are left out" in done.out
