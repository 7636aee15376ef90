"""Metrics (Prometheus, over all workers of the host) and JSON logs. Neither ever holds a prompt, an answer or a key."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from adapters.types import Usage
from adapters.wrappers.breaker import Circuit

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_OVERHEAD = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Metrics:
    """The service's metrics. `docs/metrics.md` has an entry for each."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._requests = Counter("headgate_requests_total", "Chat requests that reached a backend, by their end.", ["backend", "outcome"], registry=registry)
        self._refusals = Counter("headgate_refusals_total", "Requests refused before any backend was called.", ["code"], registry=registry)
        self._failures = Counter("headgate_attempt_failures_total", "Attempts at a backend that failed.", ["backend", "code"], registry=registry)
        self._tokens = Counter("headgate_tokens_total", "Tokens accounted.", ["backend", "direction"], registry=registry)
        self._cost = Counter("headgate_cost_usd_total", "Cost booked in the ledger.", ["backend"], registry=registry)
        self._moderated = Counter("headgate_moderation_matches_total", "Matches of moderation rules in output.", ["rule"], registry=registry)
        self._duration = Histogram("headgate_request_seconds", "Time from request to settlement.", ["backend"], buckets=_SECONDS, registry=registry)
        self._overhead = Histogram("headgate_overhead_seconds", "Time to the first delta less the backend's own.", buckets=_OVERHEAD, registry=registry)
        self._active = Gauge("headgate_active_requests", "Chat requests in flight.", registry=registry, multiprocess_mode="livesum")
        self._retries = Counter("headgate_retries_total", "Attempts repeated at the same backend, by why.", ["backend", "code"], registry=registry)
        self._hedges = Counter("headgate_hedges_total", "Second attempts beside a slow first one.", ["backend", "outcome"], registry=registry)
        self._circuits = Gauge(
            "headgate_circuit_state", "Circuit of a backend: 0 closed, 1 half open, 2 open.", ["backend"], registry=registry, multiprocess_mode="livemax"
        )
        self._dropped = Counter("headgate_decisions_dropped_total", "Decisions that could not be recorded.", registry=registry)
        self._limited = Counter("headgate_limit_refusals_total", "Requests that a limit refused.", ["scope", "measure"], registry=registry)
        self._waiting = Gauge("headgate_limit_waiting", "Requests that wait for a limit.", registry=registry, multiprocess_mode="livesum")
        self._waited = Histogram("headgate_limit_wait_seconds", "Time that requests waited for a limit.", buckets=_SECONDS, registry=registry)
        self._limits_away = Counter("headgate_limit_store_failures_total", "Checks of a limit that its store did not answer.", ["store"], registry=registry)
        self._auth_failures = Counter("headgate_auth_failures_total", "Requests whose credential was refused, by why.", ["reason"], registry=registry)
        self._alerts = Counter("headgate_alerts_total", "Tries to deliver an alert on a budget, by what became of them.", ["outcome"], registry=registry)
        self._policy_version = Gauge(
            "headgate_policy_version", "The policy version that workers serve by: the lowest of them.", registry=registry, multiprocess_mode="livemin"
        )
        self._policy_file = Gauge(
            "headgate_policy_file_valid", "Whether the policy file may be put in force: 1, or 0.", registry=registry, multiprocess_mode="livemin"
        )
        self._policy_file.set(1)
        self._registry = registry

    def request_done(self, *, backend: str, outcome: str, usage: Usage, cost: int, duration_s: float) -> None:
        self._requests.labels(backend, outcome).inc()
        self._tokens.labels(backend, "input").inc(usage.input_tokens)
        self._tokens.labels(backend, "output").inc(usage.output_tokens)
        if cost:
            self._cost.labels(backend).inc(cost / 1e12)
        self._duration.labels(backend).observe(duration_s)

    def refused(self, code: str) -> None:
        self._refusals.labels(code).inc()

    def auth_failed(self, reason: str) -> None:
        self._auth_failures.labels(reason).inc()

    def attempt_failed(self, backend: str, code: str) -> None:
        self._failures.labels(backend, code).inc()

    def retried(self, backend: str, code: str) -> None:
        self._retries.labels(backend, code).inc()

    def hedged(self, backend: str, outcome: Literal["won", "lost", "failed"]) -> None:
        self._hedges.labels(backend, outcome).inc()

    def circuit(self, backend: str, state: Circuit) -> None:
        self._circuits.labels(backend).set({"closed": 0, "half_open": 1, "open": 2}[state])

    def policy(self, version: int, file_valid: bool) -> None:
        self._policy_version.set(version)
        self._policy_file.set(1 if file_valid else 0)

    def decisions_dropped(self, count: int) -> None:
        self._dropped.inc(count)

    def alert(self, outcome: Literal["delivered", "failed", "given_up"], count: int = 1) -> None:
        self._alerts.labels(outcome).inc(count)

    def moderated(self, rule: str, count: int) -> None:
        self._moderated.labels(rule).inc(count)

    def overhead(self, seconds: float) -> None:
        self._overhead.observe(seconds)

    def active(self, change: int) -> None:
        self._active.inc(change)

    def limited(self, scope: str, measure: str) -> None:
        self._limited.labels(scope, measure).inc()

    def limit_waiting(self, change: int) -> None:
        self._waiting.inc(change)

    def limit_waited(self, seconds: float) -> None:
        self._waited.observe(seconds)

    def limit_store_away(self, store: str) -> None:
        self._limits_away.labels(store).inc()

    def render(self) -> bytes:
        """All workers' metrics in Prometheus' text format."""
        if METRICS_FOLDER in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self._registry)


def circuits(folder: Path) -> dict[str, str]:
    """The worst circuit of every backend in the workers that write to a metrics folder: `closed`, `half_open` or `open`."""
    if not folder.is_dir():
        return {}
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    families = (family for family in registry.collect() if family.name == "headgate_circuit_state")
    return {sample.labels["backend"]: ("closed", "half_open", "open")[int(sample.value)] for family in families for sample in family.samples}


def prepare_metrics_folder(folder: Path) -> None:
    """An empty folder for this run's metric files. Called once by the supervisor, before any worker starts."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()


def forget_worker(pid: int) -> None:
    """Drop a dead worker's live gauges; its counters stay."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def configure_logging(level: str = "info") -> None:
    """JSON lines on standard error: `event`, `level`, `timestamp`, and what the caller binds (a request id, a tenant; never text)."""

    def render(_logger: Any, _name: str, event: Any) -> bytes:
        return msgspec.json.encode(event, enc_hook=str)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format='{"level":"%(levelname)s","logger":"%(name)s","event":"%(message)s"}')
