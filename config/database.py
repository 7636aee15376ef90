"""The database: one set of SQLAlchemy Core tables on SQLite (the embedded default) or PostgreSQL (`DATABASE_URL`).

A unit of work is a plain function `(Connection) -> T`. It runs in one transaction: what it wrote is committed when the awaited call
returns, and nothing of it is when it raises. It must not block on anything but the database, and it must not keep the connection.

SQLite runs in WAL mode with one writer thread per process. Works that wait together share a commit (each in a savepoint of its own, so one
that raises takes no other with it). A commit survives the death of the process; `durability="full"` also survives the loss of power.
PostgreSQL runs over asyncpg; the same functions run in SQLAlchemy's greenlet bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections import namedtuple
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, cast

from sqlalchemy import Connection, Engine, Executable, MetaData, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.compiler import SQLCompiler

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")
Work = Callable[[Connection], T]
Durability = Literal["normal", "full"]

MAX_GROUP = 256
READERS = 4
STATE_LOCK = 0x4845414448
"""Held while the policy in force changes, or the first keys are made: what was read is still so when it is written."""


def new_metadata() -> MetaData:
    """Metadata for one package's tables; constraint names are fixed, so that migrations can name them."""
    return MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def exclusively(connection: Connection, lock: int) -> None:
    """From here to the end of the transaction, no other transaction that asks for the same lock runs; it waits.

    On SQLite there is nothing to do: a unit of work that writes has the file to itself from its beginning.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")


class Prepared:
    """A statement that is compiled once for each dialect and then handed to the driver as it is; on SQLite past SQLAlchemy altogether.

    For statements of the hot path: SQLAlchemy's work for every execution costs several times what SQLite's does. Values go to the driver
    unchanged, so the columns must be of types that need no conversion: text, integers, floats, bytes.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]]] = {}
        self._row: Callable[[Iterable[Any]], Any] | None = None

    def run(self, connection: Connection, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        """Execute with the named values; with a sequence of them once for each. Returns the rows, if there are any, with their columns as attributes.

        Raises `KeyError` for a value that is missing, and SQLAlchemy's errors.
        """
        sql, positional = self._compiled.get(connection.dialect.name) or self._compile(connection)
        given = positional(values) if isinstance(values, Mapping) else [positional(each) for each in values]
        driver = connection.connection.dbapi_connection
        if not isinstance(driver, sqlite3.Connection):
            result = connection.exec_driver_sql(sql, given)
            return result.all() if result.returns_rows else ()
        try:
            cursor = driver.execute(sql, given) if isinstance(given, tuple) else driver.executemany(sql, given)
            return self._named(cursor) if cursor.description else ()
        except sqlite3.Error as error:
            raise DBAPIError.instance(sql, None, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect) from error

    def _named(self, cursor: sqlite3.Cursor) -> list[Any]:
        if self._row is None:
            self._row = cast(Any, namedtuple("Row", [column[0] for column in cursor.description]))._make
        return list(map(self._row, cursor))

    def _compile(self, connection: Connection) -> tuple[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]]:
        statement = cast(SQLCompiler, self._statement.compile(dialect=connection.dialect))  # type: ignore[attr-defined]
        names = statement.positiontup or []
        pick = itemgetter(*names)
        compiled = (str(statement), pick if len(names) > 1 else lambda values: (pick(values),))
        self._compiled[connection.dialect.name] = compiled
        return compiled


class Database(Protocol):
    """Either database. The `_blocking` forms are for threads and for the command line; never call them on an event loop."""

    dialect: Literal["sqlite", "postgresql"]

    async def write(self, work: Work[T]) -> T: ...

    async def read(self, work: Work[T]) -> T: ...

    def write_blocking(self, work: Work[T]) -> T: ...

    def read_blocking(self, work: Work[T]) -> T: ...

    def alter_blocking(self, work: Work[T]) -> T:
        """A write that may rebuild tables, or fill them in any order: what hangs on a row by a foreign key stays when the row goes and comes back.

        Every foreign key holds again at its end. Raises `IntegrityError` where one does not, and then nothing is changed.
        """
        ...

    async def aclose(self) -> None: ...

    def close(self) -> None: ...


def open_database(url: str, *, durability: Durability = "normal") -> Database:
    """Open `sqlite:///PATH` or `postgresql://…`. Raises `ValueError` for any other URL. Connects at first use."""
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            if not parsed.database:
                raise ValueError("DATABASE_URL: SQLite needs a file, as in sqlite:///var/headgate.db")
            return SqliteDatabase(Path(parsed.database), durability)
        case "postgresql":
            return PostgresDatabase(parsed.set(drivername="postgresql+asyncpg").render_as_string(hide_password=False))
        case other:
            raise ValueError(f"DATABASE_URL: {other!r} is not supported; use sqlite:///PATH or postgresql://USER@HOST/NAME")


class SqliteDatabase:
    """SQLite in one file: a writer thread with group commit, and a few reader threads. What is not there yet is made for its owner only."""

    dialect: Literal["sqlite", "postgresql"] = "sqlite"

    def __init__(self, path: Path, durability: Durability = "normal") -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._engine = self._make_engine(path, durability)
        self._writes: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._start_lock = threading.Lock()
        self._closed = False

    @staticmethod
    def _make_engine(path: Path, durability: Durability) -> Engine:
        connect_args = {"timeout": 30.0, "check_same_thread": False}
        engine = create_engine(f"sqlite:///{path}", poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=connect_args, hide_parameters=True)

        @event.listens_for(engine, "do_connect")
        def make(_dialect: Any, _record: Any, _args: Any, _parameters: Any) -> None:
            _make_private(path)

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
            cursor.execute("PRAGMA foreign_keys = ON")
            cursor.execute("PRAGMA temp_store = MEMORY")
            cursor.close()

        return engine

    def _submit(self, jobs: queue.SimpleQueue[_Job[Any] | None], work: Work[T]) -> Future[T]:
        if self._closed:
            raise RuntimeError("the database is closed")
        with self._start_lock:
            if not self._threads:
                self._threads = [threading.Thread(target=self._write_loop, name="headgate-db-writer", daemon=True)]
                self._threads += [threading.Thread(target=self._read_loop, name=f"headgate-db-reader-{n}", daemon=True) for n in range(READERS)]
                for thread in self._threads:
                    thread.start()
        job = _Job(work)
        jobs.put(job)
        return job.future

    async def write(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._submit(self._writes, work))

    async def read(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._submit(self._reads, work))

    def write_blocking(self, work: Work[T]) -> T:
        return self._submit(self._writes, work).result()

    def read_blocking(self, work: Work[T]) -> T:
        return self._submit(self._reads, work).result()

    def alter_blocking(self, work: Work[T]) -> T:
        # SQLite changes a table by building another one in its place; with foreign keys on, dropping the old one would delete what hangs on it.
        with self._engine.connect() as connection:
            _control(connection, "PRAGMA foreign_keys = OFF")
            _control(connection, "BEGIN IMMEDIATE")
            try:
                result = work(connection)
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
                if broken is not None:
                    raise IntegrityError("PRAGMA foreign_key_check", None, ValueError(f"a row of {broken[0]} hangs on a row of {broken[2]} that is not there"))
                _control(connection, "COMMIT")
            except BaseException:
                with contextlib.suppress(OperationalError):
                    _control(connection, "ROLLBACK")
                raise
            return result

    def _write_loop(self) -> None:
        with self._engine.connect() as connection:
            while (group := self._next_group()) is not None:
                _run_group(connection, group)

    def _next_group(self) -> list[_Job[Any]] | None:
        job = self._writes.get()
        group: list[_Job[Any]] = []
        while job is not None:
            group.append(job)
            if len(group) == MAX_GROUP:
                return group
            try:
                job = self._writes.get_nowait()
            except queue.Empty:
                return group
        if group:
            self._writes.put(None)
            return group
        return None

    def _read_loop(self) -> None:
        with self._engine.connect() as connection:
            while (job := self._reads.get()) is not None:
                if not job.future.set_running_or_notify_cancel():
                    continue
                try:
                    _control(connection, "BEGIN")
                    result = job.work(connection)
                except BaseException as error:
                    _control(connection, "ROLLBACK")
                    job.future.set_exception(error)
                else:
                    _control(connection, "ROLLBACK")
                    job.future.set_result(result)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Finish what is queued, then stop the threads."""
        if self._closed:
            return
        self._closed = True
        self._writes.put(None)
        for _ in range(READERS):
            self._reads.put(None)
        for thread in self._threads:
            thread.join()
        self._engine.dispose()


_making = threading.Lock()


def _make_private(path: Path) -> None:
    """Make the file that SQLite would make with the modes of the umask; its `-wal` and `-shm` take the modes of it. What cannot be made, SQLite says."""
    # Only ever a file that nobody has open, one at a time: closing any descriptor of a database's file drops the locks that this process has on it.
    with _making, contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


class _Job(Generic[T]):
    """A unit of work and where its result goes."""

    __slots__ = ("future", "work")

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.future: Future[T] = Future()


def _run_group(connection: Connection, group: Sequence[_Job[Any]]) -> None:
    """Run the works in one transaction, each in its own savepoint; answer them only once the commit is done.

    A waiter that gave up (a cancelled task) does not undo its work: money is settled even when nobody waits for it.
    """
    done: list[tuple[_Job[Any], Any]] = []
    alone = len(group) == 1
    try:
        _control(connection, "BEGIN IMMEDIATE")
        for job in group:
            if alone:  # the transaction itself is its savepoint
                done.append((job, job.work(connection)))
                break
            _control(connection, "SAVEPOINT work")
            try:
                done.append((job, job.work(connection)))
            except Exception as error:
                _control(connection, "ROLLBACK TO work")
                _answer(job, error=error)
            _control(connection, "RELEASE work")
        _control(connection, "COMMIT")
    except Exception as error:
        with contextlib.suppress(Exception):
            _control(connection, "ROLLBACK")
        for job in group:
            _answer(job, error=error)
        return
    for job, result in done:
        _answer(job, result)


def _control(connection: Connection, statement: str) -> None:
    """A statement without parameters or rows, past SQLAlchemy's layers: they cost more than SQLite does. Fails with SQLAlchemy's errors all the same."""
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    try:
        raw.execute(statement)
    except sqlite3.Error as error:
        raise OperationalError(statement, None, error) from error


def _answer(job: _Job[Any], result: Any = None, error: Exception | None = None) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled by its waiter, or answered already
        if error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)


class PostgresDatabase:
    """PostgreSQL over asyncpg. One pool per event loop: the caller's, and a private one behind the `_blocking` forms."""

    dialect: Literal["sqlite", "postgresql"] = "postgresql"

    def __init__(self, url: str, pool_size: int = 10) -> None:
        self._url = url
        self._pool_size = pool_size
        self._engines: dict[asyncio.AbstractEventLoop, AsyncEngine] = {}
        self._writing: set[asyncio.Future[Any]] = set()
        self._private: asyncio.AbstractEventLoop | None = None
        self._private_lock = threading.Lock()

    def _engine(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        engine = self._engines.get(loop)
        if engine is None:
            from sqlalchemy.ext.asyncio import create_async_engine

            # An error's text goes to the log, and its parameters are prompts, documents and keys' hashes.
            pool = {"pool_size": self._pool_size, "max_overflow": self._pool_size, "pool_recycle": 300}
            engine = self._engines[loop] = create_async_engine(self._url, hide_parameters=True, **pool)
        return engine

    async def write(self, work: Work[T]) -> T:
        # A transaction half way through a cancelled task would leave the money undecided: it runs to its end.
        running = asyncio.ensure_future(self._transaction(work))
        self._writing.add(running)
        running.add_done_callback(self._writing.discard)
        return await asyncio.shield(running)

    async def read(self, work: Work[T]) -> T:
        return await self._transaction(work)

    async def _transaction(self, work: Work[T]) -> T:
        async with self._engine().begin() as connection:
            return await connection.run_sync(work)

    def write_blocking(self, work: Work[T]) -> T:
        return self._run_private(self._transaction(work))

    def read_blocking(self, work: Work[T]) -> T:
        return self._run_private(self._transaction(work))

    def alter_blocking(self, work: Work[T]) -> T:
        return self.write_blocking(work)  # tables are changed in place, and nobody disables a foreign key

    def _run_private(self, coroutine: Coroutine[Any, Any, T]) -> T:
        with self._private_lock:
            if self._private is None:
                self._private = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._private.run_forever, name="headgate-db", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._private).result()

    async def aclose(self) -> None:
        engine = self._engines.pop(asyncio.get_running_loop(), None)
        if engine is not None:
            await engine.dispose()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        loop, self._private = self._private, None
        if loop is not None:
            engine = self._engines.pop(loop, None)
            if engine is not None:
                asyncio.run_coroutine_threadsafe(engine.dispose(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()
