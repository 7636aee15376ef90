"""Whatever is sent to the routes that the OpenAPI document lists, well formed or not: no server error, and every answer as the document says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policies.access_matrix import ACCESS, is_open
from tests.e2e.schema_fuzzing import CALLERS, Figures, fuzz_as_everybody, statuses, target

SECONDS = int(os.environ.get("FUZZ_SECONDS", "300"))
ALIVE = {"operator 200": 1, "owner 200": 1, "nobody 401": 1}
UNLISTED = {"/", "/docs", "/schema", "/schema/openapi.json", "/schema/{path}"}
OPERATIONS = {f"{method} {path}" for method, path in ACCESS if path not in UNLISTED}
"""Every operation that the document lists: all must have been tried."""
OPEN = {f"{method} {path}" for method, path in ACCESS if is_open(method, path)}
OUT_OF_REACH: set[str] = set()
"""Operations that cannot succeed here, whatever they are asked."""


def require_clean(found: list[Figures]) -> None:
    assert [figures.caller for figures in found] == list(CALLERS)
    for figures in found:
        assert not figures.failures, f"{figures}: {figures.failures}\n{figures.problems}"
        assert figures.operations == len(OPERATIONS)
        assert figures.tried >= OPERATIONS
        assert not [status for status in figures.statuses if status >= 500]
    assert found[CALLERS.index("nobody")].succeeded <= OPEN


async def test_every_operation_answers_as_documented_whatever_it_is_sent(tmp_path: Path) -> None:
    async with target(tmp_path / "service", copies=2) as aim:
        found = await fuzz_as_everybody(aim, tmp_path, "--seed", "20261130", "--phases", "examples,fuzzing", "--max-examples", "1", "--no-shrink")
        require_clean(found)
        assert await statuses(aim) == ALIVE


@pytest.mark.long
@pytest.mark.timeout(3 * SECONDS + 300)
async def test_every_operation_answers_as_documented_for_minutes(tmp_path: Path, database_url: str) -> None:
    seed = int.from_bytes(os.urandom(4))
    async with target(tmp_path / "service", copies=100, database_url=database_url) as aim:
        found = await fuzz_as_everybody(aim, tmp_path, "--seed", str(seed), "--max-time", str(SECONDS))
        print(f"seed {seed}", *found, sep="\n")  # noqa: T201
        require_clean(found)
        assert set().union(*(figures.succeeded for figures in found)) >= OPERATIONS - OUT_OF_REACH
        assert await statuses(aim) == ALIVE
