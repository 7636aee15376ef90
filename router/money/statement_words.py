"""The words of a statement, the same in every form of it: its tables, its notes, how money is written."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from msgspec import Struct

from adapters.cost import usd
from router.money.statement import Part, Statement, Total


class TableOf(Struct, frozen=True):
    """A table: its title, its columns' headings, its rows, a row of sums where there is one. The first `texts` columns are words, the others figures."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    sums: list[str] | None = None
    texts: int = 1


def money(pico: int, places: int = 6) -> str:
    """`$1,234.567890`, rounded half to even; the exact amount stands in `exactly`."""
    amount = Decimal(pico).scaleb(-12).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{places}f}"


def headline(pico: int) -> str:
    """Money in large letters: cents, and more where there would be none."""
    return money(pico, 2 if abs(pico) >= 10**12 or pico == 0 else 4)


def title(statement: Statement) -> str:
    return f"Statement for {month_name(statement)}"


def month_name(statement: Statement) -> str:
    return datetime.fromtimestamp(statement.month.start, UTC).strftime("%B %Y")


def made(statement: Statement) -> str:
    moment = datetime.fromtimestamp(statement.made_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if statement.made_at < statement.month.end:
        return f"Made on {moment}; the month was still running, so the figures will change."
    if statement.provisional:
        return f"Made on {moment}, within a day of the month's end: calls that ended in it may still be booked, so the figures may change."
    return f"Made on {moment}."


def exactly(statement: Statement) -> str:
    return f"{usd(statement.total.cost)} USD"


def budget(statement: Statement) -> str:
    """What the budget says."""
    counted = f"{money(statement.counted)} of requests that began in this month"
    if statement.cap is None:
        return f"There is no cap for the month. Counted: {counted}."
    used = f" ({100 * statement.counted / statement.cap:.1f} %)" if statement.cap else ""
    running = f"; {money(statement.reserved)} are set aside for requests that still run" if statement.reserved else ""
    return f"The cap for the month is {money(statement.cap, 2)}. Used: {counted}{used}{running}."


def tables(statement: Statement) -> list[TableOf]:
    """By team, by backend and model."""
    total = statement.total
    return [
        TableOf("By team", ["Team", *_FIGURES], [[each.name[0] or "(none)", *_figures(each)] for each in statement.by_team], ["Total", *_figures(total)]),
        TableOf(
            "By backend and model",
            ["Backend", "Model", *_FIGURES],
            [[*each.name, *_figures(each)] for each in statement.by_model],
            ["Total", "", *_figures(total)],
            texts=2,
        ),
    ]


def days(statement: Statement) -> TableOf:
    """The days on which something was used."""
    rows = [[each.name[0], *_figures(each)] for each in statement.by_day if each.attempts or each.cost]
    return TableOf("By day", ["Day (UTC)", *_FIGURES], rows, ["Total", *_figures(statement.total)])


def certainty(statement: Statement) -> TableOf:
    """How sure the figures are."""

    def row(name: str, part: Part) -> list[str]:
        return [name, f"{part.rows:,}", money(part.cost)]

    return TableOf(
        "Estimates and corrections",
        ["", "Rows", "Cost"],
        [
            row("Booked at an estimate", statement.estimates),
            row("of these not confirmed by the provider", statement.unconfirmed),
            row("Corrections", statement.corrections),
            row("Booked after the month, corrections included", statement.late),
        ],
    )


def proof(statement: Statement) -> list[tuple[str, str]]:
    """What the figures were made from."""
    return [
        ("Rows", f"{statement.rows:,}"),
        ("First row", statement.first_id or "-"),
        ("Last row", statement.last_id or "-"),
        ("SHA-256", statement.sha256),
    ]


def proof_command(statement: Statement) -> str:
    month = statement.month
    following = datetime.fromtimestamp(month.end, UTC).strftime("%Y-%m-%d")
    return f"headgate ledger export --tenant {statement.tenant} --since {month.name}-01 --until {following} | sha256sum"


NOTES = (
    "A request is counted where its answer was first attempted; attempts are all calls, with retries and fallbacks. Failed and cancelled attempts cost what "
    "the provider bills for them.",
    "Cost avoided is what the answers would have cost at the dearest backend each request could have gone to, less what they did cost.",
    "A row belongs to the month in which its attempt ended, a request's budget to the month in which it began.",
)

_FIGURES = ["Requests", "Input tokens", "Output tokens", "Avoided", "Cost"]


def _figures(total: Total) -> list[str]:
    return [f"{total.requests:,}", f"{total.input_tokens:,}", f"{total.output_tokens:,}", money(total.avoided), money(total.cost)]
