"""`headgate alerts`: which alerts on budgets there were, and whether their receivers answer."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from policies.load import Policy, load_policy
from router.cli.common import config_option, fail, find_launch, json_option, open_home, print_json, print_table, require_tenant

if TYPE_CHECKING:
    from router.alerts.sending import Answer


@click.group()
def alerts() -> None:
    """Alerts on budgets."""


@alerts.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The newest so many.")
@config_option
@json_option
def list_alerts(tenant: str | None, limit: int, config: Path | None, as_json: bool) -> None:
    """The newest alerts, and whether they were delivered."""
    from router.alerts.book import listed
    from router.alerts.shown import shown

    with open_home(config) as (_, _, database):
        if tenant is not None:
            require_tenant(database, tenant)
        found = database.read_blocking(lambda connection: listed(connection, tenant, limit))
    if as_json:
        print_json([shown(alert) for alert in found])
        return
    print_table(
        ["WHEN", "TENANT", "SCOPE", "PERIOD", "WHAT", "RECEIVER", "STATE", "TRIES", "ERROR"],
        [
            [
                datetime.fromtimestamp(alert.created_at, UTC).isoformat(timespec="seconds"),
                alert.tenant,
                alert.scope,
                alert.period,
                f"{alert.share:.0%}" if alert.type == "budget.threshold" else alert.type.partition(".")[2].replace("_", " "),
                alert.receiver,
                alert.state,
                alert.tries,
                alert.error,
            ]
            for alert in found
        ],
    )


@alerts.command("test")
@click.option("--tenant", help="The receivers of this tenant's alerts; without it the policy's own.")
@config_option
@json_option
def run_test(tenant: str | None, config: Path | None, as_json: bool) -> None:
    """Send a test event to the receivers that the policy file names, with the secrets of this environment. Exit status 1 when one does not take it."""
    from router.backends import load_kinds
    from router.policy_in_force import known_price

    launch = find_launch(config)
    load_kinds(launch.settings())
    policy = load_policy(launch.text(), launch.config, price_of=known_price)
    answers = asyncio.run(_test(policy, launch.environ(), tenant))
    if not answers:
        raise fail(f"{launch.config} names no receiver for {'the policy' if tenant is None else f'tenant {tenant!r}'}; add one under 'alerts:'")
    if as_json:
        print_json({receiver: {**msgspec.to_builtins(answer), "ok": answer.error is None} for receiver, answer in answers.items()})
    else:
        for receiver, answer in answers.items():
            click.echo(
                f"{'ok  ' if answer.error is None else 'FAIL'}  {receiver} {answer.host}: {answer.error or f'answered {answer.status}'} ({answer.ms:.0f} ms)"
            )
    sys.exit(1 if any(answer.error is not None for answer in answers.values()) else 0)


async def _test(policy: Policy, environ: Mapping[str, str], tenant: str | None) -> dict[str, Answer]:
    from router.alerts.events import AlertEvent
    from router.alerts.sending import send
    from router.ids import fresh_id
    from router.money.accounting import DAY_S, periods_of

    now = time.time()
    receivers = policy.receivers(tenant) if tenant is not None else {} if policy.file.alerts is None else {"policy": policy.file.alerts}
    event = AlertEvent(
        id=fresh_id(),
        type="test",
        tenant=tenant or "",
        scope="",
        period=periods_of(int(now // DAY_S))[1],
        share=None,
        spent_usd=0.0,
        reserved_usd=0.0,
        cap_usd=0.0,
        at=now,
    )
    answers = await asyncio.gather(*(send(each, environ, event) for each in receivers.values()))
    return dict(zip(receivers, answers, strict=True))
