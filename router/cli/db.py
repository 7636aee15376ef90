"""`headgate db`: which schema revision the database is at, and the ways up and down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from sqlalchemy.exc import SQLAlchemyError

from config.database import Database
from config.schema import SchemaState, Step, below, downgrade, migrate, problem_of, read_state
from config.settings import Settings, hide_password
from router.cli.common import config_option, fail, find_launch, is_serving, json_option, make_home, no_database, print_json
from router.launch import MIGRATIONS, open_state
from router.storage.served import Served, not_served, require_no_workers


@click.group()
def db() -> None:
    """The database's schema."""


@contextmanager
def open_unchecked(config: Path | None) -> Iterator[tuple[Settings, Database]]:
    """Settings and database of this home, whatever revision it is at."""
    settings = find_launch(config).settings()
    make_home(settings)
    database = open_state(settings)
    try:
        yield settings, database
    except Served as error:
        raise fail(str(error)) from error
    except (SQLAlchemyError, OSError) as error:
        raise no_database(settings, error) from error
    finally:
        database.close()


def standing_of(database: Database) -> SchemaState:
    return database.read_blocking(lambda connection: read_state(connection, MIGRATIONS))


@db.command("status")
@config_option
@json_option
def status(config: Path | None, as_json: bool) -> None:
    """The revision it is at, the newest one, and the migrations between."""
    with open_unchecked(config) as (settings, database):
        state = standing_of(database)
    shown = hide_password(settings.database)
    if as_json:
        print_json({"database": shown, **msgspec.to_builtins(state), "pending": [{"id": each.id, "summary": each.summary} for each in state.pending]})
        return
    click.echo(f"{shown} is {state.standing}: revision {state.revision or 'none'}, the newest is {state.head}")
    for each in state.pending:
        click.echo(f"  pending  {each.id}  {each.summary}")
    problem = problem_of(state)
    if problem is not None:
        click.echo(problem)


def show_step(step: Step) -> None:
    click.echo(f"{'up  ' if step.up else 'down'}  {step.revision.id}  {step.revision.summary}  ({step.seconds:.1f} s)", err=True)


@db.command("upgrade")
@config_option
@json_option
def upgrade(config: Path | None, as_json: bool) -> None:
    """Bring the database to the newest revision, in one transaction. Back it up first."""
    with open_unchecked(config) as (settings, database):
        before = standing_of(database)
        if is_serving(settings):
            click.echo("a server runs on this home: restart it with this release afterwards", err=True)
        migrate(database, MIGRATIONS, progress=show_step)
        after = standing_of(database)
    if as_json:
        print_json({"from": before.revision, "to": after.revision})
    else:
        click.echo(f"the database is at {after.revision}" + ("" if before.revision != after.revision else " already: nothing to do"))


@db.command("downgrade", context_settings={"ignore_unknown_options": True})  # or else -1 were an option
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do it: what the undone migrations added is deleted.")
@config_option
@json_option
def down(revision: str, yes: bool, config: Path | None, as_json: bool) -> None:
    """Go back to REVISION, or one step with -1, in one transaction. Nothing may run on the database. Back it up first."""
    with open_unchecked(config) as (settings, database):
        state = standing_of(database)
        if state.standing != "current" and state.standing != "older":
            raise fail(str(problem_of(state)))
        try:
            goal, undone = below(state, MIGRATIONS, revision)
        except ValueError as error:
            raise fail(f"{error}; look with: headgate db status") from error
        if not yes:
            listed = "\n".join(f"  {each.id}  {each.summary}" for each in undone)
            raise fail(f"this would undo, and delete what stands in the tables and columns that these made:\n{listed}\nback up first, then say --yes")
        with not_served(settings.home):
            if database.dialect == "postgresql":
                require_no_workers(database)
            database.alter_blocking(lambda connection: downgrade(connection, MIGRATIONS, goal, show_step))
    if as_json:
        print_json({"from": state.revision, "to": goal})
    else:
        click.echo(f"the database is at {goal}: start the release that works with it; this one refuses it")
