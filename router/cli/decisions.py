"""`headgate decisions`: why a request went where it went. `headgate erase`: what is kept of a user goes."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from sqlalchemy import Connection

from config.secretfile import load_secret
from router.audit.actors import command_line
from router.audit.erasing import erase_user
from router.audit.feedback import Feedback
from router.audit.log import Subject
from router.audit.paths import DecisionPath, path_of
from router.audit.paths import replay as decide_again
from router.cli.audit import audit_of
from router.cli.common import config_option, fail, json_option, open_home, print_json, print_table
from router.identity.errors import Unknown
from router.kept.sealing import Sealer


@click.group()
def decisions() -> None:
    """Decisions that were made for requests."""


def _unknown(request_id: str) -> click.ClickException:
    return fail(f"nothing is recorded of a request {request_id!r}; its id is in x-request-id, and records go after decisions_days")


@decisions.command("show")
@click.argument("request_id")
@config_option
@json_option
def show(request_id: str, config: Path | None, as_json: bool) -> None:
    """The whole path of a request, without its prompt: the decision, the attempts, who looked at it."""
    with open_home(config) as (launch, settings, database):
        thought = Feedback(Sealer(load_secret(launch.environ(), settings.home).reveal().encode()), 0)

        def work(connection: Connection) -> DecisionPath | None:
            return path_of(connection, request_id, None, lambda made: thought.of(connection, made.tenant, made.request_id))

        found = database.read_blocking(work)
        if found is None:
            raise _unknown(request_id)
        audit_of(launch, settings, database).note_blocking(command_line(), "decision.read", Subject("decision", request_id, found.decision.tenant))
    if as_json:
        print_json(found)
        return
    made = found.decision
    click.echo(f"request {made.request_id} of tenant {made.tenant}, key {made.key_id}, by policy version {made.policy_version}: {made.outcome}")
    if made.error is not None:
        click.echo(f"  refused or failed: {made.error}")
    if made.decision is not None:
        click.echo(f"  candidates: {', '.join(made.decision.candidates) or 'none'}")
        for reason in made.decision.reasons:
            click.echo(f"  {reason}")
        for exclusion in made.decision.excluded:
            click.echo(f"  {exclusion.backend}: {exclusion.detail}")
    if made.latency_ms is not None:
        first = "" if made.first_ms is None else f", first event after {made.first_ms:.0f} ms"
        click.echo(f"  {made.model or 'no model'}: {made.input_tokens} tokens in, {made.output_tokens} out, {made.latency_ms:.0f} ms{first}")
    if found.score is not None:
        click.echo(f"  score {found.score:.2f} of {len(found.feedback)} who said what they think of it")
    rows = [[row["purpose"], row["attempt"], row["backend"], row["entry"], row["outcome"], row["error"], f"{row['cost_usd']:.6f}"] for row in found.attempts]
    print_table(["PURPOSE", "ATTEMPT", "BACKEND", "ENTRY", "OUTCOME", "ERROR", "USD"], rows)


@decisions.command("replay")
@click.argument("request_id")
@config_option
@json_option
def replay(request_id: str, config: Path | None, as_json: bool) -> None:
    """Decide once more by the recorded policy version, features, state and seed. Exit status 1 when it comes out different."""
    with open_home(config) as (launch, settings, database):
        done = database.read_blocking(lambda connection: decide_again(connection, request_id, launch.config))
        if done is None:
            raise _unknown(request_id)
        audit_of(launch, settings, database).note_blocking(command_line(), "decision.read", Subject("decision", request_id, _tenant(done.recorded)))
    if as_json:
        print_json(done)
    elif done.problem is not None:
        click.echo(f"cannot be decided once more: {done.problem}")
    else:
        click.echo("the same decision" if done.equal else f"another decision: {done.replayed}")
    sys.exit(0 if done.equal else 1)


def _tenant(decision: object) -> str:
    return getattr(getattr(decision, "features", None), "tenant", "")


@click.command()
@click.argument("user_id")
@config_option
@json_option
def erase(user_id: str, config: Path | None, as_json: bool) -> None:
    """Erase a user for good: their names, stored prompts, responses, conversations, answers kept for retries. Their keys are dead within a second."""
    with open_home(config) as (launch, settings, database):
        secret = load_secret(launch.environ(), settings.home).reveal().encode()
        try:
            done = audit_of(launch, settings, database).change_blocking(
                command_line(),
                "user.erase",
                lambda erased: Subject("user", erased.user, erased.tenant, {"deleted": erased.deleted}),
                lambda connection: erase_user(connection, user_id, secret),
            )
        except Unknown as error:
            raise fail(f"{error}; list them with: headgate users list") from error
    print_json(done) if as_json else print_table(["WHAT", "DELETED"], list(done.deleted.items()))
