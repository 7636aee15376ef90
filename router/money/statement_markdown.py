"""A statement as Markdown, with its plot beside it or inside it."""

from __future__ import annotations

import base64
import re

from router.money import statement_words as words
from router.money.statement import Statement
from router.money.statement_words import TableOf, money


def markdown(statement: Statement, plot: str | None) -> str:
    """The page. `plot` is the address of the picture; None leaves it out."""
    total = statement.total
    lines = [
        f"# {words.title(statement)}",
        "",
        f"Tenant **{_plain(statement.tenant)}**. {words.made(statement)}",
        "",
        f"**{words.headline(total.cost)}** ({words.exactly(statement)}) for {total.requests:,} requests in {total.attempts:,} attempts. "
        f"Routing avoided {money(total.avoided)}.",
        "",
        words.budget(statement),
        "",
    ]
    lines += [f"![Cost by day in {words.month_name(statement)}]({plot})", ""] if plot is not None else []
    for table in (*words.tables(statement), words.days(statement), words.certainty(statement)):
        lines += _table(table)
    lines += ["## The ledger's rows", ""]
    lines += [f"- {name}: `{value}`" for name, value in words.proof(statement)]
    lines += ["", "The hash is that of the rows' export:", "", "```", words.proof_command(statement), "```", ""]
    lines += [f"{note}\n" for note in words.NOTES]
    return "\n".join(lines)


def inside(svg: str) -> str:
    """A picture as its own address."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _table(table: TableOf) -> list[str]:
    if not table.rows:
        return [f"## {table.title}", "", "Nothing.", ""]
    figures = len(table.headings) - table.texts
    lines = [f"## {table.title}", "", _row(table.headings), "|" + "---|" * table.texts + "---:|" * figures]
    lines += [_row([_plain(value) for value in row]) for row in table.rows]
    lines += [_row([f"**{value}**" if value else "" for value in table.sums])] if table.sums else []
    return [*lines, ""]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """A name (of a model it is a provider's word) that means nothing to Markdown or HTML."""
    escaped = re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", re.sub(r"\s+", " ", text)) if not re.fullmatch(r"[\w $.,:()-]*", text) else text
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
