"""Try the clients that people use against a whole service, and write docs/clients.md. Installing them needs the network; trying them does not.

    python -m tests.clients.run [--folder var/clients] [--only NAME ...] [--routing 0 1 2] [--renew] [--no-docs]

Exits with 1 where a check fails that is expected to hold, or where one holds that was excused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.clients import environments
from tests.clients.catalog import CLIENTS, Client
from tests.clients.report import Check, Trial, merged, page, table
from tests.clients.service import CLAUDE, MATRIX, MODEL, ROUTINGS, Routing, Service, service

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 240


def attempt(client: Client, folder: Path, running: Service, routing: Routing) -> Trial:
    """Run one client's script in its environment; a script that dies or hangs is a failed check."""
    with tempfile.TemporaryDirectory(prefix="headgate-client-") as work:
        variables = {
            **environments.clean(),
            **{f"HEADGATE_{provider.upper()}": model for provider, model in MATRIX.items()},
            "HEADGATE_URL": running.url,
            "HEADGATE_KEY": running.key(client.name),
            "HEADGATE_MODEL": MODEL,
            "HEADGATE_CLAUDE": CLAUDE,
            "HEADGATE_ANSWERED_BY": str(routing),
            "HEADGATE_MATRIX": "1" if routing.matrix else "",
            "HOME": work,
            "NO_PROXY": "127.0.0.1,localhost",
        }
        began = time.monotonic()
        process = subprocess.Popen(
            environments.command(client, folder), env=variables, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            output += f"\nthe script did not end within {TIMEOUT_S} s"
    checks = [Check(**json.loads(line[2:])) for line in output.splitlines() if line.startswith("@@")]
    if process.returncode != 0 or not checks:
        checks.append(Check("the script runs", False, f"exit {process.returncode}: {output[-2000:]}"))
    return Trial(client, environments.versions(client, folder), checks, time.monotonic() - began)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=ROOT / "var" / "clients", help="where the clients' environments are kept")
    parser.add_argument("--only", nargs="+", choices=[client.name for client in CLIENTS], help="these clients only; the page is not written")
    parser.add_argument("--routing", nargs="+", type=int, choices=range(len(ROUTINGS)), help="these routings only; the page is not written")
    parser.add_argument("--renew", action="store_true", help="install the newest releases anew")
    parser.add_argument("--no-docs", action="store_true", help="do not write docs/clients.md")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    chosen = [client for client in CLIENTS if not given.only or client.name in given.only]
    routings = [ROUTINGS[number] for number in given.routing or range(len(ROUTINGS))]
    folder = given.folder.resolve()
    for client in chosen:
        print(f"installing {client.name}", flush=True)
        environments.prepare(client, folder / client.name, renew=given.renew)
    runs: list[list[Trial]] = []
    for routing in routings:
        print(f"\nanswered by {routing}", flush=True)
        runs.append([])
        with service(folder / ".service", routing) as running:
            for client in chosen:
                runs[-1].append(trial := attempt(client, folder / client.name, running, routing))
                print(table(trial), flush=True)
    trials = [merged([run[number] for run in runs], [str(routing) for routing in routings]) for number in range(len(chosen))]
    if not (given.only or given.routing or given.no_docs):
        (ROOT / "docs" / "clients.md").write_text(page(trials), encoding="utf-8")
    wrong = [f"{trial.client.name}: {check.check}: {check.detail}" for trial in trials for check in trial.wrong]
    print(f"\n{sum(len(trial.checks) for trial in trials)} checks of {len(trials)} clients, {len(wrong)} not as expected", *wrong, sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
