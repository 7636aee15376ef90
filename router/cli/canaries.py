"""`headgate policy canaries` and `headgate policy resume`: how canaries do, and letting one run again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from sqlalchemy import Connection

from router import policy_store
from router.audit.actors import command_line
from router.audit.log import Subject
from router.cli.audit import audit_of
from router.cli.common import config_option, fail, json_option, open_home, print_json, print_table

if TYPE_CHECKING:
    from config.database import Database
    from policies.load import Policy


@click.command("canaries")
@config_option
@json_option
def canaries(config: Path | None, as_json: bool) -> None:
    """The canaries of the policy in force: which run, which were rolled back and why, and how both sides do."""
    with open_home(config) as (_, _, database):
        policy, version = _in_force(database)
        found = _shown(database, policy, version)
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("no rule of the policy in force has a canary; docs/canary.md says how to try a backend with one")
        return
    rows = []
    for each in found:
        for side, names in (("candidate", each["use"]), ("baseline", each["instead_of"])):
            of = each["sides"][side]["whole"]
            share = each["share"] if side == "candidate" else 1 - each["share"]
            rows.append([each["rule"], each["state"], side, ", ".join(names), f"{share:.1%}", of["requests"], of["errors"], *_means(of)])
    print_table(["RULE", "STATE", "SIDE", "BACKENDS", "SHARE", "REQUESTS", "ERRORS", "MS", "USD", "SCORE"], rows)
    for each in found:
        if (reason := each["reason"]) is not None:
            beside = "" if reason["baseline"] is None else f" beside {reason['baseline']:.6g}"
            click.echo(f"{each['rule']} was rolled back: {reason['metric']} was {reason['candidate']:.6g}{beside}, and its bound is {reason['bound']:.6g}")


def _means(of: dict[str, Any]) -> list[str]:
    forms = (("latency_ms", "{:.0f}"), ("cost_usd", "{:.6f}"), ("score", "{:.2f}"))
    return ["" if of[name] is None else form.format(of[name]) for name, form in forms]


@click.command("resume")
@click.argument("rule")
@config_option
@json_option
def resume(rule: str, config: Path | None, as_json: bool) -> None:
    """Let the canary of a rule run again that its guard rolled back; a running server follows within a second."""
    from policies.canary import canaries_of
    from router.trials import store

    with open_home(config) as (launch, settings, database):
        policy, version = _in_force(database)
        if rule not in canaries_of(policy):
            raise fail(f"no rule {rule!r} with a canary is in the policy in force; see them with: headgate policy canaries")

        def work(connection: Connection) -> None:
            if store.resume(connection, version, rule, time.time()) is None:
                raise fail(f"the canary of rule {rule!r} is not rolled back: it runs")

        subject = Subject("rule", rule, "", {"policy_version": version})
        audit_of(launch, settings, database).change_blocking(command_line(), "policy.canary_resumed", subject, work)
        found = next(each for each in _shown(database, policy, version) if each["rule"] == rule)
    print_json(found) if as_json else click.echo(f"the canary of rule {rule!r} runs again")


def _in_force(database: Database) -> tuple[Policy, int]:
    from policies.load import load_policy
    from router.policy_in_force import known_price

    version = database.read_blocking(policy_store.active_version)
    if version is None:
        raise fail("no policy is in force yet: it is imported when the server starts")
    return load_policy(version.text, f"version {version.version}", price_of=known_price), version.version


def _shown(database: Database, policy: Policy, version: int) -> list[dict[str, Any]]:
    from router.trials import store
    from router.trials.shown import shown

    return shown(policy, version, database.read_blocking(lambda connection: store.listed(connection, version)))
