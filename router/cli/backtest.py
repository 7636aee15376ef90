"""`headgate policy backtest` and `headgate policy curve`: what another policy would have done with the requests of the log, and how surely that is known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from config.settings import load_settings
from policies.load import Policy, load_policy
from router.audit.actors import command_line
from router.audit.log import Subject
from router.backends import load_kinds, try_policy
from router.cli.audit import audit_of
from router.cli.common import config_option, fail, find_launch, has, json_option, moment, open_home, period_options, print_json, print_table, require_tenant
from router.cli.policy import policy
from router.policy_in_force import known_price

if TYPE_CHECKING:
    from policies.backtest.curve import Curve
    from router.backtesting.running import Progress

RECORDS = 50_000


@policy.command("backtest")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--level", type=click.IntRange(0, 2), help="How far to go: 0 decides again, 1 adds the cost, 2 the quality (default: 2). Named, it must succeed.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=RECORDS, show_default=True, help="The newest so many requests.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the cost-quality curve as PNG, and draw it here.")
@period_options
@config_option
@json_option
def backtest(
    file: Path,
    level: int | None,
    limit: int,
    plot: Path | None,
    tenant: str | None,
    since: str | None,
    until: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """What the policy in FILE would have done with the logged requests: what changes, what it costs, how good it is. Nothing is called.

    Exit status 1 where the replay of the log is not exact, or a level that was asked for cannot be given.
    """
    from policies.backtest.running import HIGHEST
    from router.backtesting.running import NoPolicy, run_backtest
    from router.backtesting.words import HEADINGS, drawn, remarks, rows

    asked = HIGHEST if level is None else level
    if asked or plot is not None:
        _require("numpy", "a backtest above level 0")
    if plot is not None:
        _require("PIL", "a plot")
    with open_home(config) as (launch, settings, database):
        candidate = _candidate(file)
        if tenant is not None:
            require_tenant(database, tenant)
        from router.audit.replaying import Chosen

        chosen = Chosen(since=moment(since), until=moment(until), tenant=tenant, limit=limit)
        audit_of(launch, settings, database).note_blocking(
            command_line(), "policy.backtest", Subject("policy", candidate.version, tenant or "", {"level": asked})
        )
        try:
            with _bar("deciding again") as progress:
                report = run_backtest(database, candidate, launch.environ(), chosen, asked, curve=plot is not None, progress=progress)
        except NoPolicy:
            raise fail("no policy was ever active here, so nothing was decided: start the service with: headgate serve") from None
    if plot is not None and report.curve is not None:
        _save(report.curve, plot)
    if as_json:
        print_json(report)
    else:
        print_table(HEADINGS, rows(report))
        for remark in remarks(report):
            click.echo(remark)
        if report.curve is not None:
            click.echo(drawn(report.curve))
    sys.exit(0 if report.exact and (level is None or report.refused(level) is None) and report.no_curve is None else 1)


@policy.command("curve")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--pairs", type=click.File("rb"), help="Questions that both models answered, as JSON lines, instead of the log ('-' reads standard input).")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write it as PNG too.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=RECORDS, show_default=True, help="The newest so many requests.")
@period_options
@config_option
@json_option
def curve(
    file: Path | None,
    pairs: Any,
    plot: Path | None,
    limit: int,
    tenant: str | None,
    since: str | None,
    until: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Cost against quality for every threshold of `complexity`, with the operating point of the policy in FILE (default: --config).

    From the log (as `policy backtest` estimates it), or from pairs: {"prompt" or "score", "weak", "strong", "weak_cost", "strong_cost"} on each line.
    Exit status 1 where the log does not show it.
    """
    from router.backtesting.words import drawn

    _require("numpy", "a curve")
    if plot is not None:
        _require("PIL", "a plot")
    found = _of_pairs(pairs, _candidate(file or config)) if pairs is not None else _of_log(file, limit, tenant, since, until, config)
    if plot is not None:
        _save(found, plot)
    print_json(found) if as_json else click.echo(drawn(found))


def _of_pairs(pairs: Any, candidate: Policy) -> Curve:
    from policies.backtest.curve import PairError, curve_of_pairs, read_pairs

    complexity = candidate.file.complexity
    try:
        read = read_pairs(pairs)
    except PairError as error:
        raise click.BadParameter(str(error), param_hint="--pairs") from error
    if complexity is None:
        return curve_of_pairs(read, None)
    return curve_of_pairs(read, complexity.threshold, complexity.weak, complexity.strong)


def _of_log(file: Path | None, limit: int, tenant: str | None, since: str | None, until: str | None, config: Path | None) -> Curve:
    from router.audit.replaying import Chosen
    from router.backtesting.running import NoPolicy, run_backtest

    with open_home(config) as (launch, settings, database):
        candidate = _candidate(file or config)
        if tenant is not None:
            require_tenant(database, tenant)
        chosen = Chosen(since=moment(since), until=moment(until), tenant=tenant, limit=limit)
        audit_of(launch, settings, database).note_blocking(command_line(), "policy.backtest", Subject("policy", candidate.version, tenant or "", {"level": 2}))
        try:
            with _bar("deciding again") as progress:
                report = run_backtest(database, candidate, launch.environ(), chosen, 0, curve=True, progress=progress)
        except NoPolicy:
            raise fail("no policy was ever active here, so nothing was decided: start the service with: headgate serve") from None
    if report.curve is None:
        assert report.no_curve is not None
        raise fail(f"there is no curve: {report.no_curve.reason}. What to do: {report.no_curve.remedy}")
    return report.curve


def _candidate(file: Path | None) -> Policy:
    """The policy of a file, checked. Ends the command with status 2 where it cannot be used."""
    launch = find_launch(file)
    text = launch.text()
    load_kinds(load_settings(launch.environ(), text, launch.config))
    loaded = load_policy(text, launch.config, price_of=known_price)
    try_policy(loaded, launch.environ())
    return loaded


def _require(module: str, what: str) -> None:
    if not has(module):
        raise fail(f"{what} needs the extra reports: pip install 'headgate[reports]'")


def _save(found: Curve, plot: Path) -> None:
    from router.backtesting.picture import save_png

    try:
        save_png(found, plot)
    except OSError as error:
        raise fail(f"the plot {plot} cannot be written: {error.strerror or error}") from error
    click.echo(f"plotted to {plot}", err=True)


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    """A progress bar on standard error, where a person looks at it."""
    with click.progressbar(length=1, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:

        def show(done: int, whole: int) -> None:
            bar.length = whole
            bar.update(done - bar.pos)

        yield show
