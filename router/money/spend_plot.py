"""The plot of a statement: cost by day. One drawing, for a page of PDF and as SVG. Needs the extra `reports`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.money.statement import Statement
from router.money.statement_words import money, month_name

WIDTH, HEIGHT = 499.0, 190.0
_LEFT, _RIGHT, _BOTTOM, _TOP = 62.0, 6.0, 24.0, 26.0
INK, QUIET, RULE, BAR = "#1b2430", "#667085", "#e4e7ec", "#2f6fdb"


def drawing(statement: Statement) -> Any:
    """The plot as a drawing of reportlab's. Negative days (corrections of others) hang below the line."""
    from reportlab.graphics.shapes import Drawing, Line, Rect, String
    from reportlab.lib.colors import HexColor

    costs = [each.cost for each in statement.by_day]
    ticks = _ticks(min(0, *costs), max(0, *costs))
    low, high = ticks[0], ticks[-1]
    scale = (HEIGHT - _BOTTOM - _TOP) / (high - low)

    def height(pico: float) -> float:
        return _BOTTOM + (pico - low) * scale

    picture = Drawing(WIDTH, HEIGHT)

    def write(x: float, y: float, text: str, size: float = 7.5, color: str = QUIET, anchor: str = "start", font: str = "Helvetica") -> None:
        picture.add(String(x, y, text, fontName=font, fontSize=size, fillColor=HexColor(color), textAnchor=anchor))

    write(0, HEIGHT - 10, f"Cost by day, {month_name(statement)}", 9, INK, font="Helvetica-Bold")
    write(WIDTH - _RIGHT, HEIGHT - 10, "USD, days in UTC", anchor="end")
    places = _places(ticks)
    for tick in ticks:
        picture.add(Line(_LEFT, height(tick), WIDTH - _RIGHT, height(tick), strokeColor=HexColor(RULE), strokeWidth=0.6))
        write(_LEFT - 6, height(tick) - 2.6, money(tick, places), anchor="end")
    step = (WIDTH - _LEFT - _RIGHT) / len(costs)
    for number, cost in enumerate(costs):
        left = _LEFT + number * step
        if cost:
            bottom, top = sorted((height(0), height(cost)))
            picture.add(Rect(left + step * 0.14, bottom, step * 0.72, max(top - bottom, 0.5), fillColor=HexColor(BAR), strokeColor=None, strokeWidth=0))
        if number == 0 or (number + 1) % 5 == 0:
            write(left + step / 2, 9, str(number + 1), anchor="middle")
    picture.add(Line(_LEFT, height(0), WIDTH - _RIGHT, height(0), strokeColor=HexColor(QUIET), strokeWidth=0.8))
    return picture


def svg(statement: Statement) -> str:
    from reportlab.graphics import renderSVG

    text = renderSVG.drawToString(drawing(statement))
    return text if isinstance(text, str) else str(text, "utf-8")


def _ticks(low: int, high: int) -> list[int]:
    """At most seven round numbers around a range."""
    spread = max(high - low, 10)
    decade = 10 ** (len(str(spread)) - 2)
    step = next(decade * factor for factor in (1, 2, 5, 10, 20, 50) if decade * factor * 5 >= spread)
    first = low // step
    last = max(-(-high // step), first + 1)
    return [number * step for number in range(first, last + 1)]


def _places(ticks: Sequence[int]) -> int:
    """Decimals that tell the ticks apart."""
    step = ticks[1] - ticks[0]
    places = 2
    while places < 9 and (step * 10**places) % 10**12:
        places += 1
    return places
