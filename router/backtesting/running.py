"""A backtest over the decision log: which policies decided, the records page by page, and the bounds within which it runs."""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from adapters.backend import BackendContext, create_backend
from adapters.types import Capabilities
from config.database import Database
from policies.backtest.running import HIGHEST, Backtest, Report
from policies.load import Policy, PolicyError, load_policy
from router import policy_store
from router.audit.replaying import Chosen, beginning, count, page, read
from router.policy_in_force import known_price

Progress = Callable[[int, int], None]
"""Told how many records are done, and of how many."""


class TookTooLong(Exception):
    """The time that a backtest may take is over."""


class AlreadyRunning(Exception):
    """Another backtest runs on this machine."""


class NoPolicy(Exception):
    """No policy was ever active here."""


def _nobody(_done: int, _all: int) -> None:
    """Nobody watches."""


def run_backtest(
    database: Database,
    candidate: Policy,
    environ: Mapping[str, str],
    chosen: Chosen,
    level: int = HIGHEST,
    *,
    curve: bool = False,
    progress: Progress = _nobody,
    most_s: float | None = None,
) -> Report:
    """Decide the chosen records again and estimate what the levels ask for. Blocks: for a thread, where an event loop runs.

    Between two pages of records others get at the database. Raises `TookTooLong` after `most_s` seconds of reading and deciding, `NoPolicy`.
    """
    ends = None if most_s is None else time.monotonic() + most_s
    version = database.read_blocking(policy_store.active_version)
    if version is None:
        raise NoPolicy
    versions = _Versions(database)
    reference = versions.get(version.version) or candidate
    backtest = Backtest(reference, candidate, capabilities_of(candidate, environ), level, curve=curve)
    whole = database.read_blocking(lambda connection: count(connection, chosen))
    after = database.read_blocking(lambda connection: beginning(connection, chosen))
    done = 0
    while done < whole:
        rows = database.read_blocking(lambda connection, after=after: page(connection, chosen, after))  # type: ignore[misc]
        if not rows:
            break
        after = (rows[-1]["created_at"], rows[-1]["request_id"])
        for record in database.read_blocking(lambda connection, rows=rows: read(connection, rows)):  # type: ignore[misc]
            backtest.add(record, versions.get(record.policy_version))
        done += len(rows)
        progress(min(done, whole), whole)
        if ends is not None and time.monotonic() > ends:
            raise TookTooLong
    return backtest.report()


class _Versions:
    """The policies that decided, by version; each is loaded once. None for one that is gone or not valid any more."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[int, Policy | None] = {}

    def get(self, number: int) -> Policy | None:
        if number not in self._known:
            version = self._database.read_blocking(lambda connection: policy_store.get_version(connection, number))
            try:
                self._known[number] = None if version is None else load_policy(version.text, f"version {number}", price_of=known_price)
            except PolicyError:
                self._known[number] = None
        return self._known[number]


def capabilities_of(policy: Policy, environ: Mapping[str, str]) -> dict[str, Capabilities]:
    """What each backend of a policy can do. They are made and closed again, and never called. Where no event loop runs in this thread."""

    async def asked() -> dict[str, Capabilities]:
        found = {}
        for name, configured in policy.backends.items():
            backend = create_backend(name, configured.spec, BackendContext(environ=environ))
            found[name] = backend.capabilities
            await backend.aclose()
        return found

    return asyncio.run(asked())


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """One backtest at a time for all workers of this machine: two would take the time of the requests. Raises `AlreadyRunning`."""
    folder = home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "backtest.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyRunning from error
        yield
