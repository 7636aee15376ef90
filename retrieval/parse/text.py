"""Plain text: UTF-8, UTF-16 with its byte order mark, else Latin-1 (which every byte sequence is)."""

from __future__ import annotations

import codecs

from retrieval.parse.base import Parsed, clean


def parse(data: bytes) -> Parsed:
    return Parsed("text/plain", clean(decode(data)).strip())


def decode(data: bytes, declared: str | None = None) -> str:
    """`declared` is the encoding a document names itself; it counts where there is no mark and the bytes are not UTF-8. Never raises."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    for encoding in (declared, "latin-1"):
        try:
            return data.decode(encoding or "latin-1")
        except (UnicodeError, LookupError):
            continue
    return data.decode("latin-1")
