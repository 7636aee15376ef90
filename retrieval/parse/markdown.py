"""Markdown: the source itself is the canonical text, so that a quote stands in the file as it was written."""

from __future__ import annotations

from itertools import accumulate

from retrieval.parse.base import Parsed, clean
from retrieval.parse.text import decode


def parse(data: bytes) -> Parsed:
    """Headings are those of CommonMark: a `#` inside a code block is none. Never raises."""
    from markdown_it import MarkdownIt

    text = clean(decode(data)).strip()
    starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    headings = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "heading_open" and token.map is not None:
            first, after = token.map
            headings.append((starts[first], min(starts[after] - 1, len(text))))
    return Parsed("text/markdown", text, (), tuple(headings))
