"""Reading the documentation as data: its tables, its code blocks, its links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(text: str, info: str) -> list[str]:
    """The code blocks whose info string is exactly `info`."""
    return [code for found, code in _BLOCK.findall(text) if found.strip() == info]


def blocks_of_all_pages(info: str) -> list[tuple[str, str]]:
    """`(page and number, code)`."""
    return [(f"{path.name}#{number}", code) for path in PAGES for number, code in enumerate(blocks(path.read_text(encoding="utf-8"), info), 1)]


def table(text: str, section: str | None = None) -> list[list[str]]:
    """The rows of the first table (below the heading `section`), without headings and without backticks. `\\|` is no end of a cell."""
    if section is not None:
        found = re.search(rf"^#+ {re.escape(section)}$(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)
        assert found is not None, f"no section {section!r}"
        text = found[1]
    rows: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")])
        elif rows:
            break
    assert len(rows) > 2, f"no table in {section!r}"
    return rows[2:]


def names(rows: list[list[str]], column: int = 0) -> list[str]:
    """The names of a column; a cell may hold several, separated by commas."""
    return [name.strip() for row in rows for name in row[column].split(",")]
