"""`headgate ledger archive` and `headgate ledger archives`: closed months that leave the ledger for a file."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from adapters.cost import usd_float
from config.secretfile import load_secret
from router.audit.actors import command_line
from router.audit.log import AuditLog
from router.cli.common import config_option, fail, json_option, open_home, print_json, print_table
from router.cli.usage import ledger
from router.money.sealing import SealKey
from router.storage.archive import Archive, CannotArchive, check_file, list_archives, month_bounds, month_of
from router.storage.archive import archive as archive_months
from router.storage.archive_files import Format


@ledger.command("archive")
@click.option("--before", help="The months before this one (2026-01); without it, all but the last `ledger_months` whole months.")
@click.option("--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder for the files.")
@click.option("--format", "form", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True, help="Parquet needs headgate[reports].")
@config_option
@json_option
def archive(before: str | None, folder: Path, form: Format, config: Path | None, as_json: bool) -> None:
    """Move whole closed months out of the ledger into files. Opening rows stay in their place, so that every total stays the same."""
    with open_home(config) as (launch, settings, database):
        if before is None:
            if settings.ledger_months is None:
                raise click.UsageError("say --before 2026-01, or set `ledger_months`")
            before = month_of(time.time(), settings.ledger_months)
        done = []
        try:
            month_bounds(before)
        except ValueError as error:
            raise click.BadParameter(f"{before!r} is not a month, as 2026-01 is", param_hint="--before") from error
        try:
            secret = load_secret(launch.environ(), settings.home).reveal().encode()
            log = AuditLog(database, secret)
            for each in archive_months(database, folder, log, SealKey(secret), command_line(), before=before, form=form):
                done.append(each)
                if not as_json:
                    click.echo(
                        f"{each.month}: {each.rows} rows, {usd_float(each.cost):.6f} USD, in {folder / each.file} ({each.bytes} bytes, sha256 {each.sha256})"
                    )
        except CannotArchive as error:
            raise fail(str(error)) from error
        except ImportError as error:
            raise fail("Parquet needs its library: pip install 'headgate[reports]'; or use --format csv") from error
    if as_json:
        print_json(msgspec.to_builtins(done))
    elif not done:
        click.echo(f"the ledger has no rows of its own before {before}")


@ledger.command("archives")
@click.option(
    "--check", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Check the files in this folder. Status 1 when one is wrong."
)
@config_option
@json_option
def archives(folder: Path | None, config: Path | None, as_json: bool) -> None:
    """List the months that were archived, with their files and hashes."""
    with open_home(config) as (_, _, database):
        found = database.read_blocking(list_archives)
    problems = {each.id: check_file(folder, each) if folder is not None else None for each in found}
    if as_json:
        print_json([{**msgspec.to_builtins(each), "problem": problems[each.id]} for each in found])
    else:
        print_table(["MONTH", "FILE", "ROWS", "USD", "ARCHIVED", "SHA256", "PROBLEM"], [_line(each, problems[each.id]) for each in found])
    if any(problems.values()):
        raise fail("not every archive is as it was recorded")


def _line(each: Archive, problem: str | None) -> list[object]:
    return [each.month, each.file, each.rows, f"{usd_float(each.cost):.6f}", f"{datetime.fromtimestamp(each.archived_at, UTC):%Y-%m-%d}", each.sha256, problem]
