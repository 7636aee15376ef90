"""Word documents: headings, paragraphs and tables in document order. Headers, footers and comments are left out."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

from retrieval.parse.base import Builder, Limits, Parsed, ParseError

MAX_DEPTH = 8  # of tables inside tables


def parse(data: bytes, limits: Limits) -> Parsed:
    """A table's row is one line, its cells joined by ` | `. Raises `ParseError`."""
    _refuse_bombs(data, limits)
    import docx
    from docx.opc.exceptions import PackageNotFoundError
    from lxml.etree import LxmlError  # type: ignore[import-untyped,unused-ignore]

    try:
        document = docx.Document(io.BytesIO(data))
    except (PackageNotFoundError, LxmlError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ParseError("invalid_file", "The Word document is damaged and cannot be opened.") from error
    builder = Builder()
    for item in document.iter_inner_content():
        if hasattr(item, "rows"):
            for n, row in enumerate(_rows(item, 0)):
                builder.block(row, separator="\n" if n else "\n\n")
        else:
            builder.block(item.text, heading=_is_heading(item))
    return builder.parsed("application/vnd.openxmlformats-officedocument.wordprocessingml.document")


def _refuse_bombs(data: bytes, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            expanded = sum(entry.file_size for entry in archive.infolist())  # a false size makes the reader stop there
    except zipfile.BadZipFile as error:
        raise ParseError("invalid_file", "The Word document is damaged and cannot be opened.") from error
    if expanded > limits.expanded:
        raise ParseError("invalid_file", f"The Word document unpacks to {expanded} bytes; at most {limits.expanded} are accepted.")


def _rows(table: Any, depth: int) -> Iterator[str]:
    for row in table.rows:
        seen: set[Any] = set()
        cells: list[str] = []
        for cell in row.cells:
            if cell._tc in seen:  # a merged cell is listed once for each column it spans
                continue
            seen.add(cell._tc)
            parts = [cell.text.strip()]
            if depth < MAX_DEPTH:
                parts += [line for inner in cell.tables for line in _rows(inner, depth + 1)]
            cells.append(" ".join(" ".join(parts).split()))
        if any(cells):
            yield " | ".join(cells)


def _is_heading(paragraph: Any) -> bool:
    name = paragraph.style.name if paragraph.style is not None else ""
    return bool(name) and (name.startswith("Heading") or name in ("Title", "Subtitle"))
