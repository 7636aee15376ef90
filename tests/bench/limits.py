"""The realised rate of limits beside the configured one, and what a check costs: by hand, and in `make bench`.

    python -m tests.bench.limits [--seconds 20] [--replicas 4] [--stores redis,memory] [--rpm 6000] [--tpm 1200000] [--json]

So many replicas, processes of their own, ask for more than the limits give, each with requests that reserve three times what they use and true up
after a while. What was used is counted second by second after a first minute's burst has gone. Redis is one of the benchmark's own, on loopback.
CPU is that of the asking process, the limiter and the store's client together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policies.access import Principal
from policies.buckets import per_minute
from policies.rate_limits import BURST_S, Scope, Scopes, _scope
from router.limits.limiter import Limiter
from router.limits.redis import RedisTransport
from router.limits.refusals import Limited
from router.limits.remote import Remote
from router.limits.shared_memory import SharedMemory
from router.limits.values import Store
from router.telemetry import Metrics

CLIENTS = 16
"""In each replica."""

WARM_S = 3.0


def scopes(rpm: int, tpm: int) -> Scopes:
    def one(measure: Any, limit: int) -> Scope:
        return _scope("tenant", "tenant 'acme'", measure, limit, "tenant:acme", None if measure == "concurrency" else per_minute(limit, BURST_S))

    return Scopes(requests=(one("requests", rpm),), tokens=(one("tokens", tpm),), slots=(one("concurrency", 10_000),))


async def replica(place: str, number: int, options: argparse.Namespace, start: float) -> dict[str, Any]:
    store: Store = Remote(RedisTransport(place, f"replica-{number}")) if place.startswith("redis") else SharedMemory(Path(place))
    limiter, wanted = Limiter(lambda: store, "share", Metrics()), scopes(options.rpm, options.tpm)
    who, chance = Principal(role="member", tenant="acme", key_id=f"key_{number}"), random.Random(number)
    passed, used, asked = [0], [0], [0]
    end = start + WARM_S + options.seconds
    settling: set[asyncio.TimerHandle] = set()

    async def client() -> None:
        while (now := time.time()) < end:
            real = chance.randint(200, 600)
            try:
                admission = await limiter.admit(wanted, who, 3 * real)
            except Limited as refused:
                asked[0] += 1
                await asyncio.sleep(min(refused.wait_s, 0.2))
                continue
            asked[0] += 1
            if now >= start + WARM_S:
                passed[0] += 1
                used[0] += real
            settling.add(asyncio.get_running_loop().call_later(0.3, admission.settle, {"mini": real}, {"mini": "mini"}))

    async def beat() -> None:
        while True:
            await limiter.beat()
            await asyncio.sleep(2)

    await asyncio.sleep(max(0.0, start - time.time()))
    cpu = time.process_time()
    beating = asyncio.create_task(beat())
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    cpu = time.process_time() - cpu
    beating.cancel()
    await asyncio.sleep(0.4)
    await limiter.aclose()
    return {"passed": passed[0], "used": used[0], "asked": asked[0], "cpu_s": cpu}


def run_replica(place: str, number: int, options: argparse.Namespace, start: float, results: Any) -> None:
    results.put(asyncio.run(replica(place, number, options, start)))


async def cost(store: Store) -> float:
    """CPU microseconds of a request that passes all its limits and is made good, many at once."""
    limiter, wanted = Limiter(lambda: store, "share", Metrics()), scopes(10**9, 10**12)
    who, count = Principal(role="member", tenant="acme", key_id="key"), 200

    async def client() -> None:
        for _ in range(count):
            (await limiter.admit(wanted, who, 900)).settle({"mini": 300}, {"mini": "mini"})

    await client()
    cpu = time.process_time()
    await asyncio.gather(*(client() for _ in range(32)))
    cpu = time.process_time() - cpu
    await limiter.aclose()
    return 1e6 * cpu / (32 * count)


@contextmanager
def redis() -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--bind", "127.0.0.1", "--port", f"{port}", "--save", "", "--appendonly", "no", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(100):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def measured(place: str, options: argparse.Namespace) -> dict[str, Any]:
    store: Store = Remote(RedisTransport(place, "cost")) if place.startswith("redis") else SharedMemory(Path(place))
    check_us = asyncio.run(cost(store))
    if place.startswith("redis"):
        from redis import Redis

        Redis.from_url(place).flushall()
    context = multiprocessing.get_context("spawn")
    results, start = context.Queue(), time.time() + 4
    processes = [
        context.Process(target=run_replica, args=(place if place.startswith("redis") else f"{place}-rate", number, options, start, results))
        for number in range(options.replicas)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=60 + options.seconds) for _ in processes]
    for process in processes:
        process.join()
    per_second = {name: sum(each[name] for each in found) / options.seconds for name in ("passed", "used")}
    asked = sum(each["asked"] for each in found)
    return {
        "requests_per_minute": 60 * per_second["passed"],
        "tokens_per_minute": 60 * per_second["used"],
        "off_percent": 100 * max(60 * per_second["passed"] / options.rpm, 60 * per_second["used"] / options.tpm) - 100,
        "asked": asked,
        "cpu_us_a_check_under_refusals": 1e6 * sum(each["cpu_s"] for each in found) / asked,
        "cpu_us_a_request": check_us,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--stores", default="redis,memory")
    parser.add_argument("--rpm", type=int, default=6_000)
    parser.add_argument("--tpm", type=int, default=1_200_000, help="the narrower one: a request uses 400 tokens on average")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    for name in options.stores.split(","):
        if name == "redis":
            try:
                with redis() as url:
                    report[name] = measured(url, options)
            except FileNotFoundError as error:
                print(f"limits: {error}: not measured", file=sys.stderr)
        else:
            with tempfile.TemporaryDirectory() as folder:
                report[name] = measured(f"{folder}/limits", options)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"| {options.replicas} replicas, {options.seconds:g} s | configured | realised | off | CPU us a request | ... where most are refused |")
    print("|---|---|---|---|---|---|")
    for name, row in report.items():
        tokens = row["tokens_per_minute"] / options.tpm >= row["requests_per_minute"] / options.rpm
        limit, realised = (options.tpm, row["tokens_per_minute"]) if tokens else (options.rpm, row["requests_per_minute"])
        cells = (
            f"{limit} {'tokens' if tokens else 'requests'} per minute",
            f"{realised:.0f}",
            f"{row['off_percent']:+.2f} %",
            f"{row['cpu_us_a_request']:.0f}",
            f"{row['cpu_us_a_check_under_refusals']:.0f}",
        )
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
