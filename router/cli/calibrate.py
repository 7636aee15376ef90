"""`headgate policy calibrate`: learn from a tenant's pairs how hard its questions are, and let the gate say whether that serves."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from router.audit.actors import command_line
from router.cli.audit import audit_of
from router.cli.common import config_option, fail, json_option, open_home, print_json


@click.command("calibrate")
@click.option("--tenant", default="default", show_default=True)
@click.option(
    "--pairs", "file", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="JSON lines: prompt, weak, strong (0 to 1); perhaps weak_answer."
)
@click.option("--dry-run", is_flag=True, help="Learn and judge; change nothing.")
@config_option
@json_option
def calibrate(tenant: str, file: Path | None, dry_run: bool, config: Path | None, as_json: bool) -> None:
    """Learn a head from the tenant's pairs: those in the file, and those that shadow calls have left.

    It serves the tenant if on at least 150 pairs that it has not seen the lower 95 % bound of its APGR beats the rules'. Otherwise the rules
    serve, also where another head served before. A running server follows within a second.
    """
    try:
        from policies.complexity.gate import calibrate as learn
        from policies.complexity.head import space_of
        from policies.complexity.pairs import as_pairs
    except ImportError as error:
        raise fail("calibrating needs numpy and scikit-learn: pip install 'headgate[documents]'") from error
    from adapters.embedding import EmbedderUnavailable
    from router.heads import FOLDER, logged_pairs, record

    try:
        rows = [] if file is None else as_pairs([_line(text, place) for place, text in enumerate(file.read_text().splitlines(), 1) if text.strip()])
    except ValueError as error:
        raise fail(f"{file}: {error}") from error
    with open_home(config) as (launch, settings, database):
        try:
            space = space_of(None)
        except EmbedderUnavailable as error:
            raise fail(str(error)) from error
        pairs = [*rows, *database.read_blocking(lambda connection: logged_pairs(connection, tenant, space))]
        try:
            with click.progressbar(length=6, label=f"learning from {len(pairs)} pairs", file=sys.stderr) as bar:
                head, verdict = learn(pairs, progress=lambda _done, _whole: bar.update(1))
        except (ValueError, EmbedderUnavailable) as error:
            raise fail(str(error)) from error
        if not dry_run:
            if head is not None and verdict.promoted:
                head.save(settings.home / FOLDER)
            name = "" if head is None else head.hash
            database.write_blocking(record(audit_of(launch, settings, database), command_line(), tenant, name, verdict))
    shown = {"tenant": tenant, "head": None if head is None else head.hash, "dry_run": dry_run, **msgspec.to_builtins(verdict)}
    if as_json:
        print_json(shown)
    else:
        click.echo(f"{tenant}: {verdict.reason}{' (dry run: nothing was changed)' if dry_run else ''}")


def _line(text: str, place: int) -> dict[str, object]:
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise ValueError(f"line {place}: {error}") from error
