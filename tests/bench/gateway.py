"""What one worker costs with everything on, beside proxies of few layers: `make bench`.

    python -m tests.bench.gateway [--kit ../shared/bench] [--runs 5] [--seconds 3] [--tests unary,short,rate,paced,burst,start] [--json]

One worker, a remote backend (kind `openai`) on a mock upstream, keys, a tenant with a budget, SQLite accounting with its reservation before
and settlement after every call, output moderation (pii, secrets), metrics and logs. The service runs on one core, the load and the mock on
another. CPU is the worker process's own; the figures are medians, and on a machine that does other things CPU per request is the one to trust.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.bench.load_kit import LoadKit, Missing
from tests.bench.processes import ROOT, Process, serve, wait_until_quiet

POLICY = """\
version: 1
backends:
  mock:
    kind: openai
    model: gpt-mock
    base_url: http://127.0.0.1:{port}/v1
    api_key_env: MOCK_API_KEY
    price: {{input: 0.25, output: 2.0}}
rules:
  - {{name: default-tenant, when: {{tenant: default, data_class: [public, internal]}}, use: [mock]}}
default: mock
fallback: []
moderation: {{output: [pii, secrets], on_match: redact}}
tenants:
  default: {{budget_usd: {{day: 100000, month: 1000000}}}}
"""
EVENTS = 100
BARE = {"uvicorn + Litestar + aiohttp": "ls-aiohttp-parse", "... + openai SDK raw on aiohttp": "ls-oaiaioraw-parse"}
"""The variants of the kit that are run beside the service: the barest one with the same front, and one with the same sender."""

AIMS = {"unary_us": 1200.0, "event_us": 110.0, "ready_s": 2.0, "rss_mb": 160.0}


class Bench:
    def __init__(self, options: argparse.Namespace, kit: LoadKit) -> None:
        self.options = options
        self.kit = kit
        self.tests: list[str] = options.tests.split(",")

    def target(self, port: int, headers: dict[str, str], process: Process | None) -> dict[str, Any]:
        """Every measurement of one target; `process` is the one whose CPU is taken, None for the upstream itself."""
        kit, options = self.kit, self.options
        plain, rows = kit.body(stream=False), {}
        if "unary" in self.tests:
            rows["unary"] = self._measure(port, plain, headers, process, connections=32)
        if "short" in self.tests:  # the same, with a reply of a single event
            rows["short"] = self._measure(port, kit.body(stream=False, directive="mock-n1-"), headers, process, connections=32)
        if "rate" in self.tests:
            rows["rate"] = self._measure(port, plain, headers, process, connections=256, rate=options.rate)
        if "paced" in self.tests:  # open streams, an event every 10 ms: every event arrives alone
            body = kit.body(stream=True, directive=f"mock-n{EVENTS}-f20-g10-")
            rows["paced"] = self._measure(port, body, headers, process, connections=options.streams, chunks=EVENTS)
        if "burst" in self.tests:
            body = kit.body(stream=True, directive=f"mock-n{EVENTS}-")
            rows["burst"] = self._measure(port, body, headers, process, connections=8, chunks=EVENTS)
        return rows

    def _measure(self, port: int, body: Path, headers: dict[str, str], process: Process | None, **load: Any) -> dict[str, Any]:
        self.kit.load(port, body, headers=headers, seconds=1, **load)
        runs = []
        for _ in range(self.options.runs):
            before = process.cpu_s() if process else 0.0
            run = self.kit.load(port, body, headers=headers, seconds=self.options.seconds, **load)
            cpu = (process.cpu_s() if process else 0.0) - before
            run["cpu_us"] = 1e6 * cpu / (run.get("events") or run["ok"])
            runs.append(run)
        row: dict[str, Any] = {"requests_per_s": median(run["rps"] for run in runs)}
        if process is not None:
            row["cpu_us"] = median(run["cpu_us"] for run in runs)
            row["cpu_us_runs"] = sorted(round(run["cpu_us"], 1) for run in runs)
        for name in ("latency_ms", "ttfc_ms", "gap_ms"):
            if name in runs[0]:
                row[name] = {point: median(run[name][point] for run in runs) for point in ("p50", "p99")}
        return row

    def run(self) -> dict[str, Any]:
        report: dict[str, Any] = {"direct": {}, "headgate": {}, "bare": {}, "aims": AIMS}
        with self.kit.upstream() as upstream:
            report["direct"] = self.target(upstream, {}, None)
            for name, variant in BARE.items():
                with self.kit.bare(variant, upstream, self.options.core) as (process, port):
                    report["bare"][name] = self.target(port, {}, process)
                    report["bare"][name]["rss_mb"] = process.rss_mb()
            report["headgate"] = self._headgate(upstream)
        return report

    def _headgate(self, upstream: int) -> dict[str, Any]:
        folder = self.kit.folder
        home = folder / "home"
        home.mkdir()
        config = folder / "headgate.yaml"
        config.write_text(POLICY.format(port=upstream))
        body = self.kit.body(stream=False).read_bytes()
        with serve(home, config, core=self.options.core, key=None, body=body) as gateway:
            key = gateway.key
            wait_until_quiet(gateway.supervisor)
            rss = {"idle": gateway.worker.rss_mb()}
            rows = self.target(gateway.port, {"authorization": f"Bearer {key}"}, gateway.worker)
            rows["rss_mb"] = rss | {"after_load": gateway.worker.rss_mb()}
        if "start" in self.tests:
            rows["start"] = self._starts(home, config, key, body)
        return rows

    def _starts(self, home: Path, config: Path, key: str, body: bytes) -> dict[str, Any]:
        """Cold starts on both cores, as on a machine of one's own: with state from before, and on an empty home."""
        again, first = [], []
        for number in range(self.options.starts):
            with serve(home, config, core=None, key=key, body=body) as gateway:
                again.append((gateway.ready_s, gateway.answer_s))
            fresh = self.kit.folder / f"fresh-{number}" / "home"
            fresh.mkdir(parents=True)
            with serve(fresh, config, core=None, key=None, body=body) as gateway:
                first.append(gateway.ready_s)
        return {
            "ready_s": median(ready for ready, _ in again),
            "first_answer_s": median(answer for _, answer in again),
            "ready_on_an_empty_home_s": median(first),
        }


def median(values: Any) -> float:
    return float(statistics.median(values))


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report for people, as Markdown."""
    direct = report["direct"]
    heads = ("", "CPU us/request", "... one-event reply", "CPU us/event, paced", "... in a burst", "added ms p50 / p99", "added ms, first event", "RSS MB")
    targets = {**report["bare"], "**Headgate, everything on**": report["headgate"]}
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for name, rows in targets.items():
        rss = rows["rss_mb"]
        cells = [number(rows, test) for test in ("unary", "short", "paced", "burst")]
        cells += [added(rows, direct, "rate", "latency_ms"), added(rows, direct, "paced", "ttfc_ms")]
        yield f"| {name} | {' | '.join(cells)} | {rss['after_load'] if isinstance(rss, dict) else rss:.0f} |"
    yield ""
    start = report["headgate"].get("start")
    if start is not None:
        yield (
            f"Cold start: ready after {start['ready_s']:.2f} s, first answer after {start['first_answer_s']:.2f} s; "
            f"on an empty home ready after {start['ready_on_an_empty_home_s']:.2f} s."
        )
    aims = report["aims"]
    yield (
        f"Aims: {aims['unary_us']:.0f} us a request, {aims['event_us']:.0f} us a paced event, {aims['rss_mb']:.0f} MB a worker, "
        f"ready in {aims['ready_s']:.0f} s without local models."
    )


def number(rows: dict[str, Any], test: str) -> str:
    return f"{rows[test]['cpu_us']:.0f}" if test in rows else "-"


def added(rows: dict[str, Any], direct: dict[str, Any], test: str, name: str) -> str:
    if test not in rows:
        return "-"
    return " / ".join(f"{rows[test][name][point] - direct[test][name][point]:.2f}" for point in ("p50", "p99"))


@contextmanager
def kit_of(options: argparse.Namespace) -> Iterator[LoadKit]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-bench-")))
        yield LoadKit(options.kit, folder, options.load_core)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kit", type=Path, default=ROOT.parent / "shared" / "bench", help="the load kit's folder")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one run")
    parser.add_argument("--starts", type=int, default=3, help="how many cold starts")
    parser.add_argument("--streams", type=int, default=20, help="paced streams that are open at once")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second of the latency test")
    parser.add_argument("--core", type=int, default=1, help="the service's core")
    parser.add_argument("--load-core", type=int, default=0, help="the core of the load and the upstream")
    parser.add_argument("--tests", default="unary,short,rate,paced,burst,start")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    try:
        with kit_of(options) as kit:
            report = Bench(options, kit).run()
    except Missing as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    sys.stdout.write(json.dumps(report, indent=2) + "\n" if options.json else "\n".join(table(report)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
