"""A crowd of clients, the service that it asks, and what kills that."""

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

from adapters.cost import picodollars
from config.database import Database
from tests.e2e.money_books import open_calls, read_budgets
from tests.e2e.money_client import Asked, ask, random_plan
from tests.serving import Serve, served, until


@dataclass
class Crowd:
    """Clients that ask one request after the other, from where the service is now (it may come back elsewhere)."""

    url: str
    key: str
    seed: int
    clients: int = 100
    models: tuple[str, ...] = ("auto",)
    asked: list[Asked] = field(default_factory=list)
    going_home: bool = False

    async def run(self, requests: int | None = None) -> None:
        """Every client sends so many requests, or goes on until `going_home`."""
        self.going_home = False
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(self._client(random.Random(self.seed * 1000 + number), requests))
        self.seed += 1

    async def _client(self, chance: random.Random, requests: int | None) -> None:
        sent = 0
        while sent != requests and not self.going_home:
            plan = random_plan(chance, self.models)
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


SEVERAL = ("auto", "auto", "checked", "first-checked", "judged", "judged-well")
"""What a crowd asks for where the policy has `SEVERAL_RULES`: one answer, one that is verified, and the best of several."""

SEVERAL_BACKENDS = """
  cheap: {{kind: scripted, price: {{input: 1.0, output: 2.0}}, directives: true, capabilities: {{logprobs: true}}, bill_to: {bills!r}, timeout_s: 0.4,
    max_output_tokens: 200, breaker: null, retry: {{attempts: 2, first_s: 0.02}}, hedge: {{after_s: 0.03}}}}
  judge: {{kind: scripted, text: TIE, delay_s: 0.001, price: {{input: 1.0, output: 4.0}}, bill_to: {bills!r}, max_output_tokens: 100}}
"""
SEVERAL_RULES = """
rules:
  - {{name: checked, when: {{model: checked}}, use: [cheap, spare]}}
  - {{name: first-checked, when: {{model: first-checked}}, use: [cheap]}}
  - {{name: judged, when: {{model: judged}}, use: {{best_of: [mini, cheap, spare], judge: judge}}}}
  - {{name: judged-well, when: {{model: judged-well}}, use: {{best_of: [spare, mini], judge: spare}}}}
cascade: {{on: [cheap], to: [mini, spare], verify: [logprob, length, agreement], stream: {{first_tokens: {tokens}}}}}
"""
"""`first_tokens` of more than an answer has is the whole answer."""


def caps(day: float, month: float) -> dict[str, int]:
    return {"day": picodollars(day), "month": picodollars(month)}


def report(name: str, figures: object) -> None:
    print(f"\n{name}: {figures}")  # noqa: T201


@asynccontextmanager
async def whole(home: Path, policy: str, variables: dict[str, str], *, workers: int = 2) -> AsyncIterator[Serve]:
    """`headgate serve` without the extras' processes."""
    file = home / "policy.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(policy)
    starting = served(home, "--config", str(file), "--workers", str(workers), models=False, **variables)
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
