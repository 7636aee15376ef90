"""Which format a file has: by its first bytes, then by its name."""

from __future__ import annotations

import io
import zipfile
from pathlib import PurePath

from retrieval.parse.base import MediaType, ParseError

SUPPORTED = ("PDF (.pdf)", "Word (.docx)", "HTML (.html, .htm)", "Markdown (.md, .markdown)", "plain text (.txt and other text files)")

_HTML_OPENINGS = (b"<!doctype html", b"<html", b"<head", b"<body")
_FOREIGN = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old or encrypted Microsoft Office document",
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"{\\rtf": "an RTF document",
    b"%!PS": "a PostScript document",
    b"\x7fELF": "a program",
    b"MZ\x90": "a program",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def media_type_of(filename: str, data: bytes) -> MediaType:
    """Raises `ParseError("unsupported_file")`, naming what was found and what can be read."""
    if b"%PDF-" in data[:1024]:
        return "application/pdf"
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_type(data)
    for magic, name in _FOREIGN.items():
        if data.startswith(magic):
            raise _unsupported(name)
    if not data.startswith(_UTF16) and _looks_binary(data):
        raise _unsupported("a binary file of unknown format")
    opening = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    extension = PurePath(filename).suffix.lower()
    if opening.startswith(_HTML_OPENINGS) or extension in (".html", ".htm", ".xhtml"):
        return "text/html"
    if extension in (".md", ".markdown", ".mdown"):
        return "text/markdown"
    if extension in (".pdf", ".docx"):
        raise ParseError("invalid_file", f"The name ends in {extension}, but the content is plain text.")
    return "text/plain"


def _zip_type(data: bytes) -> MediaType:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = frozenset(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ParseError("invalid_file", f"The file begins like a Word document or archive but is damaged: {error}.") from error
    if "word/document.xml" in names:
        return "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    if any(name.startswith("ppt/") for name in names):
        raise _unsupported("a PowerPoint presentation")
    if any(name.startswith("xl/") for name in names):
        raise _unsupported("an Excel workbook")
    raise _unsupported("a ZIP archive")


def _looks_binary(data: bytes) -> bool:
    sample = data[:8192]
    control = sum(byte < 9 or (13 < byte < 32 and byte != 27) for byte in sample)
    return b"\0" in data or control > len(sample) * 0.1


def _unsupported(found: str) -> ParseError:
    return ParseError("unsupported_file", f"The file is {found}. Supported are: {', '.join(SUPPORTED)}.")
