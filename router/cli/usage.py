"""`headgate usage`: the ledger's totals. `headgate ledger export`: its rows."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import click
import msgspec
from sqlalchemy import Connection

from router.audit.actors import command_line
from router.audit.ledger_check import Finding, check_ledger
from router.audit.log import Subject
from router.audit.reading import as_of_now
from router.cli.audit import audit_of
from router.cli.common import config_option, json_option, moment, open_home, period_options, print_json, print_table, require_tenant
from router.money import reports


@click.command()
@period_options
@config_option
@json_option
def usage(tenant: str | None, since: str | None, until: str | None, config: Path | None, as_json: bool) -> None:
    """Tokens and cost by tenant, backend and model, and the budgets' counters."""
    start, end = moment(since), moment(until)
    with open_home(config) as (_, _, database):
        if tenant is not None:
            require_tenant(database, tenant)
        lines = database.read_blocking(lambda connection: reports.usage(connection, tenant=tenant, since=start, until=end))
        counters = database.read_blocking(lambda connection: reports.budget_lines(connection, tenant))
    if as_json:
        print_json({"data": lines, "budgets": counters})
        return
    print_table(
        ["TENANT", "BACKEND", "MODEL", "REQUESTS", "INPUT", "OUTPUT", "USD", "ESTIMATED"],
        [
            [line.tenant, line.backend, line.model, line.requests, line.input_tokens, line.output_tokens, f"{line.cost_usd:.6f}", line.estimated]
            for line in lines
        ],
    )
    capped = [line for line in counters if line.cap_usd is not None]
    if capped:
        click.echo()
        print_table(
            ["TENANT", "PERIOD", "SPENT USD", "RESERVED USD", "CAP USD"],
            [[line.tenant, line.period, f"{line.spent_usd:.6f}", f"{line.reserved_usd:.6f}", f"{line.cap_usd:.2f}"] for line in capped],
        )


@click.group()
def ledger() -> None:
    """The ledger: one row for every attempt at a backend, and its corrections."""


@ledger.command("export")
@period_options
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@config_option
def export(tenant: str | None, since: str | None, until: str | None, form: str, config: Path | None) -> None:
    """Write the rows to standard output, oldest first; `cost` and `reserved` are in picodollars (1e-12 USD)."""
    start, end = moment(since), moment(until)

    def write(connection: Connection) -> int:
        table, number = csv.writer(sys.stdout), 0
        for number, row in enumerate(reports.ledger_export(connection, tenant=tenant, since=start, until=end), 1):
            if form == "jsonl":
                click.echo(msgspec.json.encode(row).decode())
                continue
            if number == 1:
                table.writerow(row)
            table.writerow(row.values())
        return number

    with open_home(config) as (launch, settings, database):
        if tenant is not None:
            require_tenant(database, tenant)
        rows = database.read_blocking(write)
        exported = Subject("ledger", "", tenant or "", {"rows": rows, "since": start, "until": end})
        audit_of(launch, settings, database).note_blocking(command_line(), "ledger.read", exported)


@ledger.command("verify")
@config_option
@json_option
def verify(config: Path | None, as_json: bool) -> None:
    """Check the books against each other: the rows, the budgets' counters, the reservations, and that rows can only be added. Exit status 1 where one fails."""

    def work(connection: Connection) -> list[Finding]:
        as_of_now(connection)
        return check_ledger(connection)

    with open_home(config) as (_, _, database):
        found = database.read_blocking(work)
    if as_json:
        print_json({"ok": not found, "problems": found})
    else:
        for each in found:
            column = f", column {each.column}" if each.column else ""
            click.echo(f"{each.table}: row {each.row}{column}: {each.message}; expected {each.expected}, found {each.found}")
        click.echo("the books hold together" if not found else f"{len(found)} problems")
    sys.exit(1 if found else 0)
