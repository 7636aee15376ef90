"""`headgate serve`: prepares the state, then runs the workers, the compute process and the ingest process, and keeps them running.

One supervisor per home folder (a lock on `run/lock`). It holds the listening socket, so a worker can die and be replaced while connections
wait; what a dead worker left reserved is settled at once, and what dead replicas left once their heartbeat has stood still long enough.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import IO

import msgspec
import structlog
from sqlalchemy import Connection, delete
from sqlalchemy import select as sql_select
from sqlalchemy.exc import SQLAlchemyError

from config.database import Database
from config.secretfile import admin_key, load_secret
from config.settings import Settings
from router.audit.changes import recorded_start
from router.audit.log import AuditLog
from router.backends import load_kinds
from router.identity.first_keys import FirstKeys, ensure_first_keys
from router.identity.tenants import DEFAULT_TENANT, list_tenants
from router.launch import Launch, installed, open_state, open_to_others, prepare_home, prepare_state, socket_path
from router.limits.sql import forget_worker as free_limits
from router.money.recovery import recover
from router.money.sealing import SealKey
from router.policy_import import PolicyFile, settings_at_start
from router.tables import reservations, workers
from router.telemetry import METRICS_FOLDER, forget_worker, prepare_metrics_folder

log = structlog.get_logger("headgate.supervisor")

TICK_S = 0.5
STILL_S = 30.0
"""How long another instance's heartbeat may stand still before its reservations are settled."""

RESTART_AFTER_S = (0.0, 0.5, 1.0, 2.0, 5.0)
HEALTHY_AFTER_S = 30.0


class AlreadyRunning(Exception):
    """Another supervisor serves this home folder."""


class CannotListen(Exception):
    """The address is taken, or is not this machine's."""


class Child:
    """One process that should always run. Restarted when it ends, after a growing pause while it keeps ending early."""

    def __init__(self, name: str, start: Callable[[Child], subprocess.Popen[bytes]]) -> None:
        self.name = name
        self.id = ""
        self._start = start
        self._failures = 0
        self._started = 0.0
        self._next = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.id = uuid.uuid4().hex
        self._started = time.monotonic()
        self.process = self._start(self)

    def ended(self) -> int | None:
        """The exit status, once, of a process that has ended."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        lived = time.monotonic() - self._started
        self._failures = 0 if lived > HEALTHY_AFTER_S else self._failures + 1
        self._next = time.monotonic() + RESTART_AFTER_S[min(self._failures, len(RESTART_AFTER_S) - 1)]
        self.process = None
        return status

    @property
    def due(self) -> bool:
        return self.process is None and time.monotonic() >= self._next

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


class Supervisor:
    """Prepares and supervises one instance of the service."""

    def __init__(self, launch: Launch, announce: Callable[[str], None], *, strict: bool = False) -> None:
        """`strict` refuses to start where the policy file may not be put in force, also where an earlier version could be served."""
        self._launch = self._again = launch
        self._announce = announce
        self._strict = strict
        self._settings: Settings = launch.settings() if strict else settings_at_start(launch)
        self._file = PolicyFile(launch, self._settings)
        self._instance = ""
        self._stopping = False
        self._children: list[Child] = []
        self._ready_read, self._ready_write = os.pipe()
        self._beats: dict[str, tuple[int, float]] = {}
        self._dead: set[str] = set()
        self._lock: IO[str] | None = None

    @property
    def settings(self) -> Settings:
        return self._settings

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT. Returns the exit status. Raises what a user can mend: settings, policy, port, lock."""
        settings = self._settings
        prepare_home(settings)
        if (problem := open_to_others(settings)) is not None:
            log.warning("home_open_to_others", problem=problem)
        self._take_lock()
        listener = _listen(settings.host, settings.port)
        port = listener.getsockname()[1]
        for stop in (signal.SIGTERM, signal.SIGINT):
            signal.signal(stop, self._on_signal)
        metrics = settings.home / "run" / "metrics"
        prepare_metrics_folder(metrics)
        os.environ[METRICS_FOLDER] = str(metrics.resolve())
        with_compute = installed("sentence_transformers") or installed("transformers")
        starting = [self._spawn_worker(listener) for _ in range(settings.workers)]
        try:
            load_kinds(settings)
            self._file.read()
            if self._file.problem is not None and self._strict:
                raise self._file.problem
            database = open_state(settings)
            self._file.require_last_good(database)
            made = self._prepare(database)
            self._again = self._file.keep_settings()
        except BaseException:
            listener.close()
            for process in starting:
                process.kill()
                process.wait()
            raise
        warnings = self._file.say()
        for number in range(settings.workers):
            self._add(f"worker-{number}", lambda child: self._order_worker(child, listener, starting, with_compute))

        def ready() -> None:
            self._announce_ready(f"http://{settings.host}:{port}", made, warnings)
            # Only now: the libraries of the local models take seconds to load, on the cores that the workers start on.
            if with_compute:
                self._add_compute()

        self._watch(database, ready)
        return self._stop(database)

    # --- before the first request ------------------------------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        folder = self._settings.home / "run"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyRunning(f"another headgate serves {self._settings.home.resolve()}; stop it, or give this one its own HEADGATE_HOME") from error
        identity = folder / "instance"
        if not identity.exists():
            identity.write_text(uuid.uuid4().hex)
        self._instance = identity.read_text()

    def _prepare(self, database: Database) -> FirstKeys:
        """Make the tables or check them, recover what an earlier run of this instance left open, import the policy file, make sure there are keys."""
        prepare_state(database, self._settings)
        environ = self._launch.environ()
        secret = load_secret(environ, self._settings.home).reveal().encode()
        configured = admin_key(environ, [str(row["name"]) for row in database.read_blocking(list_tenants)])
        embedded = self._settings.database_url is None

        def work(connection: Connection) -> FirstKeys:
            # The home's lock is ours, so whatever worker of this instance is registered is dead; a database inside the home has no other instance.
            dead = _workers_of(connection, None if embedded else self._instance)
            recovered = sum(_bury(connection, worker, self._seals) for worker in dead)
            if recovered:
                log.warning("recovered_reservations", count=recovered)
            self._file.import_first(connection)
            return ensure_first_keys(connection, secret, configured.reveal() if configured else None)

        self._audit, self._seals = AuditLog(database, secret), SealKey(secret)
        return database.write_blocking(recorded_start(self._audit, self._seals, work))

    def _announce_ready(self, url: str, made: FirstKeys, warnings: list[str]) -> None:
        self._announce(f"Headgate is ready on {url}")
        self._announce(f"  API reference  {url}/docs      health  {url}/health")
        self._announce(f"  base_url for the OpenAI SDK: {url}/v1")
        for line in warnings:
            self._announce(line)
        if made.admin is not None:
            self._announce(f"  admin key, to administer (shown this once): {made.admin}")
        if made.chat is not None:
            self._announce(f"  key of tenant {DEFAULT_TENANT!r}, to chat (shown this once): {made.chat}")

    # --- processes ---------------------------------------------------------------------------------------------------------------------------

    def _add(self, name: str, start: Callable[[Child], subprocess.Popen[bytes]]) -> None:
        child = Child(name, start)
        child.start()
        self._children.append(child)

    def _spawn(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._launch.command(module, *arguments), stdin=subprocess.PIPE, env={**self._launch.environ()})

    def _add_compute(self) -> None:
        socket_file, launched = str(socket_path(self._settings.home)), ("--config", self._again.config, "--started", self._again.started)
        self._add("compute", lambda child: self._spawn("router.compute", "--socket", socket_file, *launched))
        if installed("faiss"):
            self._add("ingest", lambda child: self._spawn("router.ingest", *launched))

    def _spawn_worker(self, listener: socket.socket) -> subprocess.Popen[bytes]:
        command = self._launch.command("router.worker", msgspec.json.encode(self._again).decode())
        return subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(listener.fileno(), self._ready_write), env={**self._launch.environ()})

    def _order_worker(self, child: Child, listener: socket.socket, waiting: list[subprocess.Popen[bytes]], compute: bool) -> subprocess.Popen[bytes]:
        process = waiting.pop() if waiting else self._spawn_worker(listener)
        orders = {
            "worker": child.id,
            "instance": self._instance,
            "launch": self._again,
            "socket": listener.fileno(),
            "ready": self._ready_write,
            "compute": compute,
        }
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended before its orders came: seen, and replaced, at the next look
            process.stdin.write(msgspec.json.encode(orders) + b"\n")
            process.stdin.flush()
        return process

    # --- while it runs -----------------------------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, _frame: object) -> None:
        self._stopping = True

    def _watch(self, database: Database, ready: Callable[[], None]) -> None:
        waiting = self._settings.workers
        swept = time.monotonic()
        while not self._stopping:
            if waiting and select.select([self._ready_read], [], [], TICK_S)[0]:
                waiting -= len(os.read(self._ready_read, waiting))
                if not waiting:
                    ready()
            elif not waiting:
                time.sleep(TICK_S)
            for child in self._children:
                self._look_after(child)
            self._bury_dead(database)
            self._file.look(database, self._audit)
            if time.monotonic() - swept > STILL_S / 3:
                swept = time.monotonic()
                self._sweep(database)

    def _look_after(self, child: Child) -> None:
        pid = child.process.pid if child.process is not None else 0
        worker = child.id
        status = child.ended()
        if status is not None and not self._stopping:
            log.error("process_ended", process=child.name, status=status)
            if child.name.startswith("worker"):
                forget_worker(pid)
                self._dead.add(worker)
        if child.due and not self._stopping:
            child.start()

    def _bury_dead(self, database: Database) -> None:
        """Settle what dead workers left open; one that the database refuses now is tried again at the next tick."""
        for worker in sorted(self._dead):
            try:
                recovered = database.write_blocking(lambda connection, worker=worker: _bury(connection, worker, self._seals))  # type: ignore[misc]
            except (SQLAlchemyError, OSError, ValueError, OverflowError) as error:
                log.error("recovery_failed", worker=worker, error=type(error).__name__)
                continue
            self._dead.discard(worker)
            if recovered:
                log.warning("recovered_reservations", worker=worker, count=recovered)

    def _sweep(self, database: Database) -> None:
        """Settle what workers that are not this supervisor's left open, once their heartbeat has stood still for `STILL_S` by this clock."""
        now = time.monotonic()
        own = {child.id for child in self._children}
        try:
            found = database.read_blocking(_beats)
        except (SQLAlchemyError, OSError) as error:
            log.error("sweep_failed", error=str(error))
            return
        known = {worker: beat for worker, beat in found.items() if worker not in own}
        self._beats = {worker: (beat, self._beats[worker][1] if self._beats.get(worker, (None, 0))[0] == beat else now) for worker, beat in known.items()}
        still = {worker for worker, (_, since) in self._beats.items() if now - since > STILL_S}
        if still:
            log.warning("recovering_still_workers", workers=sorted(still))
            self._dead |= still

    def _stop(self, database: Database) -> int:
        """Workers first (they finish their requests and settle), then the processes they need."""
        gateways = [child for child in self._children if child.name.startswith("worker")]
        for group in (gateways, [child for child in self._children if child not in gateways]):
            for child in group:
                child.signal(signal.SIGTERM)
            end = time.monotonic() + self._settings.shutdown_s + 5
            for child in group:
                if child.process is not None:
                    try:
                        child.process.wait(max(0.1, end - time.monotonic()))
                    except subprocess.TimeoutExpired:
                        log.error("process_killed", process=child.name)
                        child.process.kill()
                        child.process.wait()
                if child.name.startswith("worker"):
                    self._dead.add(child.id)
            self._bury_dead(database)
        database.close()
        return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another address with --host and --port") from error
    listener.listen(2048)
    listener.set_inheritable(True)
    return listener


def _workers_of(connection: Connection, instance: str | None) -> set[str]:
    """The registered workers of an instance; with None every worker that is registered or holds a reservation."""
    query = sql_select(workers.c.id)
    if instance is not None:
        return set(connection.execute(query.where(workers.c.instance == instance)).scalars())
    return {*connection.execute(query).scalars(), *connection.execute(sql_select(reservations.c.worker).distinct()).scalars()}


def _bury(connection: Connection, worker: str, seals: SealKey) -> int:
    """Settle a dead worker's reservations and forget it. Returns how many there were."""
    recovered = recover(connection, worker, time.time(), seals)
    free_limits(connection, worker)
    connection.execute(delete(workers).where(workers.c.id == worker))
    return recovered


def _beats(connection: Connection) -> dict[str, int]:
    """The heartbeats of all workers; -1 for one that is not registered and yet holds a reservation."""
    holders = dict.fromkeys(connection.execute(sql_select(reservations.c.worker).distinct()).scalars(), -1)
    return {**holders, **{row.id: row.beat for row in connection.execute(sql_select(workers.c.id, workers.c.beat))}}


if __name__ == "__main__":
    sys.exit("run: headgate serve")
