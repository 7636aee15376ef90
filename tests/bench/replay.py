"""How long a backtest takes over 10,000 logged decisions: reading them, deciding them again, costs, quality, the curve. The bound is 30 s.

    python -m tests.bench.replay [--records 10000] [--plain]

The log is written by the recorder to a SQLite file, with embeddings (without: --plain), and with feedback for every request.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from config.database import open_database
from policies.backtest.running import Replayed
from router.audit.replaying import Chosen
from router.backtesting.running import run_backtest
from router.launch import migrate_state
from tests.policies.backtest.simulator import EXPLORING, threshold
from tests.router.backtesting.logs import write_log


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--records", type=int, default=10_000)
    options.add_argument("--plain", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{Path(folder) / 'headgate.db'}")
        try:
            migrate_state(database)
            write_log(database, EXPLORING, 1, given.records, embedded=not given.plain)
            for name, level, curve in (("decide again", 0, False), ("and costs", 1, False), ("and quality", 2, False), ("and the curve", 2, True)):
                began, spent = time.perf_counter(), time.process_time()
                report = run_backtest(database, threshold(0.45), {}, Chosen(), level, curve=curve)
                took, busy = time.perf_counter() - began, time.process_time() - spent
                replayed = report.levels[0].figures
                assert isinstance(replayed, Replayed)
                same = replayed.replay.identical
                print(f"{name:<14} {report.requests:,} records: {took:6.2f} s (CPU {busy:.2f} s), {same:,} replayed identically", flush=True)
                if not report.exact:
                    return 1
        finally:
            database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
