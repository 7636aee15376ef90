"""A statement as PDF. Needs the extra `reports`."""

from __future__ import annotations

import io
from typing import Any
from xml.sax.saxutils import escape

from router.money import statement_words as words
from router.money.spend_plot import BAR, INK, QUIET, RULE, drawing
from router.money.statement import Statement
from router.money.statement_words import TableOf

_MARGIN = 42.0


def pdf(statement: Statement) -> bytes:
    """The pages. The same statement gives the same bytes."""
    from reportlab.lib.pagesizes import A4
    from reportlab.platypus import KeepTogether, SimpleDocTemplate, Spacer

    file = io.BytesIO()
    document = SimpleDocTemplate(
        file,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=40,
        bottomMargin=46,
        title=f"{words.title(statement)}, {statement.tenant}",
        author="Headgate",
        invariant=1,
    )
    look = _Look(document.width - 12)  # a frame has a padding of its own
    story: list[Any] = [
        look.text("HEADGATE", "brand"),
        look.text(words.title(statement), "title"),
        look.text(f"Tenant <b>{escape(statement.tenant)}</b> &nbsp;·&nbsp; {escape(words.made(statement))}", "quiet"),
        Spacer(1, 10),
        look.tiles(_tiles(statement)),
        Spacer(1, 6),
        look.text(escape(words.budget(statement)), "body"),
        Spacer(1, 12),
        drawing(statement),
    ]
    for table in (*words.tables(statement), words.days(statement)):
        story += [Spacer(1, 12), look.text(table.title, "heading"), look.table(table)]
    certainty = words.certainty(statement)
    story += [Spacer(1, 12), KeepTogether([look.text(certainty.title, "heading"), look.table(certainty)])]
    proof = TableOf("", [], [list(row) for row in words.proof(statement)], texts=2)
    story += [
        Spacer(1, 12),
        KeepTogether(
            [
                look.text("The ledger's rows", "heading"),
                look.pairs(proof),
                Spacer(1, 4),
                look.text("The hash is that of the rows' export:", "small"),
                look.text(escape(words.proof_command(statement)), "code"),
                Spacer(1, 8),
                *(look.text(escape(note), "small") for note in words.NOTES),
            ]
        ),
    ]
    footer = f"{statement.tenant} · {words.month_name(statement)}"
    document.build(story, canvasmaker=_numbered(footer))
    return file.getvalue()


def _tiles(statement: Statement) -> list[tuple[str, str]]:
    total = statement.total
    used = f"{100 * statement.counted / statement.cap:.0f} %" if statement.cap else "no cap"
    return [
        ("Cost", words.headline(total.cost)),
        ("Requests", f"{total.requests:,}"),
        ("Budget used", used),
        ("Avoided by routing", words.headline(total.avoided)),
        ("Not confirmed", words.headline(statement.unconfirmed.cost)),
    ]


class _Look:
    """Styles, and flowables in them."""

    def __init__(self, width: float) -> None:
        from reportlab.lib.colors import HexColor
        from reportlab.lib.styles import ParagraphStyle

        def style(name: str, size: float, color: str = INK, font: str = "Helvetica", after: float = 2, alignment: int = 0) -> Any:
            return ParagraphStyle(
                name, fontName=font, fontSize=size, leading=size * 1.32, textColor=HexColor(color), spaceAfter=after, alignment=alignment, splitLongWords=1
            )

        self.width = width
        self.color = HexColor
        self.styles = {
            "brand": style("brand", 7.5, BAR, "Helvetica-Bold", 4),
            "title": style("title", 21, INK, "Helvetica-Bold", 5),
            "quiet": style("quiet", 9, QUIET),
            "body": style("body", 9),
            "heading": style("heading", 11, INK, "Helvetica-Bold", 4),
            "small": style("small", 7.5, QUIET, after=3),
            "code": style("code", 7.5, INK, "Courier"),
            "cell": style("cell", 8, after=0),
            "figure": style("figure", 8, after=0, alignment=2),
            "name": style("name", 8, QUIET, after=0),
            "tile name": style("tile name", 7.5, QUIET, after=1),
            "tile": style("tile", 14, INK, "Helvetica-Bold", 0),
        }

    def text(self, markup: str, style: str) -> Any:
        from reportlab.platypus import Paragraph

        return Paragraph(markup, self.styles[style])

    def tiles(self, tiles: list[tuple[str, str]]) -> Any:
        from reportlab.platypus import Table

        cells = [[self.text(escape(name), "tile name"), self.text(escape(value), "tile")] for name, value in tiles]
        table = Table([cells], colWidths=[self.width / len(tiles)] * len(tiles))
        table.setStyle(
            [
                ("BACKGROUND", (0, 0), (-1, -1), self.color("#f5f7fa")),
                ("LINEBEFORE", (1, 0), (-1, -1), 2.5, self.color("#ffffff")),
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("TOPPADDING", (0, 0), (-1, -1), 7),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 8),
                ("LEFTPADDING", (0, 0), (-1, -1), 8),
                ("RIGHTPADDING", (0, 0), (-1, -1), 4),
            ]
        )
        return table

    def table(self, table: TableOf) -> Any:
        from reportlab.platypus import Table

        if not table.rows:
            return self.text("Nothing.", "quiet")
        rows = [
            [
                self.text(f"<font color='{QUIET}'>{escape(name)}</font>", "cell" if place < table.texts else "figure")
                for place, name in enumerate(table.headings)
            ]
        ]
        rows += [self._cells(row, table.texts) for row in table.rows]
        if table.sums:
            rows.append([self.text(f"<b>{escape(value)}</b>", "cell" if place < table.texts else "figure") for place, value in enumerate(table.sums)])
        made = Table(rows, colWidths=self._widths(table), repeatRows=1)
        style: list[Any] = [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("TOPPADDING", (0, 0), (-1, -1), 2.6),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 3.2),
            ("LEFTPADDING", (0, 0), (-1, -1), 2),
            ("RIGHTPADDING", (0, 0), (-1, -1), 2),
            ("LINEBELOW", (0, 0), (-1, 0), 0.8, self.color(QUIET)),
            ("LINEBELOW", (0, 1), (-1, -1), 0.4, self.color(RULE)),
        ]
        if table.sums:
            style += [("LINEABOVE", (0, -1), (-1, -1), 0.8, self.color(QUIET))]
        made.setStyle(style)
        return made

    def _widths(self, table: TableOf) -> list[float]:
        """Figures get what they need, words share the rest."""
        from reportlab.pdfbase.pdfmetrics import stringWidth

        lines = [table.headings, *table.rows, *([table.sums] if table.sums else [])]
        longest = [max(stringWidth(value, "Helvetica-Bold", 8) for value in column) + 14 for column in zip(*lines, strict=True)]
        words, figures = longest[: table.texts], longest[table.texts :]
        left = max(self.width - sum(figures), 60.0)
        widths = list(words)
        for number, place in enumerate(sorted(range(len(words)), key=words.__getitem__)):  # the short ones first: what they do not need is for the long ones
            last = number == len(words) - 1
            widths[place] = left if last else min(words[place], left / (len(words) - number))
            left -= widths[place]
        return widths + figures

    def pairs(self, table: TableOf) -> Any:
        from reportlab.platypus import Table

        made = Table([[self.text(escape(name), "name"), self.text(escape(value), "code")] for name, value in table.rows], colWidths=[70, self.width - 70])
        made.setStyle([("LEFTPADDING", (0, 0), (-1, -1), 2), ("TOPPADDING", (0, 0), (-1, -1), 1), ("BOTTOMPADDING", (0, 0), (-1, -1), 1)])
        return made

    def _cells(self, row: list[str], texts: int) -> list[Any]:
        return [self.text(escape(value), "cell" if place < texts else "figure") for place, value in enumerate(row)]


def _numbered(footer: str) -> Any:
    """A canvas that knows how many pages there are when it writes their feet."""
    from reportlab.lib.colors import HexColor
    from reportlab.pdfgen.canvas import Canvas

    class Numbered(Canvas):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._pages: list[dict[str, Any]] = []

        def showPage(self) -> None:
            self._pages.append(dict(self.__dict__))
            self._startPage()

        def save(self) -> None:
            for number, page in enumerate(self._pages, 1):
                self.__dict__.update(page)
                self.setFont("Helvetica", 7.5)
                self.setFillColor(HexColor(QUIET))
                self.drawString(_MARGIN + 6, 26, footer)
                self.drawRightString(self._pagesize[0] - _MARGIN - 6, 26, f"Page {number} of {len(self._pages)}")
                super().showPage()
            super().save()

    return Numbered
