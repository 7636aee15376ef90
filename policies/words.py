"""A text's words, quickly."""

from __future__ import annotations


def spaced(keep: str = "") -> bytes:
    """A table for `words_of`: ASCII letters, digits and `keep` stay, every other ASCII character parts words."""
    return bytes(code if code >= 128 or chr(code).isalnum() or chr(code) in keep else 32 for code in range(256))


def words_of(text: str, table: bytes) -> list[str]:
    """What lies between spaces once the table's characters are spaces. Over bytes: on a text with one ü in it `str.translate` takes eighty times as long."""
    return text.encode("utf-8", "surrogatepass").translate(table).decode("utf-8", "surrogatepass").split()
