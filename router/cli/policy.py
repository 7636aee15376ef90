"""`headgate policy`: check a policy file, run its cases, ask where a request would go, and go back to an earlier version."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from sqlalchemy import Connection

from adapters.backend import DATA_CLASSES
from config.settings import load_settings
from policies.access import TENANT_ROLES
from policies.load import Policy, PolicyError, load_policy
from router import policy_store
from router.audit.actors import command_line
from router.audit.changes import recorded_policy
from router.audit.log import Subject
from router.backends import load_kinds, try_policy
from router.cli.audit import audit_of
from router.cli.calibrate import calibrate
from router.cli.canaries import canaries, resume
from router.cli.common import config_option, fail, find_launch, json_option, open_home, print_json, print_table
from router.launch import Launch
from router.policy_checks import capabilities_of, check_blocking
from router.policy_in_force import known_price

LONGEST_COMMENT = 500


def _line(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if len(value) > LONGEST_COMMENT or not value.isprintable():
        raise click.BadParameter(f"must be one line of at most {LONGEST_COMMENT} characters")
    return value


comment_option = click.option("--comment", default="", callback=_line, help="Why: shown with the version, or in the audit log.")
file_argument = click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))


@click.group()
def policy() -> None:
    """The routing policy."""


def _load(launch: Launch) -> Policy:
    text = launch.text()
    load_kinds(load_settings(launch.environ(), text, launch.config))
    loaded = load_policy(text, launch.config, price_of=known_price)
    try_policy(loaded, launch.environ())
    return loaded


@policy.command("validate")
@file_argument
@config_option
@json_option
def validate(file: Path | None, config: Path | None, as_json: bool) -> None:
    """Check a policy file: every problem with its line, column and a suggestion. Exit status 2 when it cannot be used."""
    launch = find_launch(file or config)
    try:
        loaded = _load(launch)
    except PolicyError as error:
        if as_json:
            print_json({"valid": False, "problems": msgspec.to_builtins(error.problems)})
        else:
            click.echo(str(error), err=True)
        sys.exit(2)
    if as_json:
        print_json({"valid": True, "problems": []})
    else:
        click.echo(f"{launch.config}: valid; {len(loaded.backends)} backends, {len(loaded.file.rules)} rules")


@policy.command("test")
@file_argument
@config_option
@json_option
def run_tests(file: Path | None, config: Path | None, as_json: bool) -> None:
    """Run the policy's own `cases`. Exit status 1 when one does not hold. Nothing is called."""
    import asyncio

    from policies.cases import run_cases

    launch = find_launch(file or config)
    loaded = _load(launch)
    results = run_cases(loaded, asyncio.run(capabilities_of(loaded, launch.environ())))
    failed = sum(not result.ok for result in results)
    if as_json:
        print_json(
            [{"name": result.name, "ok": result.ok, "failures": result.failures, "decision": msgspec.to_builtins(result.decision)} for result in results]
        )
    else:
        for result in results:
            click.echo(f"{'ok  ' if result.ok else 'FAIL'}  {result.name}")
            for failure in result.failures:
                click.echo(f"        {failure}")
        click.echo(f"{len(results) - failed} of {len(results)} cases hold" if results else f"{launch.config} has no cases; add some under 'cases:'")
    sys.exit(1 if failed else 0)


@policy.command("schema")
@click.option("--included", is_flag=True, help="That of the files that a policy includes.")
def schema(included: bool) -> None:
    """Print the policy file's JSON Schema, for editors."""
    from policies.schema import json_schema

    load_kinds(find_launch(None).settings())
    print_json(json_schema(included=included))


@policy.command("versions")
@config_option
@json_option
def versions(config: Path | None, as_json: bool) -> None:
    """Every policy that was ever active."""
    with open_home(config) as (_, _, database):
        found = database.read_blocking(policy_store.list_versions)
    rows = [[row.version, "active" if row.active else "", _when(row.created_at), row.source, row.author, row.hash[:12], row.comment] for row in found]
    print_json([_shown(row) for row in found]) if as_json else print_table(["VERSION", "STATE", "MADE", "SOURCE", "AUTHOR", "HASH", "COMMENT"], rows)


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


@policy.command("show")
@click.argument("version", type=click.IntRange(min=1), required=False)
@config_option
@json_option
def show(version: int | None, config: Path | None, as_json: bool) -> None:
    """The text of a version, by default of the active one."""
    with open_home(config) as (launch, settings, database):
        read = policy_store.active_version if version is None else lambda connection: policy_store.get_version(connection, version)
        found = database.read_blocking(read)
        if found is None:
            raise fail("there is no such policy version; see them with: headgate policy versions")
        audit_of(launch, settings, database).note_blocking(command_line(), "policy.read", Subject("policy", str(found.version)))
    print_json(msgspec.to_builtins(found)) if as_json else click.echo(found.text, nl=not found.text.endswith("\n"))


@policy.command("import")
@file_argument
@comment_option
@click.option("--author", help="Who made the version (default: cli and the name of your account).")
@click.option("--force", is_flag=True, help="Also where the policy's own cases do not hold.")
@config_option
@json_option
def import_policy(file: Path | None, comment: str, author: str | None, force: bool, config: Path | None, as_json: bool) -> None:
    """Put a policy file in force now; a running server follows within a second. Exit status 2 where it has a problem: then nothing changes."""
    with open_home(config) as (launch, settings, database):
        chosen = launch if file is None else find_launch(file)
        text = chosen.text()
        check_blocking(text, chosen.config, launch.environ(), cases=not force)
        name = (author or _account())[:64]

        def work(connection: Connection) -> policy_store.PolicyVersion:
            if chosen.config == launch.config:  # the service's own file: it is not imported a second time when the service looks at it
                return policy_store.import_file(connection, text, author=name, comment=comment)
            return policy_store.add_version(connection, text, source="cli", author=name, comment=comment)

        log = audit_of(launch, settings, database)
        version = database.write_blocking(recorded_policy(log, command_line(), "policy.import", work))
    print_json(_shown(version)) if as_json else click.echo(f"policy version {version.version} is active")


def _account() -> str:
    account = command_line().details.get("os_user")
    return f"cli:{account}" if account else "cli"


def _shown(version: policy_store.PolicyVersion) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(version)
    shown.pop("text")
    return shown


@policy.command("rollback")
@click.argument("version", type=int)
@comment_option
@config_option
@json_option
def rollback(version: int, comment: str, config: Path | None, as_json: bool) -> None:
    """Make an earlier version active again; a running server follows within a second. The file is not changed."""
    with open_home(config) as (launch, settings, database):
        earlier = database.read_blocking(lambda connection: policy_store.get_version(connection, version))
        if earlier is None:
            raise fail(f"there is no policy version {version}; see them with: headgate policy versions")
        try:
            try_policy(load_policy(earlier.text, f"version {version}", price_of=known_price), launch.environ())
        except PolicyError as error:
            raise fail(f"version {version} is not valid any more:\n{error}") from error
        log = audit_of(launch, settings, database)
        work = recorded_policy(log, command_line(), "policy.rollback", lambda connection: policy_store.activate(connection, version), comment=comment)
        active = database.write_blocking(work)
    assert active is not None
    print_json(_shown(active)) if as_json else click.echo(f"policy version {version} is active")


policy.add_command(canaries)
policy.add_command(resume)


@policy.command("explain")
@click.argument("text", required=False)
@click.option("--body", type=click.File("rb"), help="A chat request as JSON, instead of TEXT ('-' reads standard input).")
@click.option("--tenant", default="default", show_default=True)
@click.option("--role", default="member", show_default=True, type=click.Choice(TENANT_ROLES))
@click.option("--model", default="auto", show_default=True)
@click.option("--data-class", "data_class", type=click.Choice(DATA_CLASSES))
@click.option("--seed", type=int, help="The draw of weighted rules.")
@click.option("--tag", "tags", multiple=True, help="A tag of the request; may be given more than once.")
@click.option("--key", default="", help="The id or the name of the key that asks.")
@click.option("--at", type=click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]), help="When it is asked, in UTC; now where nothing is said.")
@config_option
@json_option
def explain(
    text: str | None,
    body: Any,
    tenant: str,
    role: str,
    model: str,
    data_class: str | None,
    seed: int | None,
    tags: tuple[str, ...],
    key: str,
    at: datetime | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Where would this request go, and why? Nothing is called. Backends count as ready where they could be (their keys are here).

    Exit status 1 when the request would be refused.
    """
    import asyncio

    from policies.several import told
    from router.explaining import explain_body
    from router.http.errors import ApiError

    if (text is None) == (body is None):
        raise click.UsageError("give the user's message as TEXT, or a whole request with --body")
    hints = {name: value for name, value in {"data_class": data_class, "seed": seed, "tags": tags or None}.items() if value is not None}
    chat = {"model": model, "messages": [{"role": "user", "content": text}], "headgate": hints}
    raw = body.read() if body else msgspec.json.encode(chat)
    launch = find_launch(config)
    loaded = _load(launch)
    now = None if at is None else at.replace(tzinfo=UTC).timestamp()
    try:
        decision = asyncio.run(explain_body(loaded, launch.environ(), raw, tenant=tenant, role=role, key=key, now=now))
    except ApiError as error:
        raise fail(f"{error.code}: {error.message}") from error
    if as_json:
        print_json(msgspec.to_builtins(decision))
    elif decision.outcome == "ok":
        click.echo(f"candidates: {', '.join(decision.candidates)}")
    else:
        click.echo(f"refused: {decision.outcome}: {decision.message}")
    if not as_json:
        for reason in (reason for reason in decision.reasons if not reason.startswith("excluded:")):
            click.echo(f"  {reason}")
        for line in told(decision):
            click.echo(f"  {line}")
        for exclusion in decision.excluded:
            click.echo(f"  {exclusion.backend}: {exclusion.detail}")
        for failure, names in decision.fallbacks.items():
            click.echo(f"  after {failure}: {', '.join(names) or 'nothing'}")
        if decision.propensity < 1:
            click.echo(f"  the first one comes first with a probability of {decision.propensity:.3g}")
        found = decision.features
        known = {
            "task": found.task,
            "language": found.language or "unknown",
            "data class": found.data_class,
            "input tokens": found.input_tokens,
            "output tokens": found.output_tokens,
            "turns": found.turns,
            "complexity": found.complexity,
            "needs": ", ".join(found.needs) or None,
            "tags": ", ".join(found.tags) or None,
        }
        click.echo("request: " + "; ".join(f"{name} {value}" for name, value in known.items() if value is not None))
    sys.exit(0 if decision.outcome == "ok" else 1)


policy.add_command(calibrate)
