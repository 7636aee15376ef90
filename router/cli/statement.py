"""`headgate statement`: a tenant's month, for finance."""

from __future__ import annotations

from pathlib import Path

import click
from sqlalchemy import Connection

from router.cli.common import config_option, fail, has, json_option, open_home, print_json, require_reports
from router.money.periods import parse_month
from router.money.statement import NoSuchTenant, Statement, make_statement
from router.money.statement_markdown import inside, markdown
from router.storage.tables import Archived


@click.command()
@click.option("--tenant", required=True, help="Whose month.")
@click.option("--month", required=True, help="As 2026-11.")
@click.option("--format", "form", type=click.Choice(["md", "pdf"]), default="md", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file to write; the plot of a Markdown file is written beside it, as SVG.")
@config_option
@json_option
def statement(tenant: str, month: str, form: str, out: Path | None, config: Path | None, as_json: bool) -> None:
    """A tenant's statement of a month: cost by team, model and day, the budget, what is estimated, and a hash of the ledger's rows.

    Without --out, Markdown goes to standard output with its plot inside.
    """
    try:
        wanted = parse_month(month)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--month") from error
    if form == "pdf":
        if out is None:
            raise click.UsageError("a PDF needs --out FILE")
        require_reports("PDF")

    def read(connection: Connection) -> Statement:
        return make_statement(connection, tenant, wanted)

    with open_home(config) as (_, _, database):
        try:
            made = database.read_blocking(read)
        except NoSuchTenant as error:
            raise fail(f"{error}; list them with: headgate tenants list") from error
        except Archived as error:
            raise fail(f"{error}; make statements before a month is archived") from error
    if as_json:
        print_json(made.shown())
        return
    if form == "pdf":
        from router.money.statement_pdf import pdf

        assert out is not None
        out.write_bytes(pdf(made))
        return
    plot = None
    if has("reportlab"):
        from router.money.spend_plot import svg

        plot = svg(made)
    else:
        click.echo("the plot is left out: it needs the extra reports (pip install 'headgate[reports]')", err=True)
    if out is None:
        click.echo(markdown(made, None if plot is None else inside(plot)), nl=False)
        return
    picture = out.with_name(f"{out.stem}.svg")
    if plot is not None:
        picture.write_text(plot, encoding="utf-8")
    out.write_text(markdown(made, None if plot is None else picture.name), encoding="utf-8")
