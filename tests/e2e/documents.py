"""Documents made for tests: a PDF of several pages and a DOCX, with facts that stand in one place only."""

from __future__ import annotations

from pathlib import Path

PAGES = (
    """Northwind Traders: handbook for employees

This handbook explains how we work together. It is read by every new colleague in the first week.
Our offices are in Lisbon, Hamburg and Toronto. Core hours are from ten in the morning until three in the afternoon.
Questions about the handbook go to the people team.""",
    """Leave and absence

Every employee has twenty-eight days of paid vacation each calendar year.
Unused vacation expires on the last day of March of the following year.
Sick leave of more than three days needs a certificate from a physician.
Parental leave lasts up to sixteen weeks at full salary for either parent.""",
    """Travel and expenses

Train journeys are booked in second class; flights need the approval of your manager.
The daily allowance for meals is forty-two euros in Germany and fifty-five euros in Portugal.
Receipts must be handed in within thirty days, otherwise they are not refunded.""",
)
PARAGRAPHS = (
    ("Security guide for laptops", "Heading 1"),
    ("Every laptop is encrypted before it leaves the service desk.", None),
    ("Passwords", "Heading 2"),
    ("A password has at least fourteen characters and is changed only after an incident.", None),
    ("A lost laptop is reported to the security desk within two hours, at any time of the day.", None),
    ("Software", "Heading 2"),
    ("Programs are installed from the internal catalogue only.", None),
)


def make_pdf(path: Path, pages: tuple[str, ...] = PAGES) -> Path:
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(path), pagesize=A4)
    for page in pages:
        text = canvas.beginText(60, 780)
        text.setFont("Helvetica", 10)
        for line in page.splitlines():
            text.textLine(line)
        canvas.drawText(text)
        canvas.showPage()
    canvas.save()
    return path


def make_docx(path: Path) -> Path:
    from docx import Document

    document = Document()
    for text, style in PARAGRAPHS:
        document.add_paragraph(text, style=style)
    table = document.add_table(rows=0, cols=2)
    for left, right in (("Service desk", "extension 4100"), ("Security desk", "extension 4911")):
        cells = table.add_row().cells
        cells[0].text, cells[1].text = left, right
    document.save(str(path))
    return path


def page_texts(path: Path) -> list[str]:
    """What stands on each page, read apart from the product."""
    import pypdfium2

    document = pypdfium2.PdfDocument(path)
    try:
        return [page.get_textpage().get_text_bounded().replace("\r\n", "\n") for page in document]
    finally:
        document.close()
