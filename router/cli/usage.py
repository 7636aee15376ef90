"""`headgate usage`: the ledger's totals. `headgate ledger export`: its rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection

from adapters.cost import usd_float
from config.secretfile import load_secret
from router.audit.actors import command_line
from router.audit.findings import Finding
from router.audit.ledger_check import check_ledger
from router.audit.log import Subject
from router.audit.reading import as_of_now
from router.audit.seal_check import Sealing, sealing
from router.cli.audit import audit_of
from router.cli.common import config_option, fail, json_option, moment, open_home, period_options, print_json, print_table, require_reports, require_tenant
from router.money import chargeback, reports
from router.storage.tables import Archived


@click.command()
@period_options
@click.option("--by", help=f"What to group by, separated by commas: {', '.join(reports.GROUPINGS)} (default: {','.join(reports.DEFAULT_GROUPS)}).")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@config_option
@json_option
def usage(tenant: str | None, since: str | None, until: str | None, by: str | None, form: str, config: Path | None, as_json: bool) -> None:
    """Tokens, cost and the cost that routing avoided, and the budgets' counters."""
    start, end = moment(since), moment(until)
    try:
        groups = reports.grouping(by)
    except reports.UnknownGroup as error:
        raise click.BadParameter(str(error), param_hint="--by") from error
    with open_home(config) as (_, _, database):
        if tenant is not None:
            require_tenant(database, tenant)
        try:
            lines = database.read_blocking(lambda connection: reports.usage(connection, tenant=tenant, since=start, until=end, by=groups))
        except Archived as error:
            raise fail(f"{error}; ask for whole days, or read the archive") from error
        counters = database.read_blocking(lambda connection: reports.budget_lines(connection, tenant, since=start, until=end))
    if as_json or form == "json":
        print_json({"data": [line.shown() for line in lines], "budgets": counters})
        return
    if form == "csv":
        click.echo(reports.usage_csv(groups, lines), nl=False)
        return
    print_table(
        [*(name.upper() for name in groups), "REQUESTS", "INPUT", "OUTPUT", "USD", "AVOIDED USD", "ESTIMATED"],
        [
            [
                *line.by.values(),
                line.sums["requests"],
                line.sums["input_tokens"],
                line.sums["output_tokens"],
                f"{usd_float(line.sums['cost']):.6f}",
                f"{usd_float(line.avoided):.6f}",
                line.sums["estimated"],
            ]
            for line in lines
        ],
    )
    capped = [line for line in counters if line.cap_usd is not None]
    if capped:
        click.echo()
        print_table(
            ["TENANT", "BUDGET OF", "PERIOD", "SPENT USD", "RESERVED USD", "CAP USD"],
            [[line.tenant, line.scope, line.period, f"{line.spent_usd:.6f}", f"{line.reserved_usd:.6f}", f"{line.cap_usd:.6f}"] for line in capped],
        )


@click.group()
def ledger() -> None:
    """The ledger: one row for every attempt at a backend, and its corrections."""


@ledger.command("export")
@period_options
@click.option("--format", "form", type=click.Choice(["jsonl", "csv", "parquet"]), default="jsonl", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file to write, whole or not at all (default: standard output).")
@config_option
def export(tenant: str | None, since: str | None, until: str | None, form: str, out: Path | None, config: Path | None) -> None:
    """Write the rows, oldest first; `cost`, `list_cost` and `reserved` are in picodollars (1e-12 USD)."""
    start, end = moment(since), moment(until)
    if form == "parquet":
        if out is None:
            raise click.UsageError("Parquet needs --out FILE")
        require_reports("Parquet", "pyarrow")

    def write_to(rows: Iterator[dict[str, Any]]) -> None:
        if out is None:
            (chargeback.write_csv if form == "csv" else chargeback.write_jsonl)(rows, sys.stdout)
            return
        part = out.with_name(f"{out.name}.part")
        try:
            if form == "parquet":
                chargeback.write_parquet(rows, part)
            else:
                with part.open("w", encoding="utf-8", newline="") as file:
                    (chargeback.write_csv if form == "csv" else chargeback.write_jsonl)(rows, file)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)

    with open_home(config) as (launch, settings, database):
        if tenant is not None:
            require_tenant(database, tenant)
        exported = Subject("ledger", "", tenant or "", {"exported": True, "since": start, "until": end})
        audit_of(launch, settings, database).note_blocking(command_line(), "ledger.read", exported)
        database.read_blocking(lambda connection: write_to(reports.ledger_export(connection, tenant=tenant, since=start, until=end)))


@ledger.command("verify")
@config_option
@json_option
def verify(config: Path | None, as_json: bool) -> None:
    """Check every row against its seal, and the books against each other: sums, archives, budgets, reservations. Exit status 1 where something fails."""
    with open_home(config) as (launch, settings, database):
        secret = load_secret(launch.environ(), settings.home).reveal().encode()

        def work(connection: Connection) -> tuple[list[Finding], Sealing | None]:
            as_of_now(connection)
            return check_ledger(connection, secret), sealing(connection)

        found, sealed = database.read_blocking(work)
    if as_json:
        print_json({"ok": not found, "problems": found, "sealing": sealed})
    else:
        for each in found:
            column = f", column {each.column}" if each.column else ""
            click.echo(f"{each.table}: row {each.row}{column}: {each.message}; expected {each.expected}, found {each.found}")
        if sealed is not None:
            before = f"; {sealed.unsealed} rows from before have no seal" if sealed.unsealed else ""
            click.echo(f"rows are sealed since {datetime.fromtimestamp(sealed.since, UTC):%Y-%m-%d %H:%M} UTC{before}")
        click.echo("the books hold together" if not found else f"{len(found)} problems")
    sys.exit(1 if found else 0)
