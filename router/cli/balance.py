"""`headgate ledger balance`: what each tenant used against what each provider is owed."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from sqlalchemy import Connection

from adapters.cost import usd
from router.audit.reading import as_of_now
from router.cli.common import config_option, json_option, open_home, print_json, print_table
from router.cli.usage import ledger
from router.money.balance import Balance, trial_balance
from router.money.periods import parse_month

__all__ = ["ledger"]


@ledger.command("balance")
@click.option("--month", help="Only this month, as 2026-11 (default: everything).")
@config_option
@json_option
def balance(month: str | None, config: Path | None, as_json: bool) -> None:
    """The trial balance: tenants' accounts are debited with what providers' are credited with. Exit status 1 where the two sides differ."""
    try:
        wanted = None if month is None else parse_month(month)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--month") from error

    def read(connection: Connection) -> Balance:
        as_of_now(connection)
        return trial_balance(connection, wanted)

    with open_home(config) as (_, _, database):
        found = database.read_blocking(read)
    if as_json:
        print_json(found.shown())
    else:
        lines = [[each.name, usd(each.debit) if each.debit else "", usd(each.credit) if each.credit else ""] for each in found.accounts]
        print_table(["ACCOUNT", "DEBIT USD", "CREDIT USD"], [*lines, ["TOTAL", usd(found.debit), usd(found.credit)]])
        if not found.agrees:
            click.echo("the two sides differ: find the row with headgate ledger verify", err=True)
    sys.exit(0 if found.agrees else 1)
