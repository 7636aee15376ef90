"""What every parser shares: its result, its error, its limits and the building of canonical text."""

from __future__ import annotations

import unicodedata
from typing import Literal, TypeAlias

from msgspec import Struct

from retrieval.values import ErrorCode

MediaType: TypeAlias = Literal[
    "application/pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "text/html",
    "text/markdown",
    "text/plain",
]


class ParseError(Exception):
    """The file cannot become text. `code` is OpenAI's word for it, the message says why in plain words."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message

    def __reduce__(self) -> tuple[type[ParseError], tuple[ErrorCode, str]]:
        return (type(self), (self.code, self.message))


class Limits(Struct, frozen=True):
    """What a document may cost at most. `expanded` bounds the unpacked size of a compressed format (a zip bomb stays packed)."""

    bytes: int = 64 * 2**20
    pages: int = 5_000
    expanded: int = 256 * 2**20
    characters: int = 20_000_000


class Parsed(Struct, frozen=True):
    """A document's canonical text. `pages[n]` is the offset at which page n + 1 starts; empty where the format has no pages.

    `headings` are the spans of headings, in order.
    """

    media_type: MediaType
    text: str
    pages: tuple[int, ...] = ()
    headings: tuple[tuple[int, int], ...] = ()


class Builder:
    """Joins blocks to canonical text, and keeps where pages and headings stand in it."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._pages: list[int] = []
        self._headings: list[tuple[int, int]] = []

    def block(self, text: str, *, heading: bool = False, separator: str = "\n\n") -> None:
        """Add a block; one without text is left out."""
        text = clean(text).strip()
        if not text:
            return
        self._separate(separator)
        if heading:
            self._headings.append((self._length, self._length + len(text)))
        self._append(text)

    def page(self, text: str) -> None:
        """Add a page, also one without text: the pages after it keep their numbers."""
        self._separate("\n\n")
        self._pages.append(self._length)
        self._append(clean(text).strip())

    def parsed(self, media_type: MediaType) -> Parsed:
        return Parsed(media_type, "".join(self._pieces), tuple(self._pages), tuple(self._headings))

    def _separate(self, separator: str) -> None:
        if self._pieces:
            self._append(separator)

    def _append(self, text: str) -> None:
        self._pieces.append(text)
        self._length += len(text)


_DROPPED: dict[int, str | None] = dict.fromkeys((*range(9), *range(14, 32), *range(127, 160), 0xFEFF))
_CONTROL = _DROPPED | dict.fromkeys((0x0B, 0x0C, 0x85, 0x2028, 0x2029), "\n")


def clean(text: str) -> str:
    """Canonical form: `\\n` line ends, no control characters, no lone surrogates, NFC.

    NFC is taken of a whole block; blocks are joined by newlines, with which nothing composes, so the joined text is NFC too.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROL)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8"))
    return text
