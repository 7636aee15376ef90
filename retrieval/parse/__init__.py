"""Documents to canonical text, one module per format.

Canonical text is NFC, has `\\n` line ends and no control characters but newline and tab; every offset in Headgate counts its code points.
"""

from __future__ import annotations

from retrieval.parse.base import Limits, Parsed, ParseError
from retrieval.parse.detect import SUPPORTED, media_type_of

__all__ = ["SUPPORTED", "Limits", "ParseError", "Parsed", "media_type_of", "parse"]


def parse(filename: str, data: bytes, limits: Limits | None = None) -> Parsed:
    """The canonical text of a document. The format is decided by its content first, then by the name's extension. Raises `ParseError`."""
    limits = limits or Limits()
    if not data:
        raise ParseError("invalid_file", "The file is empty.")
    if len(data) > limits.bytes:
        raise ParseError("invalid_file", f"The file has {len(data)} bytes; at most {limits.bytes} can be read.")
    match media_type_of(filename, data):
        case "application/pdf":
            from retrieval.parse import pdf

            parsed = pdf.parse(data, limits)
        case "application/vnd.openxmlformats-officedocument.wordprocessingml.document":
            from retrieval.parse import docx

            parsed = docx.parse(data, limits)
        case "text/html":
            from retrieval.parse import html

            parsed = html.parse(data)
        case "text/markdown":
            from retrieval.parse import markdown

            parsed = markdown.parse(data)
        case "text/plain":
            from retrieval.parse import text

            parsed = text.parse(data)
    if not parsed.text.strip():
        hint = " (scanned pages have to go through OCR first)" if parsed.media_type == "application/pdf" else ""
        raise ParseError("invalid_file", f"The file holds no text{hint}.")
    if len(parsed.text) > limits.characters:
        raise ParseError("invalid_file", f"The file holds {len(parsed.text)} characters of text; at most {limits.characters} can be indexed.")
    return parsed
