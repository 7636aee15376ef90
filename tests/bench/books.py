"""What the books cost a request, on SQLite and on PostgreSQL: `make bench`.

    python -m tests.bench.books [--seconds 10] [--clients 64] [--rate 500] [--databases sqlite,postgresql] [--json]

One worker's event loop and database thread, in this process, without HTTP: clients send requests through what every request passes (`PARTS`) and
nothing else. CPU is this process's own, from `getrusage`; PostgreSQL's is not in it. The part before the books is measured alone too.

- saturation: so many clients at once, each beginning its next request when the last is settled: CPU per request, and settled requests per second;
- open loop: requests begin at a rate of their own, whether the ones before have ended or not: how long the parts take of each. How late each began (this
  process sends them, and its timer is good to a millisecond) is in the JSON, as `late`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import uvloop
from sqlalchemy import Connection, func, select

from adapters.cost import upper_bound
from adapters.types import AttemptRecord, Capabilities, Message, TextPart, Usage
from config.database import Database, open_database
from config.prices import Price
from config.settings import Settings
from policies.access import Principal
from policies.decide import decide
from policies.decision import BackendState, State
from policies.features import Features
from policies.load import load_policy
from policies.schema import Limits, PolicyFile, Tenant
from router.audit.recording import MOST_NOTES, Note, Recorder
from router.backends import load_kinds
from router.identity.authenticator import Authenticator
from router.identity.keys import create_key
from router.identity.tenants import create_tenant
from router.ids import fresh_id
from router.kept.sealing import Sealer
from router.launch import migrate_state
from router.limits.admission import Admission
from router.limits.limiter import Limiter
from router.limits.shared_memory import SharedMemory
from router.money.accounting import Accounting
from router.money.sealing import SealKey
from router.money.settlement import AttemptPlan, Booking, Caps, Level, measured
from router.tables import ledger
from router.telemetry import Metrics
from tests.postgres import NoServer, postgres

SECRET = b"a secret of the benchmark, long enough"
TENANTS, KEYS = 4, 4
PRICE = Price(input=0.25, output=2.0)
CAP = 10**17
POLICY = """version: 1
backends:
  mini: {kind: openai, model: gpt-5-mini}
  large: {kind: openai, model: gpt-5}
  claude: {kind: anthropic, model: claude-sonnet-4-5}
rules:
  - {name: code, when: {task: code}, use: [claude, large]}
default: mini
fallback: [large, claude]
"""
AIMS = {"cpu_us": 150.0, "settled_per_s": 2000.0, "added_p99_ms": 5.0}


class Request:
    """One request on its way."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.id = fresh_id()
        self.principal: Principal | None = None
        self.booking: Booking | None = None
        self.admission: Admission | None = None


class Part(Protocol):
    """A part of the path that every request passes: `enter` before the call to a backend, `leave` after it, in the opposite order."""

    name: str

    async def enter(self, request: Request) -> None: ...

    async def leave(self, request: Request) -> None: ...

    async def aclose(self) -> None: ...


class Authentication:
    name = "authentication"

    def __init__(self, database: Database) -> None:
        self._authenticator = Authenticator(database, SECRET)

    async def enter(self, request: Request) -> None:
        request.principal = await self._authenticator.principal(request.key)
        assert request.principal is not None

    async def leave(self, request: Request) -> None:
        pass

    async def aclose(self) -> None:
        pass


class RateLimits:
    """A tenant with limits of requests and tokens per minute that it never reaches, counted in the memory that this host's workers share."""

    name = "limits"

    def __init__(self, database: Database) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="headgate-bench-")
        self._limiter = Limiter(lambda: SharedMemory(Path(self._folder.name) / "limits"), "share", Metrics())
        self._tenant = Tenant(limits=Limits(rpm=1_000_000_000, tpm=1_000_000_000_000))
        self._file = PolicyFile(version=1, default="extractive")

    async def enter(self, request: Request) -> None:
        assert request.principal is not None
        scopes = self._limiter.scopes(self._file, self._tenant, request.principal)
        request.admission = await self._limiter.admit(scopes, request.principal, 1_000, 5_096)

    async def leave(self, request: Request) -> None:
        assert request.admission is not None
        request.admission.settle({"mock": 300}, {"mock": "gpt-mock"})

    async def aclose(self) -> None:
        await self._limiter.aclose()
        self._folder.cleanup()


class Decisions:
    """What an auditor finds of a request: its decision among three backends, and the state that it was made from. To record them, not to decide."""

    name = "decision"

    def __init__(self, database: Database) -> None:
        self._recorder = Recorder(database, SECRET, Sealer(SECRET), 30, lambda count: sys.exit(f"{count} decisions were dropped"))
        self._running = asyncio.create_task(self._recorder.run())
        self._messages = (Message(role="user", parts=(TextPart("What does the warranty cover, and for how long? " * 10),)),)
        load_kinds(Settings())
        policy = load_policy(POLICY, price_of=lambda spec, when=None: PRICE)
        able = Capabilities(tools=True)
        now = {name: BackendState(capabilities=able, upper_cost_usd=0.01, input_tokens=1_000) for name in policy.backends}
        self._state = State(backends=now, remaining_usd=100.0, seed="a seed")
        self._decision = decide(policy, Features(tenant="tenant-1", role="member", input_tokens=1_000), self._state)
        self._left = 0

    async def enter(self, request: Request) -> None:
        pass

    async def leave(self, request: Request) -> None:
        assert request.principal is not None
        self._left += 1
        if self._left % (MOST_NOTES // 2) == 0:  # without the books nobody waits for the database, and it must keep up all the same
            await self._recorder.flush()
        self._recorder.put(
            Note(
                request_id=request.id,
                tenant=request.principal.tenant,
                key_id=request.principal.key_id,
                user="",
                created_at=time.time(),
                policy_version=1,
                dialect="openai.chat",
                data_class="internal",
                outcome="ok",
                error=None,
                backend="mini",
                input_hash=self._recorder.input_hash(self._messages),
                decision=self._decision,
                state=self._state,
                citations=(),
                moderation={},
                policy_hash="0" * 64,
                model="gpt-5-mini-2025-08-07",
                attempts=1,
                usage=Usage(input_tokens=200, output_tokens=100),
                cost=250_000_000,
                latency_ms=812.5,
                first_ms=301.25,
            )
        )

    async def aclose(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._recorder.flush()


class Books:
    """A tenant with a budget per day and per month: reserved before the call, settled and in the ledger after it. `levels` are of its key and model."""

    name = "reserve, settle, ledger"

    def __init__(self, database: Database) -> None:
        self._accounting = Accounting(database, "bench", SealKey(SECRET))
        self.levels = False

    async def enter(self, request: Request) -> None:
        payer = request.principal
        assert payer is not None
        levels = (Level(f"key:{payer.key_id}", day=CAP), Level("model:gpt-mock", month=CAP)) if self.levels else ()
        plan = AttemptPlan("mock", "openai", "gpt-mock", PRICE, 1_000, 4_096, upper_bound(1_000, 4_096, PRICE), "default", time.time())
        request.booking = self._accounting.booking(request.id, payer.tenant, payer.key_id, 1, Caps(CAP, CAP, levels), plan)
        await self._accounting.open(request.booking)

    async def leave(self, request: Request) -> None:
        assert request.booking is not None
        record = AttemptRecord(backend="mock", usage=Usage(input_tokens=200, output_tokens=100), called=True, provider_request_id=request.id)
        await self._accounting.settle(request.booking, measured(record, request.booking.plan, None))

    async def aclose(self) -> None:
        pass


PARTS = (Authentication, RateLimits, Decisions, Books)
"""In the order of the path."""


class Bench:
    def __init__(self, database: Database, keys: Sequence[str], options: argparse.Namespace) -> None:
        self._database, self._keys, self._options = database, keys, options
        self._next = itertools.count()

    async def _one(self, parts: Sequence[Part]) -> None:
        request = Request(self._keys[next(self._next) % len(self._keys)])
        for part in parts:
            await part.enter(request)
        for part in reversed(parts):
            await part.leave(request)

    async def saturated(self, parts: Sequence[Part], seconds: float) -> dict[str, float]:
        """In ten windows: CPU of the middle one and of the best (a busy machine makes all of them dearer), requests over all."""
        windows = [await self._window(parts, seconds / 10) for _ in range(10)]
        cpu = sorted(1e6 * cpu / done for done, cpu, _ in windows)
        done, took = sum(window[0] for window in windows), sum(window[2] for window in windows)
        return {"cpu_us": statistics.median(cpu), "cpu_us_best": cpu[0], "per_s": done / took, "requests": done}

    async def _window(self, parts: Sequence[Part], seconds: float) -> tuple[int, float, float]:
        """Requests, CPU seconds, seconds."""
        done, end = 0, 0.0

        async def client() -> None:
            nonlocal done
            while time.perf_counter() < end:
                await self._one(parts)
                done += 1
                if not isinstance(parts[-1], Books):  # which alone waits, so nobody else would have a turn
                    await asyncio.sleep(0)

        began, before = time.perf_counter(), _cpu_s()
        end = began + seconds
        async with asyncio.TaskGroup() as clients:
            for _ in range(self._options.clients):
                clients.create_task(client())
        return done, _cpu_s() - before, time.perf_counter() - began

    async def open_loop(self, parts: Sequence[Part], seconds: float) -> dict[str, float]:
        """Milliseconds from a request's begin to its end, and how late it began. Arrivals are independent: now two at once, now none for a while."""
        chance, added, late = random.Random(1), [], []

        async def one(due: float) -> None:
            begun = time.perf_counter()
            await self._one(parts)
            added.append(1e3 * (time.perf_counter() - begun))
            late.append(1e3 * (begun - due))

        before, began = _cpu_s(), time.perf_counter()
        due = began
        async with asyncio.TaskGroup() as requests:
            while due < began + seconds:
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                requests.create_task(one(due))
                due += chance.expovariate(self._options.rate)
        cpu_us, points, lateness = 1e6 * (_cpu_s() - before) / len(added), statistics.quantiles(added, n=100), statistics.quantiles(late, n=100)
        return {
            "p50_ms": points[49],
            "p99_ms": points[98],
            "worst_ms": max(added),
            "late_p50_ms": lateness[49],
            "late_p99_ms": lateness[98],
            "cpu_us": cpu_us,
            "requests": len(added),
        }

    async def run(self) -> dict[str, Any]:
        parts: list[Part] = [part(self._database) for part in PARTS]
        seconds = self._options.seconds
        await self.saturated(parts, 1)
        gc.collect()
        gc.freeze()  # as a worker does when it is ready
        gc.set_threshold(20_000, 20, 20)
        report: dict[str, Any] = {"parts": {}}
        for count in range(1, len(parts)):
            report["parts"][", ".join(part.name for part in parts[:count])] = await self.saturated(parts[:count], min(seconds, 2))
        report["saturation"] = await self.saturated(parts, seconds)
        report["open_loop"] = await self.open_loop(parts, seconds)
        next(part for part in parts if isinstance(part, Books)).levels = True
        report["levels"] = await self.saturated(parts, min(seconds, 5))
        rows = await self._database.read(lambda connection: connection.execute(select(func.count()).select_from(ledger)).scalar_one())
        report["ledger_rows"] = rows
        for part in parts:
            await part.aclose()
        return report


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _keys(connection: Connection) -> list[str]:
    made = []
    for number in range(TENANTS):
        create_tenant(connection, f"tenant-{number}")
        made += [create_key(connection, SECRET, tenant=f"tenant-{number}", role="member").key for _ in range(KEYS)]
    return made


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    database = open_database(url)
    try:
        await asyncio.to_thread(migrate_state, database)
        return await Bench(database, await database.write(_keys), options).run()
    finally:
        await database.aclose()


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report for people, as Markdown."""
    rate = report["rate"]
    yield f"| | CPU us/request, median (best) | settled/s | added ms p50 / p99 at {rate:.0f}/s | CPU us/request at {rate:.0f}/s |"
    yield "|---" * 5 + "|"
    for name, found in report["databases"].items():
        if "absent" in found:
            yield f"| {name} | {found['absent']} | | | |"
            continue
        full, slow = found["saturation"], found["open_loop"]
        for parts, each in found["parts"].items():
            yield f"| {name}: {parts} alone | {each['cpu_us']:.0f} ({each['cpu_us_best']:.0f}) | - | | |"
        yield (
            f"| {name}: {', '.join(part.name for part in PARTS)} | {full['cpu_us']:.0f} ({full['cpu_us_best']:.0f}) | {full['per_s']:.0f} "
            f"| {slow['p50_ms']:.2f} / {slow['p99_ms']:.2f} | {slow['cpu_us']:.0f} |"
        )
        more = found["levels"]
        yield f"| {name}: the same with budgets of the key and the model too | {more['cpu_us']:.0f} ({more['cpu_us_best']:.0f}) | {more['per_s']:.0f} | | |"
    yield ""
    aims = report["aims"]
    yield (
        f"Aims, on SQLite: at most {aims['cpu_us']:.0f} us a request with limits and audit, at least {aims['settled_per_s']:.0f} settled a second, "
        f"p99 at most {aims['added_p99_ms']:.0f} ms at {rate:.0f} requests a second."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--clients", type=int, default=64, help="at once, at saturation")
    parser.add_argument("--rate", type=float, default=500.0, help="requests per second of the open loop")
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    report: dict[str, Any] = {"aims": AIMS, "rate": options.rate, "databases": {}}
    for name in options.databases.split(","):
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-bench-"))
                url = f"sqlite:///{folder}/headgate.db" if name == "sqlite" else f"{stack.enter_context(postgres())}/postgres"
            except NoServer as error:
                report["databases"][name] = {"absent": str(error)}
                continue
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                report["databases"][name] = runner.run(measure(url, options))
            gc.unfreeze()
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if options.json else "\n".join(table(report)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
