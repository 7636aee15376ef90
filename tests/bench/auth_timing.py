"""Does the time of a refusal say how much of a key was right? Wrong keys that share 0 to 38 characters with a real one, in random order.

    python -m tests.bench.auth_timing [samples]

Prints, for each number of right characters, the mean and how far it is from that of no right character at all: the difference, and Welch's t.
|t| under 4.5 is what leakage tests (dudect) take for no difference; a comparison that stops at the first wrong character shows t in the tens.
"""

from __future__ import annotations

import asyncio
import base64
import math
import secrets
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import aiohttp

from router.telemetry import configure_logging
from tests.serving import serving

POLICY = "version: 1\nsettings: {auth_failures_per_minute: 0}\nbackends:\n  echo: {kind: scripted}\ndefault: echo\nfallback: []\n"
RIGHT = (0, 3, 8, 16, 24, 32, 38)
"""No more: what follows must be another key each time. One that was refused a moment ago is refused from memory, and that is quicker."""

TRIM = 0.95
"""The slowest are pauses of the machine: they are left out of every group alike."""


def wrong(key: str, right: int) -> str:
    """A key of the same length with so many right characters, the next one wrong, and the rest by chance."""
    other = "a" if key[right] != "a" else "b"
    rest = base64.b32encode(secrets.token_bytes(40)).decode().lower()
    return (key[:right] + other + rest)[: len(key)]


def welch(left: list[float], right: list[float]) -> tuple[float, float]:
    """The difference of the means, and Welch's t."""
    means, errors = [], []
    for values in (left, right):
        mean = sum(values) / len(values)
        means.append(mean)
        errors.append(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
    return means[1] - means[0], (means[1] - means[0]) / math.sqrt(sum(errors))


async def main(samples: int) -> None:
    configure_logging("critical")
    with tempfile.TemporaryDirectory() as folder:
        async with serving(POLICY, Path(folder)) as service, aiohttp.ClientSession() as session:
            times: dict[int, list[float]] = {right: [] for right in RIGHT}
            order = [right for right in RIGHT for _ in range(samples)]
            Random(1).shuffle(order)
            for count, right in enumerate(order):
                headers = {"x-api-key": wrong(service.key, right)}
                begun = time.perf_counter()
                async with session.get(f"{service.url}/v1/models", headers=headers) as answer:
                    assert answer.status == 401
                    await answer.read()
                if count >= 200:
                    times[right].append((time.perf_counter() - begun) * 1e6)
    kept = {right: sorted(values)[: int(len(values) * TRIM)] for right, values in times.items()}
    print(f"{'right characters':>16} {'samples':>8} {'mean µs':>9} {'difference µs':>14} {'t':>7}")
    for right, values in kept.items():
        difference, t = welch(kept[0], values) if right else (0.0, 0.0)
        print(f"{right:>16} {len(values):>8} {sum(values) / len(values):>9.1f} {difference:>+14.2f} {t:>+7.2f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000))
