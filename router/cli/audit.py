"""`headgate audit`: who changed and read what, and whether the log still says all of it."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from sqlalchemy import Connection

from config.database import Database
from config.secretfile import load_secret
from config.settings import Settings
from router.audit import reading
from router.audit.actors import command_line
from router.audit.chain import Head, Verdict, parse_head
from router.audit.log import AuditLog, Subject
from router.cli.common import config_option, fail, json_option, moment, open_home, print_json, print_table
from router.launch import Launch


def audit_of(launch: Launch, settings: Settings, database: Database) -> AuditLog:
    """The audit log of this home, written to with its secret."""
    return AuditLog(database, load_secret(launch.environ(), settings.home).reveal().encode())


@click.group()
def audit() -> None:
    """The audit log."""


def _wanted(**given: Any) -> reading.Wanted:
    return reading.Wanted(**{**given, "since": moment(given["since"]), "until": moment(given["until"])})


def _filters(command: Any) -> Any:
    for option in (
        click.option("--until", help="Before this date or time."),
        click.option("--since", help="From this date or time on (UTC unless it says otherwise)."),
        click.option("--tenant", help="Only what is this tenant's."),
        click.option("--actor", help="Only by this key, user, 'cli', 'file' or 'system'."),
        click.option("--action", help="Only this action, as 'key.create'."),
    ):
        command = option(command)
    return command


@audit.command("list")
@_filters
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@config_option
@json_option
def list_entries(limit: int, config: Path | None, as_json: bool, **filters: str | None) -> None:
    """The newest entries first."""
    wanted = _wanted(**filters)
    with open_home(config) as (launch, settings, database):
        found, more = database.read_blocking(lambda connection: reading.entries(connection, wanted, limit=limit))
        audit_of(launch, settings, database).note_blocking(command_line(), "audit.read", wanted.subject(rows=len(found)))
    if as_json:
        print_json({"data": found, "has_more": more})
        return
    print_table(
        ["SEQ", "AT", "ACTOR", "ROLE", "ACTION", "OBJECT", "TENANT", "OUTCOME"],
        [[each.seq, _time(each.at), each.actor, each.actor_role, each.action, each.object_id, each.tenant, each.outcome] for each in found],
    )
    if more:
        click.echo(f"there are more: --limit, up to 10000, or all of them: headgate audit export (shown: {len(found)})", err=True)


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


@audit.command("export")
@_filters
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@config_option
def export(form: str, config: Path | None, **filters: str | None) -> None:
    """Write the entries to standard output, oldest first."""
    wanted = _wanted(**filters)

    def write(connection: Connection) -> None:
        table = csv.writer(sys.stdout)
        for number, entry in enumerate(reading.exported(connection, wanted), 1):
            row = msgspec.to_builtins(entry)
            if form == "jsonl":
                click.echo(msgspec.json.encode(row).decode())
                continue
            if number == 1:
                table.writerow(row)
            table.writerow([msgspec.json.encode(value).decode() if isinstance(value, dict) else value for value in row.values()])

    with open_home(config) as (launch, settings, database):
        audit_of(launch, settings, database).note_blocking(command_line(), "audit.read", wanted.subject(exported=True))
        database.read_blocking(write)


@audit.command("head")
@config_option
@json_option
def show_head(config: Path | None, as_json: bool) -> None:
    """The position and hash of the last entry: keep it elsewhere, and give it to `audit verify --head`."""
    with open_home(config) as (_, _, database):
        found = database.read_blocking(reading.head)
    print_json({"chain": "audit", "seq": found.position, "hash": found.hash, "head": str(found)}) if as_json else click.echo(str(found))


@audit.command("verify")
@click.option("--head", "anchor", help="A head that was kept elsewhere, as `audit head` printed it: the log must still hold it.")
@config_option
@json_option
def verify(anchor: str | None, config: Path | None, as_json: bool) -> None:
    """Read the whole log and say what was changed, removed, added or moved, and where. Exit status 1 when anything was."""
    try:
        wanted = None if anchor is None else parse_head(anchor)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--head") from error
    with open_home(config) as (launch, settings, database):
        verdict = database.read_blocking(verifying(audit_of(launch, settings, database), wanted))
    if as_json:
        print_json({"ok": verdict.ok, **msgspec.to_builtins(verdict)})
    else:
        for problem in verdict.problems:
            where = f", column {problem.column}" if problem.column else ""
            expected = f"; expected {problem.expected}" if problem.expected else ""
            click.echo(f"row {problem.position}{where}: {problem.message}{expected}")
        click.echo(f"{verdict.rows} entries, head {verdict.head}: {'whole' if verdict.ok else f'{verdict.found} problems'}")
    sys.exit(0 if verdict.ok else 1)


def verifying(log: AuditLog, anchor: Head | None) -> Any:
    def work(connection: Connection) -> Verdict:
        reading.as_of_now(connection)
        return reading.verify_chain(connection, log.key, anchor)

    return work


@audit.command("prune")
@click.option("--through", required=True, type=click.IntRange(min=1), help="The last position that goes.")
@config_option
@json_option
def prune(through: int, config: Path | None, as_json: bool) -> None:
    """Remove the oldest entries under a signed checkpoint, from which the rest still verifies. Export them first."""
    with open_home(config) as (launch, settings, database):
        log = audit_of(launch, settings, database)
        try:
            gone = log.change_blocking(
                command_line(),
                "audit.prune",
                lambda rows: Subject("audit", str(through), "", {"rows": rows}),
                lambda connection: reading.prune(connection, log.key, through),
            )
        except LookupError as error:
            raise fail(f"{error}; see the positions with: headgate audit list") from error
    print_json({"through": through, "removed": gone}) if as_json else click.echo(f"{gone} entries removed; the log now begins after {through}")
