"""The commands for finance: usage in groups, statements, exports to files, a provider's export."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from sqlalchemy import Connection, update

from config.database import open_database
from router.audit.triggers import changeable
from router.launch import installed
from router.tables import ledger
from tests.router.cli.kit import Command
from tests.router.cli.test_commands import book
from tests.seals import SECRET


@pytest.fixture
def booked(headgate: Command, database_url: str) -> Command:
    """`headgate` on a database with an answer of acme and a failure of globex, both of 2026-01-01."""

    def run(*arguments: str, **variables: str) -> Any:
        return headgate(*arguments, DATABASE_URL=database_url, HEADGATE_SECRET=SECRET.decode(), **variables)

    for tenant in ("acme", "globex"):
        assert run("tenants", "create", tenant).status == 0
    asyncio.run(book(database_url))
    return run


def test_usage_is_grouped_and_printed_in_three_forms(booked: Command) -> None:
    assert [line["tenant"] for line in booked("usage", "--by", "tenant,day", "--format", "json").json["data"]] == ["acme", "globex"]
    shown = booked("usage", "--by", "day, tenant").out.splitlines()
    assert shown[0].split() == ["DAY", "TENANT", "REQUESTS", "INPUT", "OUTPUT", "USD", "AVOIDED", "USD", "ESTIMATED"]
    assert shown[1].split()[:3] == ["2026-01-01", "acme", "1"]
    first, _ = csv.DictReader(io.StringIO(booked("usage", "--by", "month,tenant", "--format", "csv").out))
    assert (first["month"], first["tenant"], first["cost_usd"], first["cost"]) == ("2026-01", "acme", "0.003", "3000000000")
    assert booked("usage", "--since", "1767225600", "--until", "1767225601", "--by", "tenant", "--json").json["data"][0]["requests"] == 1
    wrong = booked("usage", "--by", "colour")
    assert (wrong.status, "nothing is grouped by 'colour'; choose from tenant, team" in wrong.err) == (2, True)


def test_a_statement_is_written_as_markdown_with_a_plot_and_as_pdf(booked: Command, tmp_path: Path) -> None:
    month = ("statement", "--tenant", "acme", "--month", "2026-01")
    assert booked(*month, "--out", "acme.md").status == 0
    text = (tmp_path / "acme.md").read_text()
    assert "![Cost by day in January 2026](acme.svg)" in text
    assert (tmp_path / "acme.svg").read_text().startswith("<?xml")
    assert "data:image/svg+xml" in booked(*month).out
    assert booked(*month, "--format", "pdf", "--out", "acme.pdf").status == 0
    assert (tmp_path / "acme.pdf").read_bytes().startswith(b"%PDF")
    made = booked(*month, "--json").json
    exported = booked("ledger", "export", "--tenant", "acme", "--since", "2026-01-01", "--until", "2026-02-01").out
    assert hashlib.sha256(exported.encode()).hexdigest() == made["ledger"]["sha256"]
    for arguments, status, says in (
        (("--tenant", "acme", "--month", "2026-1"), 2, "write it as 2026-11"),
        (("--tenant", "nobody", "--month", "2026-01"), 1, "headgate tenants list"),
        (("--tenant", "acme", "--month", "2026-01", "--format", "pdf"), 2, "a PDF needs --out FILE"),
    ):
        refused = booked("statement", *arguments)
        assert (refused.status, says in refused.err) == (status, True), refused


def test_what_needs_the_extra_says_so(booked: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.cli.common.installed", lambda name: name not in ("reportlab", "pyarrow") and installed(name))
    month = ("statement", "--tenant", "acme", "--month", "2026-01")
    assert "pip install 'headgate[reports]'" in booked(*month, "--format", "pdf", "--out", "a.pdf").err
    assert "pip install 'headgate[reports]'" in booked("ledger", "export", "--format", "parquet", "--out", "a.parquet").err
    plain = booked(*month)
    assert (plain.status, "data:image" in plain.out, "the plot is left out" in plain.err) == (0, False, True)


def test_the_ledger_is_exported_to_files_whole_or_not_at_all(booked: Command, tmp_path: Path) -> None:
    assert booked("ledger", "export", "--format", "parquet", "--out", "ledger.parquet").status == 0
    assert sorted(row["tenant"] for row in parquet.read_table(tmp_path / "ledger.parquet").to_pylist()) == ["acme", "globex"]
    assert booked("ledger", "export", "--format", "csv", "--out", "ledger.csv", "--tenant", "acme").status == 0
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "ledger.csv").read_text())))) == 1
    assert booked("ledger", "export", "--out", "ledger.jsonl").status == 0
    assert {json.loads(line)["tenant"] for line in (tmp_path / "ledger.jsonl").read_text().splitlines()} == {"acme", "globex"}
    assert booked("ledger", "export", "--format", "parquet").status == 2
    assert booked("ledger", "export", "--out", "nowhere/ledger.jsonl").status == 1
    assert not list(tmp_path.glob("*.part"))


def test_an_export_of_a_provider_is_compared_and_applied(booked: Command, tmp_path: Path) -> None:
    (tmp_path / "openai.csv").write_text("request_id,model,input_tokens,output_tokens\nrequest-acme,scripted,1000,600\nelsewhere,scripted,1,1\n")
    looked = booked("ledger", "reconcile", "openai.csv", "--provider", "local")
    assert looked.status == 1
    assert "output_tokens 500 -> 600, cost_usd 0.003 -> 0.0034" in looked.out
    assert "2 rows of the export: 0 equal; 1 differs, 1 not in the ledger" in looked.out
    done = booked("ledger", "reconcile", "openai.csv", "--provider", "local", "--apply", "--all", "--json")
    found = json.loads(done.out)
    assert (done.status, found["corrections"], found["open"], found["counts"]) == (1, 1, 1, {"differs": 1, "not_in_ledger": 1})
    again = json.loads(booked("ledger", "reconcile", "openai.csv", "--provider", "local", "--apply", "--all", "--json").out)
    assert (again["corrections"], again["equal"]) == (0, 1)
    (tmp_path / "bad.csv").write_text("a,b\n")
    for arguments, status, says in (
        (("bad.csv", "--provider", "local"), 2, "line 1: no column"),
        (("openai.csv", "--provider", "openai"), 1, "the ledger has no provider 'openai'; it has local"),
        (("openai.csv", "--provider", "local", "--all"), 2, "together with --apply"),
        (("missing.csv", "--provider", "local"), 2, "missing.csv"),
    ):
        refused = booked("ledger", "reconcile", *arguments)
        assert (refused.status, says in refused.err) == (status, True), refused


def test_the_trial_balance_debits_tenants_with_what_providers_are_credited_and_says_when_the_sides_differ(booked: Command, database_url: str) -> None:
    lines = [line.split() for line in booked("ledger", "balance").out.splitlines()]
    assert lines == [
        ["ACCOUNT", "DEBIT", "USD", "CREDIT", "USD"],
        ["tenant:acme", "0.003"],
        ["tenant:globex"],
        ["provider:local", "0.003"],
        ["TOTAL", "0.003", "0.003"],
    ]
    found = booked("ledger", "balance", "--month", "2026-01", "--json").json
    assert (found["debit_usd"], found["credit_usd"], found["agrees"]) == ("0.003", "0.003", True)
    assert booked("ledger", "balance", "--month", "2026-02", "--json").json["accounts"] == []
    assert booked("ledger", "balance", "--month", "2026-13").status == 2

    def forge(connection: Connection) -> None:
        with changeable(connection, "ledger"):
            connection.execute(update(ledger).where(ledger.c.tenant == "acme").values(cost=ledger.c.cost - 1))

    database = open_database(database_url)
    database.write_blocking(forge)
    database.close()
    wrong = booked("ledger", "balance")
    assert (wrong.status, "headgate ledger verify" in wrong.err, "0.002999999999" in wrong.out) == (1, True, True)
