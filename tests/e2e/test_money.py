"""A crowd against a small budget: whatever clients, upstreams and processes do, the books add up to what was billed.

The long form (`HEADGATE_TEST_LONG=1 pytest -m long -s`) runs the same checks for a minute each, with many kills, and prints its figures.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from adapters.cost import picodollars
from config.database import Database, open_database
from tests.e2e.money_books import check_books, open_calls, read_books, read_budgets, settled_books, watching
from tests.e2e.money_client import Asked, ask, random_plan
from tests.serving import Serve, served, serving, until

CLIENTS = 100
POLICY = """
version: 1
settings: {{shutdown_s: 5}}
backends:
  mini: {{kind: scripted, price: {{input: 3.0, output: 15.0}}, directives: true, bill_to: {bills!r}, timeout_s: 0.4, max_output_tokens: 200, breaker: null,
    retry: {{attempts: 2, first_s: 0.02}}, hedge: {{after_s: 0.03, backend: spare}}}}
  spare: {{kind: scripted, text: "The second one answers.", delay_s: 0.001, price: {{input: 1.0, output: 4.0}}, bill_to: {bills!r}, max_output_tokens: 100}}
default: mini
fallback: [spare]
tenants:
  {tenant}: {{budget_usd: {{day: {day}, month: {month}}}}}
"""


@dataclass
class Crowd:
    """Clients that ask one request after the other, from where the service is now (it may come back elsewhere)."""

    url: str
    key: str
    seed: int
    asked: list[Asked] = field(default_factory=list)
    going_home: bool = False

    async def run(self, requests: int | None = None) -> None:
        """Every client sends so many requests, or goes on until `going_home`."""
        self.going_home = False
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(random.Random(self.seed * 1000 + number), requests))
        self.seed += 1

    async def _client(self, chance: random.Random, requests: int | None) -> None:
        sent = 0
        while sent != requests and not self.going_home:
            plan = random_plan(chance)
            asked = await ask(self.url, self.key, plan)
            self.asked.append(asked)
            sent += 1
            if plan.key is not None:  # as an SDK sends again what it got no end of, or what was refused for now
                asked = await ask(self.url, self.key, replace(plan, cut="none"))
                self.asked.append(asked)
            if asked.ended == "lost" or asked.status == 402:
                await asyncio.sleep(chance.uniform(0.05, 0.2))

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """The clients go on as long as the block runs."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.run())
            try:
                yield
            finally:
                self.going_home = True


def caps(day: float, month: float) -> dict[str, int]:
    return {"day": picodollars(day), "month": picodollars(month)}


def report(name: str, figures: object) -> None:
    print(f"\n{name}: {figures}")  # noqa: T201


async def crowd_in_process(tmp_path: Path, database_url: str, *, budget: float, requests: int | None = None, seconds: float | None = None) -> None:
    bills = tmp_path / "bills.jsonl"
    policy = POLICY.format(bills=str(bills), tenant="acme", day=budget * 1.2, month=budget)
    limits = caps(budget * 1.2, budget)
    async with serving(policy, tmp_path, database_url=database_url) as service:
        crowd = Crowd(service.url, service.key, seed=1)
        async with watching(service.database, "acme", limits) as watch:
            if seconds is None:
                await crowd.run(requests)
            else:
                async with crowd.at_work():
                    await asyncio.sleep(seconds)
        books = await settled_books(service.database)
        figures = check_books(books, crowd.asked, bills, "acme", limits)
    assert figures.counts["refused 402"], "the budget was to run out"
    assert {"ok", "error", "cancelled", "timeout"} <= {row["outcome"] for row in books.ledger}
    assert {row["backend"] for row in books.ledger} == {"mini", "spare"}
    assert {row["purpose"] for row in books.ledger} == {"answer", "hedge"}
    assert figures.counts["replayed"]
    assert figures.counts["further attempts"]
    report(f"in process, {service.database.dialect}, {watch.samples} samples", figures)


@asynccontextmanager
async def whole(home: Path, policy: str, variables: dict[str, str]) -> AsyncIterator[Serve]:
    """`headgate serve` with two workers and without the extras' processes."""
    file = home / "policy.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(policy)
    starting = served(home, "--config", str(file), "--workers", "2", models=False, **variables)
    serve = await asyncio.to_thread(starting.__enter__)
    try:
        yield serve
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


def worker_pids(serve: Serve) -> list[int]:
    found = []
    for child in psutil.Process(serve.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # which a zombie is too
            if "router.worker" in child.cmdline():
                found.append(child.pid)
    return found


async def kill_a_worker(serve: Serve, chance: random.Random) -> None:
    """`kill -9` one worker, and wait until another has taken its place."""
    before = worker_pids(serve)
    victim = chance.choice(before)
    os.kill(victim, signal.SIGKILL)
    await until(lambda: len([pid for pid in worker_pids(serve) if pid not in before]) == 1, 20)


async def kill_everything(serve: Serve) -> None:
    """`kill -9` of every process of the service at once."""
    os.killpg(serve.process.pid, signal.SIGKILL)
    await asyncio.to_thread(serve.process.wait)


async def while_reserved(database: Database, home: Path, act: Callable[[], Awaitable[None]]) -> None:
    """Do it at a moment when calls are open."""
    end = time.monotonic() + 20
    while await open_calls(database) < 5:
        assert time.monotonic() < end, f"no calls are open: {await read_budgets(database)} {(home / 'stderr.log').read_text()[-5000:]}"
        await asyncio.sleep(0.005)
    await act()


async def crowd_and_kills(tmp_path: Path, postgres: str | None, *, budget: float, phases: int, worker_kills: int, pause: float) -> None:
    """In every phase workers are killed; a phase ends with `kill -9` of everything, but for the last. `pause` seconds pass before each kill."""
    home = tmp_path / "home"
    bills = tmp_path / "bills.jsonl"
    policy = POLICY.format(bills=str(bills), tenant="default", day=budget * 1.2, month=budget)
    limits = caps(budget * 1.2, budget)
    variables = {} if postgres is None else {"DATABASE_URL": postgres}
    database: Database | None = None
    crowd = Crowd("", "", seed=2)
    kills = 0
    chance = random.Random(3)
    for number in range(phases):
        async with whole(home, policy, variables) as serve:
            crowd.url, crowd.key = serve.url, crowd.key or serve.keys["chat"]
            database = database or open_database(postgres or f"sqlite:///{home / 'headgate.db'}")
            async with watching(database, "default", limits), crowd.at_work():
                for _ in range(worker_kills):
                    await asyncio.sleep(pause)
                    await while_reserved(database, home, lambda serve=serve: kill_a_worker(serve, chance))  # type: ignore[misc]
                    kills += 1
                await asyncio.sleep(pause)
                if number < phases - 1:
                    await while_reserved(database, home, lambda serve=serve: kill_everything(serve))  # type: ignore[misc]
                    kills += 1
            if number == phases - 1:
                books = await settled_books(database)
    assert database is not None
    try:
        assert (await read_books(database)).ledger == books.ledger, "an orderly stop changes nothing"
        figures = check_books(books, crowd.asked, bills, "default", limits, killed=True)
    finally:
        await database.aclose()
    assert figures.counts["row crashed/estimated"], "the kills were to hit open calls"
    assert figures.counts["client answered"]
    report(f"whole service, {'sqlite' if postgres is None else 'postgresql'}, {kills} kills", figures)


async def test_a_crowd_never_overspends_and_the_ledger_equals_the_bill(tmp_path: Path, database_url: str) -> None:
    await crowd_in_process(tmp_path, database_url, budget=0.12, requests=6)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def test_the_books_survive_killed_workers_and_a_killed_service(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    postgres = request.getfixturevalue("postgres_url") if kind == "postgresql" else None
    await crowd_and_kills(tmp_path, postgres, budget=8.0, phases=2, worker_kills=1, pause=0.5)


@pytest.mark.long
async def test_a_crowd_never_overspends_for_a_minute(tmp_path: Path, database_url: str) -> None:
    await crowd_in_process(tmp_path, database_url, budget=1.5, seconds=60)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def test_the_books_survive_many_kills(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    postgres = request.getfixturevalue("postgres_url") if kind == "postgresql" else None
    await crowd_and_kills(tmp_path, postgres, budget=40.0, phases=4, worker_kills=3, pause=3.0)
