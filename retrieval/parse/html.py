"""HTML through lexbor: the readable text in document order, without scripts, navigation and forms."""

from __future__ import annotations

import re
from typing import Any

from retrieval.parse.base import Builder, Parsed
from retrieval.parse.text import decode

_DROPPED = "script, style, noscript, template, svg, math, iframe, object, nav, form, button, select, dialog, [hidden], [aria-hidden=true]"
_BOILERPLATE = ("header", "footer", "aside")  # of the page; inside an article they belong to the text
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_TIGHT = frozenset(("li", "tr", "dt", "dd", "option", "figcaption", "caption"))  # one line each
_BLOCK_LIST = """
address article aside blockquote body center details div dl fieldset figure footer header hr main ol p pre section summary table tbody tfoot thead ul
"""
_BLOCKS = frozenset(_BLOCK_LIST.split()) | _HEADINGS | _TIGHT
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_\-]+)", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\n\r\f]+")


def parse(data: bytes) -> Parsed:
    """Never raises for malformed markup: lexbor repairs it as browsers do."""
    from selectolax.lexbor import LexborHTMLParser

    declared = _CHARSET.search(data[:4096])
    tree = LexborHTMLParser(decode(data, declared.group(1).decode("ascii") if declared else None))
    title = tree.css_first("title")
    heading = title.text() if title is not None and tree.css_first("h1") is None else ""
    for node in tree.css(_DROPPED):
        node.decompose()
    body = tree.body
    if body is not None:
        for tag in _BOILERPLATE:
            for node in body.css(f"body > {tag}, body > div > {tag}"):
                node.decompose()
    walk = _Walk()
    walk.builder.block(_SPACES.sub(" ", heading), heading=True)
    if body is not None:
        walk.visit(body)
    return walk.builder.parsed("text/html")


class _Walk:
    """Collects inline text until a block ends. Iterative: markup may be nested deeper than Python's stack."""

    def __init__(self) -> None:
        self.builder = Builder()
        self._inline: list[str] = []
        self._heading = False
        self._separator = "\n\n"
        self._verbatim = 0

    def visit(self, root: Any) -> None:
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            node, leaving = stack.pop()
            tag = node.tag
            if leaving:
                self._leave(tag)
                continue
            if tag == "-text":
                self._inline.append(node.text(deep=False) if self._verbatim else _SPACES.sub(" ", node.text(deep=False)))
                continue
            if tag.startswith(("-", "!", "_")) or tag in ("head", "title"):
                continue
            self._enter(tag)
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(list(node.iter(include_text=True))))

    def _enter(self, tag: str) -> None:
        if tag == "br":
            self._inline.append("\n")
        elif tag in ("td", "th"):
            if self._inline:
                self._inline.append(" | ")
        elif tag in _BLOCKS:
            self._flush()
            if tag not in _TIGHT:
                self._separator = "\n\n"
            self._heading = tag in _HEADINGS
            self._verbatim += tag == "pre"

    def _leave(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._flush()
            self._separator = "\n" if tag in _TIGHT else "\n\n"
            self._heading = False
            self._verbatim -= tag == "pre"

    def _flush(self) -> None:
        text = "".join(self._inline)
        self._inline.clear()
        if not self._verbatim:
            text = "\n".join(_SPACES.sub(" ", line).strip() for line in text.split("\n"))
        if text.strip():
            self.builder.block(text, heading=self._heading, separator=self._separator)
            self._separator = "\n\n"
