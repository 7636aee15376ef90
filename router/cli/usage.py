"""`headgate usage`: the ledger's totals. `headgate ledger export`: its rows."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import click
import msgspec
from sqlalchemy import Connection

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

    def write(connection: Connection) -> None:
        table = csv.writer(sys.stdout)
        for number, row in enumerate(reports.ledger_export(connection, tenant=tenant, since=start, until=end)):
            if form == "jsonl":
                click.echo(msgspec.json.encode(row).decode())
                continue
            if number == 0:
                table.writerow(row)
            table.writerow(row.values())

    with open_home(config) as (_, _, database):
        if tenant is not None:
            require_tenant(database, tenant)
        database.read_blocking(write)
