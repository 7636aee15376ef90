"""Whether somebody works on a home or a database now, and how to keep a server from starting meanwhile."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, inspect, select

from config.database import Database
from router.tables import workers

LOOK_S = 0.25
FRESH_S = 5.0
"""A worker counts its heartbeat every two seconds: one whose count stands still for so long is gone, or will be given up."""


class Served(Exception):
    """A server works on this home, or a worker on this database."""


@contextmanager
def not_served(home: Path) -> Iterator[None]:
    """No server runs on this home, and none starts inside. Raises `Served` where one runs."""
    folder = home / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Served(f"a server runs on {home.resolve()}: stop it first") from error
        yield


def require_no_workers(database: Database, pause: Callable[[float], None] = time.sleep) -> None:
    """Look at the heartbeats until one moves, then raise `Served`; or for `FRESH_S`, where workers are registered that do not move."""
    first = database.read_blocking(_beats)
    for _ in range(round(FRESH_S / LOOK_S) if first else 0):
        pause(LOOK_S)
        moved = [worker for worker, beat in database.read_blocking(_beats).items() if first.get(worker) != beat]
        if moved:
            raise Served(f"{len(moved)} worker{'s' if len(moved) > 1 else ''} of this or another host work on this database: stop every replica first")


def _beats(connection: Connection) -> dict[str, int]:
    if not inspect(connection).has_table(workers.name):
        return {}
    return {row.id: row.beat for row in connection.execute(select(workers.c.id, workers.c.beat))}
