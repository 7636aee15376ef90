"""Opaque parts of an answer, sealed for the way through a client and back.

A provider's reasoning must come back to it unchanged in the next turn, and in dialects that have no place for it. It may also hold what
moderation took out of the answer. So a client gets it as a token that only this service can open, for the same tenant only: AES-256-GCM with
a key derived (HKDF-SHA256) from the service's secret, the tenant as associated data.

What the service itself keeps of prompts and answers (`keep`, `kept`) is encrypted likewise, with a key of its own and bound to its place.
"""

from __future__ import annotations

import base64
import binascii
import os
import zlib

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from adapters.types import ProviderPart

PREFIX = "hgs1."
"""How a sealed token begins; no provider's own signature does."""

LONGEST = 16 * 2**20
"""Bytes of an opened part: a token that would become larger is none of ours."""


class Sealer:
    """Makes the seals of tenants. Every worker and replica with the same secret opens what another sealed."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = _cipher(secret, b"headgate sealed parts v1")
        self._kept = _cipher(secret, b"headgate kept content v1")

    def of(self, tenant: str) -> Seal:
        return Seal(self._cipher, self._kept, tenant)


def _cipher(secret: bytes, purpose: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret))


class Seal:
    """Seals and opens for one tenant."""

    def __init__(self, cipher: AESGCM, kept: AESGCM, tenant: str) -> None:
        self._cipher = cipher
        self._kept = kept
        self._tenant = tenant.encode()

    def close(self, *parts: ProviderPart) -> str:
        """A token of printable ASCII for some parts."""
        nonce = os.urandom(12)
        packed = zlib.compress(msgspec.json.encode(parts))  # a provider's JSON: numbers may be larger than MessagePack has
        return PREFIX + base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, packed, self._tenant)).decode().rstrip("=")

    def open(self, token: str) -> tuple[ProviderPart, ...] | None:
        """The parts of a token sealed for this tenant, whatever was made of other text: None."""
        if not token.startswith(PREFIX):
            return None
        try:
            sealed = base64.urlsafe_b64decode(token[len(PREFIX) :] + "===")
            packed = self._cipher.decrypt(sealed[:12], sealed[12:], self._tenant)
            return msgspec.json.decode(_unpacked(packed), type=tuple[ProviderPart, ...])
        except (InvalidTag, ValueError, binascii.Error, zlib.error, msgspec.MsgspecError):
            return None

    def keep(self, content: bytes, place: str) -> bytes:
        """Content for the database. `place` says whose row it is: moved to another, it does not open."""
        nonce = os.urandom(12)
        return nonce + self._kept.encrypt(nonce, content, self._bound(place))

    def kept(self, sealed: bytes, place: str) -> bytes | None:
        """What `keep` was given for the same place; None for anything else (another tenant's, or of another secret)."""
        try:
            return self._kept.decrypt(sealed[:12], sealed[12:], self._bound(place))
        except (InvalidTag, ValueError):
            return None

    def _bound(self, place: str) -> bytes:
        return self._tenant + b"\0" + place.encode()


def _unpacked(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    opened = stream.decompress(packed, LONGEST)
    if stream.unconsumed_tail:
        raise ValueError("too large")
    return opened
