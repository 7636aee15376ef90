"""The soak: a crowd at the whole service for as long as one wants, its workers and all of it killed again and again, and every cent found at the end.

`make soak` runs it for ten minutes with 200 clients, on SQLite and on PostgreSQL, with four workers and with one. Shorter, with fewer:

    SOAK_SECONDS=60 SOAK_CLIENTS=50 HEADGATE_TEST_LONG=1 pytest -s tests/e2e/test_soak.py -k "sqlite and 4"

Half of the clients spend a budget that is used up soon, the other half one that never is; both tenants' keys and models have budgets of their own.
Clients leave when they like, upstreams fail, hang and say nothing of their usage, attempts are retried and hedged, answers repaired,
verified and escalated, and the best of several picked.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from adapters.cost import picodollars
from config.database import open_database
from router.trials.shadowing import PAYER_OF_ALL
from tests.e2e.money_books import (
    Books,
    check_bills,
    check_clients,
    check_keys,
    check_rows,
    check_sums,
    counted,
    import_bills,
    quiet_books,
    read_bills,
    read_books,
    secret_of,
    verify_books,
    watching,
)
from tests.e2e.money_client import Asked
from tests.e2e.money_crowd import SEVERAL, SEVERAL_BACKENDS, SEVERAL_RULES, Crowd, caps, kill_a_worker, kill_everything, report, while_reserved, whole
from tests.serving import headgate_json

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
CLIENTS = int(os.environ.get("SOAK_CLIENTS", "200"))
KILL_EVERY_S = 8.0
RESTARTS = max(1, int(SECONDS / 120))
"""How often all processes are killed at once, and the service is started anew."""

LARGE, SMALL = 10_000.0, round(0.004 * SECONDS, 2)
"""US dollars a month, of the tenants `default` and `small`, which spends about three cents a second until then."""

POLICY = """
version: 1
settings: {{shutdown_s: 5}}
backends:
  mini: {{kind: scripted, price: {{input: 3.0, output: 15.0}}, directives: true, bill_to: {bills!r}, timeout_s: 0.4, max_output_tokens: 200, breaker: null,
    retry: {{attempts: 2, first_s: 0.02}}, hedge: {{after_s: 0.03, backend: spare}}}}
  spare: {{kind: scripted, text: "The second one answers.", delay_s: 0.001, price: {{input: 1.0, output: 4.0}}, bill_to: {bills!r}, max_output_tokens: 100}}
{several}
default: mini
fallback: [spare]
shadow: {{to: [spare], share: 0.3, budget_usd: {{day: {shadow}}}}}
tenants:
  default: {{budget_usd: {{day: {large}, month: {large}, per_key: {{month: {large}}}, models: {{mini: {{day: {large}}}, spare: {{month: {large}}}}}}}}}
  small: {{budget_usd: {{day: {small}, month: {small}, per_key: {{day: {small}}}}}}}
"""


@pytest.mark.long
@pytest.mark.timeout(SECONDS * 2 + 240)
@pytest.mark.parametrize("workers", [4, 1])
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def test_every_cent_is_found_after_a_soak(tmp_path: Path, kind: str, workers: int, request: pytest.FixtureRequest) -> None:
    home, bills = tmp_path / "home", tmp_path / "bills.jsonl"
    postgres = request.getfixturevalue("postgres_url") if kind == "postgresql" else None
    variables = {} if postgres is None else {"DATABASE_URL": postgres}
    database = open_database(postgres or f"sqlite:///{home / 'headgate.db'}")
    several = (SEVERAL_BACKENDS + SEVERAL_RULES).format(bills=str(bills), tokens=12)
    policy = POLICY.format(bills=str(bills), large=LARGE, small=SMALL, shadow=SMALL, several=several)
    crowds = [Crowd("", "", seed=seed, clients=CLIENTS // 2, models=SEVERAL) for seed in (1, 1_001)]
    killed: Counter[str] = Counter()
    chance = random.Random(workers)
    began = time.monotonic()
    try:
        for phase in range(RESTARTS + 1):
            last = phase == RESTARTS
            async with whole(home, policy, variables, workers=workers) as serve:
                if phase == 0:
                    await asyncio.to_thread(headgate_json, home, "tenants", "create", "small", **variables)
                    made = await asyncio.to_thread(headgate_json, home, "keys", "create", "--tenant", "small", "--role", "member", **variables)
                    crowds[0].key, crowds[1].key = serve.keys["chat"], made["key"]
                end = time.monotonic() + SECONDS / (RESTARTS + 1)
                async with AsyncExitStack() as stack:
                    for tenant, budget in (("default", LARGE), ("small", SMALL)):
                        await stack.enter_async_context(watching(database, tenant, caps(budget, budget)))
                    for crowd in crowds:
                        crowd.url = serve.url
                        await stack.enter_async_context(crowd.at_work())
                    while (left := end - time.monotonic()) > 0:
                        await asyncio.sleep(min(left, chance.uniform(0.5, 1.5) * KILL_EVERY_S))
                        if time.monotonic() < end:
                            await while_reserved(database, home, lambda serve=serve: kill_a_worker(serve, chance))  # type: ignore[misc]
                            killed["workers"] += 1
                    if not last:
                        await while_reserved(database, home, lambda serve=serve: kill_everything(serve))  # type: ignore[misc]
                        killed["services"] += 1
                if last:
                    books = await quiet_books(database, 60)
        check(
            await read_books(database),
            books,
            [asked for crowd in crowds for asked in crowd.asked],
            bills,
            killed,
            time.monotonic() - began,
            f"{kind}, {workers} workers",
        )
        await import_bills(database, secret_of(home), read_bills(bills))
        await verify_books(database, secret_of(home))
    finally:
        await database.aclose()


def check(stopped: Books, books: Books, asked: list[Asked], bills: Path, killed: Counter[str], seconds: float, name: str) -> None:
    assert stopped.ledger == books.ledger, "an orderly stop changes nothing"
    for tenant, budget in (("default", LARGE), ("small", SMALL)):
        check_sums(books, tenant, caps(budget, budget))
    check_sums(books, PAYER_OF_ALL, {"day": picodollars(SMALL)})
    check_rows(books.ledger, killed=True)
    billed = check_bills(books.ledger, bills)
    check_clients(books.ledger, asked, killed=True)
    check_keys(books.ledger, asked, killed=True)
    figures = counted(books, asked, billed)
    figures.counts.update({f"killed {what}": number for what, number in killed.items()})
    figures.counts.update({"seconds": round(seconds), "requests a second": round(len(asked) / seconds)})
    report(f"soak, {name}", figures)
    assert figures.counts["refused 402"], "the small budget was to run out"
    assert figures.counts["row crashed/estimated"], "the kills were to hit open calls"
    assert {"ok", "error", "cancelled", "timeout", "crashed"} <= {row["outcome"] for row in books.ledger}
    assert {row["purpose"] for row in books.ledger} == {"answer", "hedge", "sample", "escalated", "judge", "candidate_2", "candidate_3", "shadow"}
    assert figures.counts["further attempts"]
    assert figures.counts["replayed"]
