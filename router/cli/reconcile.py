"""`headgate ledger reconcile`: the ledger against what a provider says it billed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from config.secretfile import load_secret
from router.audit.actors import command_line
from router.audit.changes import recorded_corrections
from router.audit.log import AuditLog
from router.cli.common import config_option, fail, json_option, open_home, print_json, print_table
from router.cli.usage import ledger
from router.money.differences import Difference
from router.money.exports import InvalidExport, parse_export
from router.money.reconciliation import NoSuchProvider, NotByRequest
from router.money.reconciliation import reconcile as compare
from router.money.sealing import SealKey

__all__ = ["ledger"]

_WORDS = {"not_in_ledger": "not in the ledger", "not_in_export": "not in the export", "differs": "differs", "ambiguous": "ambiguous"}


@ledger.command("reconcile")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--provider", required=True, help="Whose export it is, as the ledger calls it: openai, anthropic, gcp.gemini (or google).")
@click.option("--apply", is_flag=True, help="Book corrections that make estimates equal to the export.")
@click.option("--all", "every", is_flag=True, help="With --apply: also correct rows that the provider itself had reported otherwise.")
@click.option("--unbilled", is_flag=True, help="With --apply: estimates of the export's days that it does not have were not billed; book them to nothing.")
@config_option
@json_option
def reconcile(file: Path, provider: str, apply: bool, every: bool, unbilled: bool, config: Path | None, as_json: bool) -> None:
    """Compare the ledger with a provider's usage export (CSV). Exit status 1 where differences remain.

    Applying a file a second time books nothing. What the provider knows and the ledger does not is listed, never booked.
    """
    if (every or unbilled) and not apply:
        raise click.UsageError(f"{'--all' if every else '--unbilled'} only says something together with --apply")
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            export = parse_export(lines)
    except InvalidExport as error:
        raise click.UsageError(f"{file} cannot be read as a usage export: {error}") from error
    with open_home(config) as (launch, settings, database):
        secret = load_secret(launch.environ(), settings.home).reveal().encode()
        try:
            booked = recorded_corrections(AuditLog(database, secret), command_line(), provider)
            done = compare(database, export, provider, SealKey(secret), apply=apply, reported=every, unbilled=unbilled, booked=booked)
        except NotByRequest as error:
            raise click.UsageError(str(error)) from error
        except NoSuchProvider as error:
            raise fail(str(error)) from error
    if as_json:
        print_json(done)
    else:
        if done.differences:
            print_table(
                ["WHAT", "REQUEST" if done.by == "request" else "DAY AND MODEL", "ATTEMPT", "ESTIMATED", "OURS -> THEIRS", ""],
                [_line(difference) for difference in done.differences],
            )
            if sum(done.counts.values()) > len(done.differences):
                click.echo(f"and {sum(done.counts.values()) - len(done.differences)} more")
            click.echo()
        listed = ", ".join(f"{count} {_WORDS[kind]}" for kind, count in sorted(done.counts.items())) or "no differences"
        click.echo(f"{done.compared} rows of the export: {done.equal} equal; {listed}")
        if apply:
            click.echo(f"{done.corrections} corrections booked, {done.corrected_usd:+.6f} USD")
        elif done.open and done.by == "request":
            click.echo("book what corrects the estimates with --apply")
    sys.exit(1 if done.open else 0)


def _line(difference: Difference) -> list[object]:
    fields = ", ".join(
        f"{name} {ours:g} -> {theirs:g}" if name == "cost_usd" else f"{name} {ours} -> {theirs}" for name, (ours, theirs) in difference.fields.items()
    )
    note = "corrected" if difference.booked else difference.detail
    return [_WORDS[difference.kind], difference.name, difference.attempt, "yes" if difference.estimated else "", fields, note]
