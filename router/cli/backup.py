"""`headgate backup` and `headgate restore`: the whole state in one file, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from config.schema import read_state
from router.audit.actors import command_line
from router.audit.log import AuditLog, Subject
from router.cli.common import config_option, fail, find_launch, json_option, print_json
from router.cli.db import open_unchecked, show_step
from router.launch import MIGRATIONS, open_blobs
from router.storage.backup import Damaged, Manifest, mark_of, open_backup, secret_in_use, write_backup
from router.storage.restore import Refused, place_secret, secret_problem
from router.storage.restore import restore as restore_backup
from router.storage.rows import CannotLoad
from router.storage.served import not_served, require_no_workers


class _FileOrCommand(click.Group):
    """`headgate backup FILE` is `headgate backup create FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@contextmanager
def _explained(subject: Path) -> Iterator[None]:
    try:
        yield
    except (Damaged, Refused, CannotLoad) as error:
        raise fail(str(error)) from error
    except FileNotFoundError as error:
        raise fail(f"there is no file {error.filename or subject}") from error


@click.group("backup", cls=_FileOrCommand)
def backup() -> None:
    """The whole state in one file. `headgate backup FILE` makes one, beside a running server too."""


@backup.command("create")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--with-files", is_flag=True, help="The originals of documents too.")
@click.option("--with-secret", is_flag=True, help="The secret that keys are hashed with too: whoever has the file can then make keys.")
@config_option
@json_option
def create(file: Path, with_files: bool, with_secret: bool, config: Path | None, as_json: bool) -> None:
    """Write a backup to FILE: whole or not at all, mode 600. An earlier backup there is replaced."""
    environ = find_launch(config).environ()
    with open_unchecked(config) as (settings, database), _explained(file):
        if not file.parent.is_dir():
            raise fail(f"there is no folder {file.parent}")
        secret = secret_in_use(environ, settings.home)
        if with_secret and secret is None:
            raise fail("there is no secret yet: it is made at the first start")
        try:
            manifest = write_backup(
                database,
                file,
                blobs=open_blobs(settings) if with_files else None,
                secret=secret if with_secret else None,
                secret_mark=mark_of(secret) if secret is not None else None,
            )
        except ValueError as error:
            raise fail(str(error)) from error
        if secret is not None and database.read_blocking(lambda connection: read_state(connection, MIGRATIONS)).standing == "current":
            about = {"rows": manifest.rows, "originals": len(manifest.originals), "with_secret": with_secret}
            AuditLog(database, secret.encode()).note_blocking(command_line(), "backup.create", Subject("backup", file.name, "", about))
    if as_json:
        print_json({"file": str(file), "bytes": file.stat().st_size, **_summary(manifest)})
        return
    click.echo(f"{file}: {_described(manifest)}, {file.stat().st_size / 2**20:.1f} MiB")
    if manifest.secret is None:
        click.echo("the secret is not in it: without HEADGATE_SECRET, or the file `secret`, its keys are dead", err=True)


@backup.command("verify")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def verify(file: Path, as_json: bool) -> None:
    """Read FILE from end to end and check every hash and count. Needs no database."""
    with _explained(file), open_backup(file) as opened:
        opened.verify()
        manifest = opened.manifest
    if as_json:
        print_json({"file": str(file), "ok": True, **_summary(manifest)})
    else:
        click.echo(f"{file} is whole: {_described(manifest)}, made at {manifest.created_at} by Headgate {manifest.headgate}")


@click.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Delete what is in the database.")
@config_option
@json_option
def restore(file: Path, replace: bool, config: Path | None, as_json: bool) -> None:
    """Load a backup into an empty database, all of it or nothing. Nothing may run on the database."""
    environ = find_launch(config).environ()
    from_environment = bool(environ.get("HEADGATE_SECRET"))
    with open_unchecked(config) as (settings, database), _explained(file), open_backup(file) as opened, not_served(settings.home):
        if database.dialect == "postgresql":
            require_no_workers(database)
        in_use = secret_in_use(environ, settings.home)
        saved = opened.secret() if opened.manifest.secret is not None else None
        if saved is not None and in_use is not None and saved != in_use and (from_environment or not replace):
            where = "HEADGATE_SECRET" if from_environment else "the file `secret` of this home"
            raise fail(f"{where} is another secret than the backup's: " + ("unset it" if from_environment else "say --replace to replace it"))
        done = restore_backup(opened, database, MIGRATIONS, open_blobs(settings), replace=replace, progress=show_step)
        if saved is not None and not from_environment:
            place_secret(saved, settings.home)
        manifest = opened.manifest
        problem = secret_problem(opened, saved or in_use, from_environment, mark_of)
        kept = in_use if saved is None or from_environment else saved
        if kept is not None and problem is None:  # under another secret an entry could not follow the backup's
            about = {"created_at": manifest.created_at, "rows": manifest.rows, "replaced": replace}
            AuditLog(database, kept.encode()).note_blocking(command_line(), "backup.restore", Subject("backup", file.name, "", about))
    if as_json:
        print_json(
            {
                "file": str(file),
                **_summary(manifest),
                "revision": done.revision,
                "upgraded_from": done.upgraded_from,
                "originals_missing": done.originals_missing,
            }
        )
    else:
        upgraded = f", upgraded from {done.upgraded_from} to {done.revision}" if done.upgraded_from else ""
        click.echo(f"restored from {file}: {_described(manifest)}{upgraded}")
    if done.originals_missing:
        click.echo(f"the originals of {done.originals_missing} documents are missing: copy files/ into the home folder", err=True)
    if problem is not None:
        click.echo(problem, err=True)


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "created_at": manifest.created_at,
        "headgate": manifest.headgate,
        "revision": manifest.revision,
        "rows": manifest.rows,
        "tables": {table.shape.name: table.rows for table in manifest.tables},
        "originals": len(manifest.originals),
        "originals_missing": len(manifest.originals_missing),
        "secret": manifest.secret is not None,
    }


def _described(manifest: Manifest) -> str:
    originals = f", {len(manifest.originals)} originals" if manifest.originals else ""
    return f"{manifest.rows} rows in {len(manifest.tables)} tables at revision {manifest.revision}{originals}{', the secret' if manifest.secret else ''}"
