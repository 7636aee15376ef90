"""`headgate usage`: the ledger's totals."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from router import reports
from router.cli.common import config_option, json_option, open_home, print_json, print_table


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a date (2026-11-21) or a time (2026-11-21T08:00:00+00:00)") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@click.command()
@click.option("--tenant", help="Only this tenant.")
@click.option("--since", help="From this date or time on (UTC unless it says otherwise).")
@click.option("--until", help="Before this date or time.")
@config_option
@json_option
def usage(tenant: str | None, since: str | None, until: str | None, config: Path | None, as_json: bool) -> None:
    """Tokens and cost by tenant, backend and model, and the budgets' counters."""
    start, end = _moment(since), _moment(until)
    with open_home(config) as (_, _, database):
        lines = database.read_blocking(lambda connection: reports.usage(connection, tenant=tenant, since=start, until=end))
        counters = database.read_blocking(lambda connection: reports.budget_lines(connection, tenant))
    if as_json:
        print_json({"data": lines, "budgets": counters})
        return
    print_table(
        ["TENANT", "BACKEND", "MODEL", "REQUESTS", "INPUT", "OUTPUT", "USD", "ESTIMATED"],
        [[line.tenant, line.backend, line.model, line.requests, line.input_tokens, line.output_tokens, f"{line.cost_usd:.6f}", line.estimated] for line in lines],
    )
