"""The schema's revisions: which there are, which one a database is at, and the ways up and down.

What this release expects is read from the packages' `migrations` folders: no constant says it twice. Every way up or down runs under a lock and
in one transaction, so replicas wait for the one that migrates, and a migration that fails leaves nothing behind.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from sqlalchemy import Connection, inspect, text

from config.database import Database, exclusively
from config.settings import SettingsError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATION_LOCK = 0x4845414447  # "HEADG": every replica that starts waits for the one that migrates
BASE = "base"
"""The name of the state before the first migration: no tables at all."""

VERSION_TABLE = "alembic_version"
NEWER = "install that release again, or restore the backup from before the upgrade"
OLDER = "Back it up (headgate backup FILE), then bring it up to date: headgate db upgrade"
FOREIGN = "The database holds tables and none of them says that Headgate made them: give Headgate a database of its own with DATABASE_URL."

Standing = Literal["empty", "older", "current", "newer", "foreign"]


class Revision(Struct, frozen=True):
    """One migration. `below` is the one before it, None for the first; `summary` the first line of its file."""

    id: str
    below: str | None
    summary: str


class SchemaState(Struct, frozen=True):
    """Where a database stands. `revision` is None without tables (`empty`), and where the tables are somebody else's (`foreign`)."""

    standing: Standing
    revision: str | None
    head: str
    pending: tuple[Revision, ...] = ()


class Step(Struct, frozen=True):
    """A migration that was just run, in either direction, and the seconds it took."""

    revision: Revision
    up: bool
    seconds: float


Progress = Callable[[Step], None]


def read_revisions(locations: Sequence[Path]) -> tuple[Revision, ...]:
    """The migrations of these folders, oldest first. Their files are read and not run, so that a process that only looks loads no alembic.

    Raises `ValueError` where they do not make one chain: then two of them follow the same one, or one follows nothing.
    """
    found = [_read(file) for folder in locations for file in sorted(folder.glob("[0-9]*.py"))]
    followers: dict[str | None, Revision] = {}
    for revision in found:
        other = followers.setdefault(revision.below, revision)
        if other is not revision:
            raise ValueError(f"the migrations {other.id} and {revision.id} both follow {revision.below or BASE}: one must follow the other")
    chain: list[Revision] = []
    while (following := followers.get(chain[-1].id if chain else None)) is not None:
        chain.append(following)
    if lost := sorted({revision.id for revision in found} - {revision.id for revision in chain}):
        raise ValueError(f"the migrations {', '.join(lost)} follow nothing that exists")
    return tuple(chain)


_REVISION = re.compile(r'^revision *(?:: *\w+ *)?= *"(\w+)"$', re.MULTILINE)
_BELOW = re.compile(r'^down_revision *(?::[^=\n]*)?= *(?:"(\w+)"|None)$', re.MULTILINE)
_SUMMARY = re.compile(r'\A"""(.+?)\.?(?:\n|""")')


def _read(file: Path) -> Revision:
    source = file.read_text(encoding="utf-8")
    revision, below = _REVISION.search(source), _BELOW.search(source)
    if revision is None or below is None:
        raise ValueError(f"{file.name} is no migration: its revision and its down_revision must each stand on a line of their own")
    summary = _SUMMARY.match(source)
    return Revision(revision[1], below[1], file.stem if summary is None else summary[1])


def read_state(connection: Connection, locations: Sequence[Path]) -> SchemaState:
    """Where this database stands against the migrations of this release. Two or three small queries; nothing is changed."""
    chain = read_revisions(locations)
    head = chain[-1].id if chain else BASE
    tables = set(inspect(connection).get_table_names())
    revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() if VERSION_TABLE in tables else None  # noqa: S608 - a constant
    if revision is None:
        return SchemaState("foreign", None, head) if tables - {VERSION_TABLE} else SchemaState("empty", None, head, chain)
    known = [each.id for each in chain]
    if revision not in known:
        return SchemaState("newer", revision, head)
    pending = chain[known.index(revision) + 1 :]
    return SchemaState("older" if pending else "current", revision, head, pending)


def problem_of(state: SchemaState) -> str | None:
    """Why this release may not work on such a database, and the command to run; None where it may."""
    match state.standing:
        case "current":
            return None
        case "empty":
            return "The database has no tables yet: they are made by headgate serve, or by headgate db upgrade."
        case "older":
            count = f"{len(state.pending)} migration{'s are' if len(state.pending) > 1 else ' is'} pending"
            return f"The database is at schema revision {state.revision}, and this release works with {state.head} ({count}). {OLDER}"
        case "newer":
            return f"The database was migrated by a newer release of Headgate (schema revision {state.revision}): {NEWER}."
        case "foreign":
            return FOREIGN


def require_current(connection: Connection, locations: Sequence[Path]) -> None:
    """Raises `SettingsError`, with the command to run, unless the database is at the newest revision this release knows."""
    problem = problem_of(read_state(connection, locations))
    if problem is not None:
        raise SettingsError([problem])


def prepare(database: Database, locations: Sequence[Path], *, auto: bool = False, progress: Progress | None = None) -> None:
    """Make the tables of an empty database; refuse any other that is not at the newest revision, unless `auto` upgrades an older one.

    Blocking. Raises `SettingsError`.
    """
    state = database.read_blocking(lambda connection: read_state(connection, locations))
    if state.standing == "empty" or (auto and state.standing == "older"):
        migrate(database, locations, progress=progress)
        return
    problem = problem_of(state)
    if problem is not None:
        raise SettingsError([problem])


def migrate(database: Database, locations: Sequence[Path], *, progress: Progress | None = None) -> None:
    """Bring the tables to the newest revision, under a lock. Blocking; safe to call again.

    Everything happens in one transaction. Raises `SettingsError` for a database that a newer release has migrated, or that is not Headgate's:
    nothing of it is touched.
    """
    database.alter_blocking(lambda connection: upgrade(connection, locations, progress=progress))


def upgrade(connection: Connection, locations: Sequence[Path], revision: str | None = None, progress: Progress | None = None) -> None:
    """Inside a caller's `alter`: up to `revision`, or to the newest one. Raises `SettingsError`, and `ValueError` for a revision that is below."""
    exclusively(connection, MIGRATION_LOCK)
    state = read_state(connection, locations)
    if state.standing in ("newer", "foreign"):
        raise SettingsError([str(problem_of(state))])
    chain = read_revisions(locations)
    goal = len(chain) if revision is None else _position(chain, revision)
    if goal < len(chain) - len(state.pending):
        raise ValueError(f"the database is at {state.revision}, above {revision}")
    _run(connection, locations, chain, up=True, revision=chain[goal - 1].id if goal else BASE, progress=progress)


def downgrade(connection: Connection, locations: Sequence[Path], revision: str, progress: Progress | None = None) -> None:
    """Inside a caller's `alter`: down to `revision`, which may be `base`. Raises `SettingsError`, and `ValueError` for a revision that is above."""
    exclusively(connection, MIGRATION_LOCK)
    state = read_state(connection, locations)
    if state.standing in ("newer", "foreign"):
        raise SettingsError([str(problem_of(state))])
    chain = read_revisions(locations)
    if _position(chain, revision) > len(chain) - len(state.pending):
        raise ValueError(f"the database is at {state.revision or BASE}, below {revision}")
    if state.revision is not None:
        _run(connection, locations, chain, up=False, revision=revision, progress=progress)


def below(state: SchemaState, locations: Sequence[Path], wanted: str) -> tuple[str, tuple[Revision, ...]]:
    """The revision that `wanted` means, an id or a number of steps (`-1`), and the migrations to be undone for it, newest first.

    Raises `ValueError` where it is not below the database's.
    """
    chain = read_revisions(locations)
    current = len(chain) - len(state.pending)
    goal = current + int(wanted) if wanted.startswith("-") and wanted[1:].isdigit() else _position(chain, wanted)
    if not 0 < goal < current:
        lower = ", ".join(each.id for each in reversed(chain[: current - 1])) or "none"
        raise ValueError(f"{wanted!r} is not below {state.revision}; there are: {lower}")
    return chain[goal - 1].id, tuple(reversed(chain[goal:current]))


def _position(chain: Sequence[Revision], revision: str) -> int:
    """How many migrations lead to a revision."""
    if revision == BASE:
        return 0
    known = [each.id for each in chain]
    if revision not in known:
        raise ValueError(f"there is no revision {revision!r}; there are: {', '.join(known)}")
    return known.index(revision) + 1


def _run(connection: Connection, locations: Sequence[Path], chain: Iterable[Revision], *, up: bool, revision: str, progress: Progress | None) -> None:
    from alembic import command

    by_id = {each.id: each for each in chain}
    began = time.monotonic()

    def applied(ctx: object, step: object, heads: object, run_args: object) -> None:  # alembic names its arguments
        nonlocal began
        now = time.monotonic()
        if progress is not None:
            progress(Step(by_id[str(getattr(step, "up_revision_id", ""))], up, now - began))
        began = now

    settings = _alembic(connection, locations)
    settings.attributes["on_version_apply"] = applied
    (command.upgrade if up else command.downgrade)(settings, revision)


def _alembic(connection: Connection, locations: Sequence[Path]) -> Config:
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    settings.set_main_option("path_separator", "newline")
    settings.set_main_option("version_locations", "\n".join(str(location) for location in locations))
    settings.attributes["connection"] = connection
    return settings
