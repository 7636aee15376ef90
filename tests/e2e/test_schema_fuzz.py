"""Whatever is sent to the routes that the OpenAPI document lists, well formed or not: no server error, and every answer as the document says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.schema_fuzzing import CALLERS, Figures, fuzz_as_everybody, statuses, target
from tests.serving import Service

SECONDS = int(os.environ.get("FUZZ_SECONDS", "300"))
ALIVE = {"operator 200": 1, "owner 200": 1, "nobody 401": 1}


def documented(service: Service) -> int:
    """How many operations the document lists: every one must have been tried."""
    from policies.access_matrix import ACCESS

    unlisted = {"/", "/docs", "/schema", "/schema/openapi.json", "/schema/{path}"}
    return sum(path not in unlisted for _, path in ACCESS)


def require_clean(found: list[Figures], operations: int) -> None:
    assert [figures.caller for figures in found] == list(CALLERS)
    for figures in found:
        assert not figures.failures, f"{figures}: {figures.failures}\n{figures.problems}"
        assert figures.operations == operations
        assert figures.cases >= operations


async def test_every_operation_answers_as_documented_whatever_it_is_sent(tmp_path: Path) -> None:
    async with target(tmp_path / "service", copies=2) as aim:
        found = await fuzz_as_everybody(aim, tmp_path, "--seed", "20261130", "--phases", "examples,fuzzing", "--max-examples", "1", "--no-shrink")
        require_clean(found, documented(aim.service))
        assert await statuses(aim) == ALIVE


@pytest.mark.long
@pytest.mark.timeout(3 * SECONDS + 300)
async def test_every_operation_answers_as_documented_for_minutes(tmp_path: Path, database_url: str) -> None:
    seed = int.from_bytes(os.urandom(4))
    async with target(tmp_path / "service", copies=100, database_url=database_url) as aim:
        found = await fuzz_as_everybody(aim, tmp_path, "--seed", str(seed), "--max-time", str(SECONDS))
        print(f"seed {seed}", *found, sep="\n")  # noqa: T201
        Path("/tmp/schema_answers.json").write_text(__import__("json").dumps({figures.caller: figures.answers for figures in found}, indent=1))
        require_clean(found, documented(aim.service))
        assert await statuses(aim) == ALIVE
