"""How many tokens a text probably has, told from its characters: no vocabulary, no memory, about 10 µs per 1,000 characters. Pure.

The weights are a regression, without negative ones, of the tokens of OpenAI's o200k vocabulary on how often a class of characters, or a pair of
neighbouring classes, occurs: a lower-case letter behind a space begins a word, one behind another goes on with it. It saw 9,000 texts: recorded
requests, exam questions, prose, code, JSON, and word lists of 60 languages; scripts that it saw in word lists only were set by hand, to fit prose.
On texts that were held out it is within 6 % for half of them and within 23 % for 95 of 100, where characters / 4 is 15 % and 63 % off.
"""

from __future__ import annotations

SCRIPTS = {0xC0: "l", 0xC7: "g", 0xCE: "g", 0xD0: "c", 0xD4: "h", 0xD7: "r", 0xE0: "i", 0xE1: "j", 0xE2: "e", 0xE3: "k", 0xEA: "o", 0xEE: "k", 0xF0: "m"}
"""From which first byte of UTF-8 on a character is of which class: Latin with marks, Greek, Cyrillic, Armenian, Hebrew and Arabic, Indic and Thai,
Georgian and other Asian scripts, signs, Chinese and Japanese, Korean, emoji."""


def _class_of(byte: int) -> str:
    if byte >= 0x80:
        return next((name for first, name in reversed(SCRIPTS.items()) if byte >= first), "l")
    character = chr(byte)
    if character.isalpha():
        return "a" if character.islower() else "A"
    return "0" if character.isdigit() else "s" if character == " " else "n" if character.isspace() else "p"


_CLASSES = bytes(ord(_class_of(byte)) for byte in range(256))
_FOLLOWING = bytes(range(0x80, 0xC0))
"""The bytes of a character after its first one."""

_ASCII: tuple[tuple[bytes, float], ...] = (
    (b"sa", 0.784), (b"sA", 0.666), (b"pa", 0.585), (b"nA", 0.803), (b"aA", 2.253), (b"aa", 0.16), (b"A", 0.309), (b"0", 0.873),
    (b"ss", 0.02), (b"n", 0.728), (b"p", 0.344), (b"sp", 0.871),
)  # fmt: skip
_BEYOND: tuple[tuple[bytes, float], ...] = (
    (b"l", 1.768), (b"g", 0.45), (b"c", 0.25), (b"h", 0.486), (b"r", 0.33), (b"i", 0.34), (b"j", 0.501), (b"e", 1.038), (b"k", 0.78),
    (b"o", 0.75), (b"m", 1.5),
)  # fmt: skip
"""Tokens for each class, or pair of neighbours, that occurs."""


def estimate_text(text: str) -> int:
    """At least one token for a text that is not empty, and at most one for each byte."""
    if not text:
        return 0
    if text.isascii():
        encoded = text.encode()
        classes, weights = encoded.translate(_CLASSES), _ASCII
    else:
        encoded = text.encode("utf-8", "replace")
        classes, weights = encoded.translate(_CLASSES, _FOLLOWING), _ASCII + _BEYOND
    count = classes.count
    return max(1, min(len(encoded), round(sum([weight * count(pattern) for pattern, weight in weights]))))
