"""`headgate policy`: check a policy file, and ask where a request would go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from config.settings import load_settings
from policies.load import Policy, PolicyError, load_policy
from router.backends import load_kinds
from router.gateway import known_price
from router.cli.common import config_option, fail, find_launch, json_option, open_home, print_json, print_table
from router.launch import Launch


@click.group()
def policy() -> None:
    """The routing policy."""


def _load(launch: Launch) -> Policy:
    text = launch.text()
    load_kinds(load_settings(launch.environ(), text, launch.config))
    return load_policy(text, launch.config, price_of=known_price)


@policy.command("validate")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
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


@policy.command("versions")
@config_option
@json_option
def versions(config: Path | None, as_json: bool) -> None:
    """Every policy that was ever active."""
    from router import policy_store

    with open_home(config) as (_, _, database):
        found = database.read_blocking(policy_store.list_versions)
    rows = [[row.version, "active" if row.active else "", row.source, row.author, row.hash[:12]] for row in found]
    print_json([{**msgspec.to_builtins(row), "text": None} for row in found]) if as_json else print_table(["VERSION", "STATE", "SOURCE", "AUTHOR", "HASH"], rows)


@policy.command("explain")
@click.argument("text", required=False)
@click.option("--body", type=click.File("rb"), help="A chat request as JSON, instead of TEXT ('-' reads standard input).")
@click.option("--tenant", default="default", show_default=True)
@click.option("--role", default="member", show_default=True)
@click.option("--model", default="auto", show_default=True)
@click.option("--data-class", "data_class", type=click.Choice(["public", "internal", "confidential", "restricted"]))
@click.option("--seed", type=int, help="The draw of weighted rules.")
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
    config: Path | None,
    as_json: bool,
) -> None:
    """Where would this request go, and why? Nothing is called. Backends count as ready where they could be (their keys are here)."""
    import asyncio

    from router.explaining import explain_body
    from router.http.errors import ApiError

    if (text is None) == (body is None):
        raise click.UsageError("give the user's message as TEXT, or a whole request with --body")
    hints = {name: value for name, value in {"data_class": data_class, "seed": seed}.items() if value is not None}
    raw = body.read() if body else msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": text}], **({"headgate": hints} if hints else {})})
    launch = find_launch(config)
    loaded = _load(launch)
    try:
        decision = asyncio.run(explain_body(loaded, launch.environ(), raw, tenant=tenant, role=role))
    except ApiError as error:
        raise fail(f"{error.code}: {error.message}") from error
    if as_json:
        print_json(msgspec.to_builtins(decision))
        return
    click.echo(f"candidates: {', '.join(decision.candidates) or '(none)'}\nrule: {decision.rule}")
    for reason in decision.reasons:
        click.echo(f"  {reason}")
