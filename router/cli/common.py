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
from sqlalchemy.exc import SQLAlchemyError

from config.database import Database
from config.settings import Settings, hide_password
from router.backends import load_kinds
from router.identity.tenants import DEFAULT_TENANT, list_tenants
from router.launch import DEFAULT_POLICY, Launch, installed, open_state, prepare_home, prepare_state
from router.money.periods import parse_moment

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """`--config FILE`, else `HEADGATE_CONFIG`, else `headgate.yaml` in this folder, else the embedded defaults."""
    return click.option(
        "--config",
        "config",
        envvar="HEADGATE_CONFIG",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The policy file (default: headgate.yaml here, else the embedded one).",
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def find_launch(config: Path | None) -> Launch:
    """The policy file to use. Exits with 2 where a named one is missing or cannot be read."""
    chosen = config or (Path("headgate.yaml") if Path("headgate.yaml").is_file() else DEFAULT_POLICY)
    if not chosen.is_file():
        raise click.UsageError(f"there is no policy file {chosen}; name one with --config, or leave --config out to use the embedded defaults")
    launch = Launch(config=str(chosen.resolve()))
    try:
        launch.text()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise click.UsageError(f"the policy file {chosen} cannot be read: {reason}") from error
    return launch


@contextmanager
def open_home(config: Path | None) -> Iterator[tuple[Launch, Settings, Database]]:
    """Settings and database of this home, checked; works beside a running server."""
    launch = find_launch(config)
    settings = launch.settings()
    load_kinds(settings)
    database = open_migrated(settings)
    try:
        yield launch, settings, database
    finally:
        database.close()


def open_migrated(settings: Settings) -> Database:
    """The database of these settings in its newest form: made where there is none, refused where it is older (`headgate db upgrade`).

    Ends the command with status 1 where it does not answer, with 2 where it is refused.
    """
    make_home(settings)
    database = open_state(settings)
    try:
        prepare_state(database, settings)
    except (SQLAlchemyError, OSError) as error:
        database.close()
        raise no_database(settings, error) from error
    except BaseException:
        database.close()
        raise
    return database


def make_home(settings: Settings) -> None:
    try:
        prepare_home(settings)
    except OSError as error:
        raise fail(f"the home folder {settings.home} cannot be made: {error.strerror}; set HEADGATE_HOME to a folder you may write to") from error


def no_database(settings: Settings, error: Exception) -> click.ClickException:
    reason = getattr(error, "orig", None) or error
    return fail(f"the database {hide_password(settings.database)} does not answer: {reason}; check DATABASE_URL, or look with: headgate doctor")


def require_tenant(database: Database, tenant: str) -> None:
    """Ends the command with status 1 where there is no such tenant. `default` is made by the first start, so it may be used before it."""
    names = [row["name"] for row in database.read_blocking(list_tenants)]
    if tenant not in names and (names or tenant != DEFAULT_TENANT):
        raise fail(f"tenant {tenant!r} does not exist; there are {', '.join(map(str, names)) or 'none yet'}; make it with: headgate tenants create {tenant}")


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


def moment(text: str | None) -> float | None:
    """A date or time from the command line, in seconds since the epoch; UTC unless it says otherwise."""
    if text is None:
        return None
    try:
        return parse_moment(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def period_options(command: Command) -> Command:
    """`--tenant`, `--since` and `--until`."""
    for option in (
        click.option("--until", help="Before this date or time."),
        click.option("--since", help="From this date or time on (UTC unless it says otherwise)."),
        click.option("--tenant", help="Only this tenant."),
    ):
        command = option(command)
    return command


def fail(message: str) -> click.ClickException:
    """An error that ends the command with status 1."""
    return click.ClickException(message)


def has(module: str) -> bool:
    """Whether a module of an extra is installed."""
    return installed(module)


def require_reports(what: str, module: str = "reportlab") -> None:
    """Ends the command with status 1 where the extra is not installed."""
    if not has(module):
        raise fail(f"{what} needs the extra reports: pip install 'headgate[reports]'")


def set_variables(values: dict[str, str | None]) -> None:
    """Options that override settings for this process and its children."""
    os.environ.update({name: value for name, value in values.items() if value is not None})
