"""A crowd against a small budget: whatever clients, upstreams and processes do, the books add up to what was billed.

The long form (`HEADGATE_TEST_LONG=1 pytest -m long -s`) runs the same checks for a minute each, with many kills, and prints its figures; the soak
(`make soak`) is `test_soak`.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from adapters.cost import picodollars
from config.database import Database, open_database
from router.trials.shadowing import PAYER_OF_ALL
from tests.e2e.money_books import check_books, check_sums, import_bills, quiet_books, read_bills, read_books, secret_of, settled_books, verify_books, watching
from tests.e2e.money_crowd import SEVERAL, SEVERAL_BACKENDS, SEVERAL_RULES, Crowd, caps, kill_a_worker, kill_everything, report, while_reserved, whole
from tests.serving import serving, until

POLICY = """
version: 1
settings: {{shutdown_s: 5, commit_after_s: 0.2, heartbeat_s: 0.1}}
backends:
  mini: {{kind: scripted, price: {{input: 3.0, output: 15.0}}, directives: true, bill_to: {bills!r}, timeout_s: 0.4, max_output_tokens: 200, breaker: null,
    retry: {{attempts: 2, first_s: 0.02}}, hedge: {{after_s: 0.03, backend: spare}}}}
  spare: {{kind: scripted, text: "The second one answers.", delay_s: 0.001, price: {{input: 1.0, output: 4.0}}, bill_to: {bills!r}, max_output_tokens: 100}}
{several}
default: mini
fallback: [spare]
shadow: {{to: [spare], share: 0.5, budget_usd: {{day: {shadow}}}}}
tenants:
  {tenant}: {{budget_usd: {{day: {day}, month: {month}}}}}
"""


def policy_of(bills: Path, tenant: str, budget: float, *, shadow: float, tokens: int = 1_000) -> str:
    several = (SEVERAL_BACKENDS + SEVERAL_RULES).format(bills=str(bills), tokens=tokens)
    return POLICY.format(bills=str(bills), tenant=tenant, day=budget * 1.2, month=budget, shadow=shadow, several=several)


async def crowd_in_process(tmp_path: Path, database_url: str, *, budget: float, requests: int | None = None, seconds: float | None = None) -> None:
    bills = tmp_path / "bills.jsonl"
    policy = policy_of(bills, "acme", budget, shadow=budget / 50, tokens=8)
    limits = caps(budget * 1.2, budget)
    async with serving(policy, tmp_path, database_url=database_url) as service:
        crowd = Crowd(service.url, service.key, seed=1, models=SEVERAL)
        async with watching(service.database, "acme", limits) as watch:
            if seconds is None:
                await crowd.run(requests)
            else:
                async with crowd.at_work():
                    await asyncio.sleep(seconds)
        await until(lambda: service.gateway.shadows.idle)
        books = await settled_books(service.database)
        figures = check_books(books, crowd.asked, bills, "acme", limits)
        check_sums(books, PAYER_OF_ALL, {"day": picodollars(budget / 50)})
        await import_bills(service.database, service.gateway.secret, read_bills(bills))
        await verify_books(service.database, service.gateway.secret)
    assert figures.counts["refused 402"], "the budget was to run out"
    assert {"ok", "error", "cancelled", "timeout"} <= {row["outcome"] for row in books.ledger}
    assert {row["backend"] for row in books.ledger} == {"mini", "spare", "cheap", "judge"}
    assert {row["purpose"] for row in books.ledger} == {"answer", "hedge", "sample", "escalated", "judge", "candidate_2", "candidate_3", "shadow"}
    assert figures.counts["replayed"]
    assert figures.counts["further attempts"]
    report(f"in process, {service.database.dialect}, {watch.samples} samples", figures)


async def crowd_and_kills(tmp_path: Path, postgres: str | None, *, budget: float, phases: int, worker_kills: int, pause: float) -> None:
    """In every phase workers are killed; a phase ends with `kill -9` of everything, but for the last. `pause` seconds pass before each kill."""
    home = tmp_path / "home"
    bills = tmp_path / "bills.jsonl"
    policy = policy_of(bills, "default", budget, shadow=budget / 20)
    limits = caps(budget * 1.2, budget)
    variables = {} if postgres is None else {"DATABASE_URL": postgres}
    database: Database | None = None
    crowd = Crowd("", "", seed=2, models=SEVERAL)
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
                books = await quiet_books(database)
    assert database is not None
    try:
        assert (await read_books(database)).ledger == books.ledger, "an orderly stop changes nothing"
        figures = check_books(books, crowd.asked, bills, "default", limits, killed=True)
        check_sums(books, PAYER_OF_ALL, {"day": picodollars(budget / 20)})
        await import_bills(database, secret_of(home), read_bills(bills))
        await verify_books(database, secret_of(home))
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
