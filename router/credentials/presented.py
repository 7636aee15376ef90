"""The one credential that a request presents, from its headers."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 8192
"""Characters of a key or token. Identity providers' tokens with many groups come near to it."""


class Malformed(ValueError):
    """What was sent is no single well-formed credential. It is not said what is wrong with it: who sends it can see that, and others need not learn it."""


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key or token as sent, in `Authorization: Bearer` or in `x-api-key`; None for none.

    An `Authorization` of another scheme is none of ours (a proxy's own, perhaps). Both headers may say the same. Raises `Malformed` for a header
    that comes twice, for two different credentials, and for one that is too long or has other characters than printable ASCII without spaces.
    """
    key = authorization = None
    for name, value in headers:
        if name == b"x-api-key":
            if key is not None:
                raise Malformed
            key = value.strip(b" \t")
        elif name == b"authorization":
            if authorization is not None:
                raise Malformed
            authorization = value
    token = _bearer(authorization) if authorization is not None else None
    if key and token and key != token:
        raise Malformed
    shown = key or token
    if not shown:
        return None
    if len(shown) > LONGEST or not all(0x21 <= byte <= 0x7E for byte in shown):
        raise Malformed
    return shown.decode("ascii")


def _bearer(value: bytes) -> bytes | None:
    scheme, _, token = value.strip(b" \t").partition(b" ")
    return token.strip(b" \t") if scheme.lower() == b"bearer" else None
