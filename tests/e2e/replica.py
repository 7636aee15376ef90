"""A replica's books in a process of their own: reserves when it is told to, and says what came of it.

    python -m tests.e2e.replica DATABASE_URL NAME REQUESTS CAP

Prints `ready`, waits for a line, asks for all its requests at once, settles what was granted at a random part of it, and prints
`{"granted", "refused", "failed"}`. Amounts are in picodollars.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter

from adapters.cost import upper_bound
from adapters.types import AttemptRecord, Usage
from config.database import open_database
from config.prices import Price
from router.money.accounting import Accounting
from router.money.books import BudgetExceeded
from router.money.settlement import AttemptPlan, Caps, measured
from tests.seals import SEALS

PRICE = Price(input=1.0, output=10.0)


def plan(chance: random.Random) -> AttemptPlan:
    """About two thirds of a cent: a hundred of them are less than a dollar, four hundred are more."""
    bounds = chance.randint(500, 2_000), chance.randint(200, 900)
    return AttemptPlan("mini", "openai", "gpt", PRICE, *bounds, upper_bound(*bounds, PRICE), "default", time.time())


async def main(url: str, name: str, requests: int, cap: int) -> None:
    database = open_database(url)
    books = Accounting(database, name, SEALS)
    chance = random.Random(name)
    came: Counter[str] = Counter(granted=0, refused=0, failed=0)

    async def one(number: int) -> None:
        try:
            booking = await books.reserve(f"{name}-{number}", "acme", "key", 1, Caps(month=cap), plan(chance))
        except BudgetExceeded:
            came["refused"] += 1
            return
        except Exception as error:
            came["failed"] += 1
            print(repr(error), file=sys.stderr)  # noqa: T201
            return
        came["granted"] += 1
        bounds = booking.plan
        used = Usage(input_tokens=chance.randint(1, bounds.input_bound), output_tokens=chance.randint(1, bounds.output_bound))
        await books.settle(booking, measured(AttemptRecord(backend="mini", usage=used, called=True), booking.plan, None))

    await database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(one(number) for number in range(requests)))
    print(json.dumps(came), flush=True)  # noqa: T201
    await database.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
