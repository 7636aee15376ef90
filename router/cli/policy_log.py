"""`headgate policy diff` and `replay`: policies against the requests that were recorded. They add themselves to `headgate policy`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from sqlalchemy import Connection

from config.database import Database
from policies.diffing import PolicyDiff
from policies.load import Policy, load_policy
from router import policy_store
from router.audit.actors import command_line
from router.audit.log import Subject
from router.audit.replaying import Chosen
from router.backends import try_policy
from router.cli.audit import audit_of
from router.cli.common import config_option, fail, json_option, moment, open_home, period_options, print_json, print_table
from router.cli.policy import policy
from router.policy_in_force import known_price

limit_option = click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many requests.")


@contextmanager
def progress(label: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """A bar on standard error, where a person looks at it: told how many there are, then of every step how many it had."""
    shown: list[Any] = []

    def began(length: int) -> None:
        if sys.stderr.isatty():
            shown.append(click.progressbar(length=length, label=label, file=sys.stderr))
            shown[0].__enter__()

    def done(count: int) -> None:
        if shown:
            shown[0].update(count)

    try:
        yield began, done
    finally:
        if shown:
            shown[0].__exit__(None, None, None)


def _named(database: Database, name: str, environ: Mapping[str, str]) -> tuple[Policy, str]:
    """A policy by a version's number, by `active`, or by a file's name; and its text."""
    if name.isdecimal() or name == "active":
        read = policy_store.active_version if name == "active" else lambda connection: policy_store.get_version(connection, int(name))
        found = database.read_blocking(read)
        if found is None:
            raise fail(f"there is no policy version {name}; see them with: headgate policy versions")
        text, source = found.text, f"version {found.version}"
    else:
        try:
            text, source = Path(name).read_text(encoding="utf-8"), name
        except OSError as error:
            raise fail(f"{name} is neither a version's number, nor 'active', nor a file that can be read: {error.strerror}") from error
    loaded = load_policy(text, source, price_of=known_price)
    try_policy(loaded, environ)
    return loaded, text


@policy.command("diff")
@click.argument("old")
@click.argument("new")
@period_options
@limit_option
@config_option
@json_option
def diff(old: str, new: str, tenant: str | None, since: str | None, until: str | None, limit: int | None, config: Path | None, as_json: bool) -> None:
    """What changes from OLD to NEW: a version's number, `active`, or a policy file. Over recorded requests, and in the text. Nothing is called."""
    from router.policy_comparing import compare

    chosen = Chosen(since=moment(since), until=moment(until), tenant=tenant, limit=limit)
    with open_home(config) as (launch, settings, database):
        before, was = _named(database, old, launch.environ())
        after, now = _named(database, new, launch.environ())
        with progress("comparing") as (began, done):
            found = asyncio.run(compare(database, before, after, (was, now), chosen, launch.environ(), began, done))
        subject = Subject("policy", before.source, tenant or "", {"compared": found.requests, "changed": found.changed})
        audit_of(launch, settings, database).note_blocking(command_line(), "policy.diff", subject)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    if found.text:
        click.echo(found.text + "\n")
    _tell(found)


def _tell(found: PolicyDiff) -> None:
    if not found.requests:
        click.echo("no recorded request to compare over; requests are recorded as they are answered, and kept for decisions_days")
        return
    click.echo(f"{found.changed} of {found.requests} recorded requests change ({100 * found.changed / found.requests:.1f} %)")
    if found.assumed:
        click.echo(f"  {found.assumed} of them go to a backend of which nothing was recorded then: it is taken to be ready")
    if found.unknown:
        click.echo(f"  {found.unknown} requests were recorded without the complexity that the new policy asks for")
    if found.priced:
        change = found.cost_after_usd - found.cost_before_usd
        click.echo(f"  {found.priced} of them have known tokens: {found.cost_before_usd:.6f} USD becomes {found.cost_after_usd:.6f} USD ({change:+.6f})")
    rows = [[each.requests, each.kind, each.before, each.after, each.why, each.examples[0]] for each in found.groups]
    if rows:
        print_table(["REQUESTS", "CHANGE", "FROM", "TO", "WHY", "EXAMPLE"], rows)


@policy.command("replay")
@click.option("--version", "version", type=click.IntRange(min=1), help="Only decisions of this policy version.")
@period_options
@limit_option
@config_option
@json_option
def replay(version: int | None, tenant: str | None, since: str | None, until: str | None, limit: int | None, config: Path | None, as_json: bool) -> None:
    """Decide recorded requests again, each under the version that decided it. Exit status 1 where one comes out different, by a single bit."""
    from router.policy_replaying import replayed

    chosen = Chosen(since=moment(since), until=moment(until), tenant=tenant, policy_version=version, limit=limit)
    with open_home(config) as (launch, settings, database), progress("deciding again") as (began, done):

        def work(connection: Connection) -> Any:
            return replayed(connection, chosen, launch.config, began, done)

        found = database.read_blocking(work)
        subject = Subject("policy", str(version or ""), tenant or "", {"replayed": found.requests, "identical": found.identical})
        audit_of(launch, settings, database).note_blocking(command_line(), "policy.replay", subject)
    if as_json:
        print_json({**msgspec.to_builtins(found), "share": found.share})
    else:
        click.echo(f"{found.identical} of {found.requests} decisions are the same ({100 * found.share:.2f} %)")
        for number, problem in found.unreadable.items():
            click.echo(f"  version {number} cannot be loaded any more, its {problem.requests} decisions are left out: {problem.reason}")
        for each in found.changed:
            for differs in each.differences:
                was, now = (msgspec.json.encode(value).decode() for value in (differs.recorded, differs.replayed))
                click.echo(f"  {each.request_id}: {differs.field}: {was} was recorded, now {now}")
    sys.exit(0 if found.identical == found.requests else 1)
