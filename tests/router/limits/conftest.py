"""Real stores of limits, and a clock that the tests turn."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert

from config.database import open_database
from policies.access import Principal
from policies.buckets import per_minute
from policies.rate_limits import BURST_S, Kind, Measure, Scope, Scopes, _scope
from policies.schema import Priority, Queue
from router.launch import migrate_state
from router.limits import remote
from router.limits.limiter import Limiter
from router.limits.redis import RedisTransport
from router.limits.remote import Remote
from router.limits.shared_memory import SharedMemory
from router.limits.sql import SqlTransport
from router.limits.values import Store
from router.tables import workers
from tests.ports import free_port


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store on a busy machine is slow and not away; one that is away refuses connections, and that needs no patience."""
    monkeypatch.setattr(remote, "CALL_S", 30.0)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class RedisServer:
    """A server of the tests' own, on loopback, that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        self._command = [program, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder), "--loglevel", "warning"]
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([*self._command, "--port", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        from redis import Redis

        client = Redis.from_url(self.url)
        for _ in range(200):
            try:
                client.ping()
                break
            except Exception:
                assert self._process.poll() is None, "redis-server ended"
                try:
                    self._process.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
        client.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def flush(self) -> None:
        from redis import Redis

        client = Redis.from_url(self.url)
        client.flushall()
        client.close()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    redis_server.flush()
    return redis_server.url


Stores = Callable[[int], Awaitable[list[Store]]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.postgres), "redis"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Stores]:
    """So many workers' views of one store, each over connections of its own."""
    kind: str = request.param
    url = request.getfixturevalue("redis_url") if kind == "redis" else request.getfixturevalue("postgres_url") if kind == "postgresql" else ""
    async with AsyncExitStack() as stack:

        async def opened(count: int) -> list[Store]:
            found: list[Store] = []
            for number in range(count):
                worker = f"worker-{number}-{uuid4().hex[:8]}"
                match kind:
                    case "memory":
                        store: Store = SharedMemory(tmp_path / "limits", clock)
                    case "redis":
                        store = Remote(RedisTransport(url, worker, clock))
                    case _:
                        database = open_database(url or f"sqlite:///{tmp_path / 'headgate.db'}")
                        if not number:
                            await asyncio.to_thread(migrate_state, database)
                        await database.write(lambda connection, worker=worker: register(connection, worker))  # type: ignore[misc]
                        stack.push_async_callback(database.aclose)
                        store = Remote(SqlTransport(database, worker, clock))
                stack.push_async_callback(store.aclose)
                found.append(store)
            return found

        yield opened


def register(connection: Any, worker: str) -> None:
    connection.execute(insert(workers), {"id": worker, "instance": "test", "beat": 0, "started_at": time.time()})


def scope(measure: Measure, limit: int, name: str = "acme", kind: Kind = "tenant", burst_s: float = BURST_S) -> Scope:
    return _scope(kind, f"tenant {name!r}", measure, limit, f"{kind}:{name}", None if measure == "concurrency" else per_minute(limit, burst_s))


def scopes(
    *,
    rpm: int | None = None,
    tpm: int | None = None,
    concurrency: int | None = None,
    wait: bool = False,
    queue: Queue | None = None,
    priority: Priority = "normal",
    burst_s: float = BURST_S,
) -> Scopes:
    return Scopes(
        requests=() if rpm is None else (scope("requests", rpm, burst_s=burst_s),),
        tokens=() if tpm is None else (scope("tokens", tpm, burst_s=burst_s),),
        slots=() if concurrency is None else (scope("concurrency", concurrency),),
        wait=wait,
        queue=queue or Queue(),
        priority=priority,
    )


def principal(key: str = "key_1") -> Principal:
    return Principal(role="member", tenant="acme", key_id=key)


class Counted:
    """Metrics that remember."""

    def __init__(self) -> None:
        self.refused: list[tuple[str, str]] = []
        self.waiting = 0
        self.most = 0
        self.waited: list[float] = []
        self.away: list[str] = []

    def limited(self, scope: str, measure: str) -> None:
        self.refused.append((scope, measure))

    def limit_waiting(self, change: int) -> None:
        self.waiting += change
        self.most = max(self.most, self.waiting)

    def limit_waited(self, seconds: float) -> None:
        self.waited.append(seconds)

    def limit_store_away(self, store: str) -> None:
        self.away.append(store)


def limiter(store: Store, metrics: Counted | None = None, when_away: Any = "share") -> Limiter:
    return Limiter(lambda: store, when_away, metrics or Counted())
