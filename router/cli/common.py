"""What the commands share: where the policy is, the state it opens, and two ways to print."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from config.database import Database
from config.settings import Settings
from router.backends import load_kinds
from router.launch import DEFAULT_POLICY, Launch, migrate_state, open_state

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """`--config FILE`, else `HEADGATE_CONFIG`, else `headgate.yaml` in this folder, else the embedded defaults."""
    return click.option(
        "--config", "config", envvar="HEADGATE_CONFIG", type=click.Path(dir_okay=False, path_type=Path), help="The policy file (default: headgate.yaml here, else the embedded one)."
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def find_launch(config: Path | None) -> Launch:
    """The policy file to use. Exits with 2 where a named one is missing."""
    chosen = config or (Path("headgate.yaml") if Path("headgate.yaml").is_file() else DEFAULT_POLICY)
    if not chosen.is_file():
        raise click.UsageError(f"there is no policy file {chosen}; name one with --config, or leave --config out to use the embedded defaults")
    return Launch(config=str(chosen.resolve()))


@contextmanager
def open_home(config: Path | None) -> Iterator[tuple[Launch, Settings, Database]]:
    """Settings and database of this home, migrated; works beside a running server."""
    launch = find_launch(config)
    settings = launch.settings()
    load_kinds(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    database = open_state(settings)
    try:
        migrate_state(database)
        yield launch, settings, database
    finally:
        database.close()


def is_serving(settings: Settings) -> bool:
    """Whether a server runs on this home."""
    lock = settings.home / "run" / "lock"
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell."""
    cells = [list(headings), *[["" if cell is None else str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fail(message: str) -> click.ClickException:
    """An error that ends the command with status 1."""
    return click.ClickException(message)


def set_variables(values: dict[str, str | None]) -> None:
    """Options that override settings for this process and its children."""
    os.environ.update({name: value for name, value in values.items() if value is not None})
