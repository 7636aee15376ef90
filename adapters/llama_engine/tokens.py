"""Token ids to text as it is generated, never half a character.

A token of a byte-level vocabulary is a piece of UTF-8, so its bytes go through one incremental decoder: a character is delivered with the
token that completes it, and invalid bytes become U+FFFD, as in `tokenizer.decode` of the whole (without its clean-up of spaces, which changes
text that was already delivered).
"""

from __future__ import annotations

import codecs
import re
from typing import Any

from adapters.errors import BackendUnavailable

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-in of each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`, inverted)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + n): byte for n, byte in enumerate(others)}}


_ALPHABET = _byte_alphabet()


class Vocabulary:
    """The bytes of every token id. Byte-level (Llama 3) and SentencePiece-like (Llama 2) tokenizers are understood.

    Special tokens have no bytes. Raises `BackendUnavailable` for a tokenizer of another make.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        made = b"" if backend is None or backend.decoder is None else backend.decoder.__getstate__()
        self.byte_level = b'"ByteLevel"' in made
        if not self.byte_level and b"\xe2\x96\x81" not in made and b"\\u2581" not in made:
            raise BackendUnavailable("the model's tokenizer is neither byte-level nor of SentencePiece's kind: its tokens cannot be streamed as text")
        self._known: dict[int, bytes] = {}
        for token_id, token in tokenizer.added_tokens_decoder.items():
            self._known[token_id] = b"" if token.special else token.content.encode()

    def bytes_of(self, token_id: int) -> bytes:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._look_up(token_id)
        return known

    def _look_up(self, token_id: int) -> bytes:
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:  # a row of the embedding that no token uses
            return b""
        if self.byte_level:
            return bytes(_ALPHABET[character] for character in token)
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes((int(match.group(1), 16),))
        text: str = token.replace("▁", " ")
        return text.encode()


class TextDecoder:
    """The text of a growing list of tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = not vocabulary.byte_level  # SentencePiece writes a space before the first word

    def feed(self, token_id: int) -> str:
        text = self._decoder.decode(self._vocabulary.bytes_of(token_id))
        if self._at_start and text:
            self._at_start = False
            text = text.removeprefix(" ")
        return text

    def flush(self) -> str:
        """What is left when no token follows: bytes of an unfinished character become U+FFFD."""
        return self._decoder.decode(b"", final=True)
