"""`headgate doctor`: what is configured, reachable and loaded, and why not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import msgspec
from msgspec import Struct

from adapters.backend import BackendContext, create_backend
from adapters.errors import BackendError
from config.schema import problem_of, read_state
from config.settings import Settings, hide_password
from policies.load import Policy, PolicyError, load_policy
from router.cli.common import config_option, find_launch, is_serving, json_option, print_json
from router.launch import MIGRATIONS, Launch, open_state, open_to_others, socket_path
from router.policy_in_force import known_price
from router.telemetry import circuits

EXTRAS = {
    "documents": ("faiss-cpu", "sentence-transformers", "pypdfium2"),
    "local": ("torch", "transformers"),
    "postgres": ("asyncpg",),
    "redis": ("redis",),
    "reports": ("pyarrow", "reportlab"),
}


class Finding(Struct, frozen=True):
    """One thing looked at. `level`: ok, note (works without it) or problem."""

    subject: str
    level: str
    message: str


@click.command()
@config_option
@json_option
def doctor(config: Path | None, as_json: bool) -> None:
    """Look at the installation. Calls no provider. Exit status 1 when something must be mended."""
    launch = find_launch(config)
    findings = asyncio.run(_examine(launch))
    if as_json:
        print_json(msgspec.to_builtins(findings))
    else:
        for finding in findings:
            click.echo(f"{ {'ok': 'ok  ', 'note': 'note', 'problem': 'FAIL'}[finding.level] }  {finding.subject}: {finding.message}")
    sys.exit(1 if any(finding.level == "problem" for finding in findings) else 0)


async def _examine(launch: Launch) -> list[Finding]:
    settings = launch.settings()
    findings = [
        Finding("policy file", "ok", launch.config),
        Finding("home", "ok", f"{settings.home.resolve()} ({'a server runs on it' if is_serving(settings) else 'no server runs on it'})"),
    ]
    if (problem := open_to_others(settings)) is not None:
        findings.append(Finding("home's modes", "note", problem))
    findings += _extras()
    findings.append(await asyncio.to_thread(_database, launch))
    findings += await _redis(settings)
    findings += await _compute(launch)
    findings += await _backends(launch)
    return findings


def _extras() -> list[Finding]:
    findings = []
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if not _version(package)]
        if missing:
            findings.append(Finding(f"extra {extra}", "note", f"not installed ({', '.join(missing)}): pip install 'headgate[{extra}]'"))
        else:
            findings.append(Finding(f"extra {extra}", "ok", ", ".join(f"{package} {_version(package)}" for package in packages)))
    return findings


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _database(launch: Launch) -> Finding:
    settings = launch.settings()
    shown = hide_password(settings.database)
    database = open_state(settings)
    try:
        state = database.read_blocking(lambda connection: read_state(connection, MIGRATIONS))
    except Exception as error:  # whatever keeps the database from answering is the finding
        return Finding("database", "problem", f"{shown} does not answer: {error}")
    finally:
        database.close()
    if state.standing in ("empty", "current"):
        return Finding("database", "ok", f"{shown}, {'not made yet' if state.revision is None else f'schema revision {state.revision}'}")
    return Finding("database", "note" if state.standing == "older" and settings.auto_migrate else "problem", f"{shown}: {problem_of(state)}")


async def _redis(settings: Settings) -> list[Finding]:
    """Whether the limits' Redis answers, where there is one."""
    if settings.redis_url is None:
        return []
    from router.limits.redis import RedisTransport

    transport = RedisTransport(settings.redis_url, "doctor")
    shown = hide_password(settings.redis_url)
    try:
        async with asyncio.timeout(3):
            await transport.ping()
    except Exception as error:  # whatever keeps it from answering is the finding
        return [Finding("redis", "problem", f"{shown} does not answer: {type(error).__name__}; meanwhile: limits_when_away: {settings.limits_when_away}")]
    finally:
        await transport.aclose()
    return [Finding("redis", "ok", shown)]


async def _compute(launch: Launch) -> list[Finding]:
    from router.compute.client import ComputeClient

    settings = launch.settings()
    path = socket_path(settings.home)
    if not path.exists():
        return [Finding("compute process", "note", "not running: it starts with headgate serve")]
    client = ComputeClient(path, connect_s=2)
    try:
        stats = await client.stats()
    except BackendError as error:
        return [Finding("compute process", "problem" if is_serving(settings) else "note", f"does not answer: {error.message}")]
    finally:
        await client.aclose()
    engines = ", ".join(f"{engine.model} is {engine.state}" for engine in stats.engines) or "no local model loaded"
    return [Finding("compute process", "ok", f"process {stats.pid}; {engines}")]


async def _backends(launch: Launch) -> list[Finding]:
    from router.backends import load_kinds, try_backends

    load_kinds(launch.settings())
    try:
        policy = load_policy(launch.text(), launch.config, price_of=known_price)
        await try_backends(policy, launch.environ())
    except PolicyError as error:
        return [Finding("policy", "problem", str(error))]
    findings = [Finding("policy", "ok", f"{len(policy.backends)} backends, {len(policy.file.rules)} rules")]
    running = circuits(launch.settings().home / "run" / "metrics") if is_serving(launch.settings()) else {}
    for name, configured in policy.backends.items():
        backend = create_backend(name, configured.spec, BackendContext(environ=launch.environ()))
        health = await backend.health()
        local = configured.spec.kind == "llama"
        reason = "answers in the compute process while headgate serves" if local else health.reason
        well = health.ready and running.get(name, "closed") == "closed"
        if health.ready and not well:
            reason = f"its circuit breaker is {running[name].replace('_', ' ')} in a worker of the server that runs here"
        findings.append(Finding(f"backend {name}", "ok" if well else "note", f"{configured.spec.kind} {backend.model}: {'ready' if well else reason}"))
        await backend.aclose()
    return findings + await _embedders(policy, launch.environ()) + _alerts(policy, launch.environ())


def _alerts(policy: Policy, environ: Mapping[str, str]) -> list[Finding]:
    from router.alerts.sending import host_of, secret_problem

    receivers = {
        "": policy.file.alerts,
        " of every tenant": policy.file.tenant_defaults.alerts,
        **{f" of {name}": tenant.alerts for name, tenant in policy.file.tenants.items()},
    }
    findings = []
    for name, alerts in receivers.items():
        if alerts is not None:
            problem = secret_problem(alerts, environ)
            findings.append(
                Finding(f"alerts{name}", "note" if problem else "ok", f"{host_of(alerts)}: {problem or 'a secret is set; try headgate alerts test'}")
            )
    return findings


async def _embedders(policy: Policy, environ: Mapping[str, str]) -> list[Finding]:
    from adapters.embedders import create_embedder

    findings = []
    for name, configured in policy.embedders.items():
        embedder = create_embedder(name, configured.spec, environ)
        health = embedder.health()
        message = f"{configured.spec.kind} {embedder.model}: {'ready' if health.ready else health.reason}"
        findings.append(Finding(f"embedder {name}", "ok" if health.ready else "note", message))
        await embedder.aclose()
    return findings
