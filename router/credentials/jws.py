"""A compact JWS taken apart, before anything in it is believed: its form is strict where libraries are lenient."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import Any

from msgspec import Struct

LONGEST_KID = 256
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})


class BadToken(ValueError):
    """The token is refused; the message is for the log and repeats nothing of it."""


class Jws(Struct, frozen=True):
    """What a token says of itself. `claims` are not verified."""

    algorithm: str
    kid: str | None
    claims: dict[str, Any]


def looks_like_token(text: str) -> bool:
    """Whether this is meant as a JWS or JWE (dots, and a JSON object in front), and not as one of our keys."""
    head, dot, rest = text.partition(".")
    if not dot or "." not in rest or text.startswith("hg-"):
        return False
    try:
        return _bytes(head).lstrip(b" \t\r\n").startswith(b"{")
    except BadToken:
        return False


def read_jws(token: str) -> Jws:
    """Raises `BadToken` for anything but a compact JWS: three parts of canonical base64url, two JSON objects without repeated members, no `crit`.

    Members that would bring a key or an address along (`jwk`, `jku`, `x5u`, `x5c`) are read by nobody, here or later; a token with one is refused.
    """
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise BadToken("it has not three parts")
    header, claims = _object(_bytes(parts[0])), _object(_bytes(parts[1]))
    _bytes(parts[2])
    if foreign := {"crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"} & header.keys():
        raise BadToken(f"its header has {', '.join(sorted(foreign))}")
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str):
        raise BadToken("its header names no algorithm")
    if kid is not None and (not isinstance(kid, str) or len(kid) > LONGEST_KID):
        raise BadToken("its key id is no short text")
    if not isinstance(kind, str) or kind.lower() not in _TYPES or "cty" in header:
        raise BadToken("it is another kind of token")
    for name in ("exp", "iat", "nbf"):
        if name in claims and not _is_time(claims[name]):
            raise BadToken(f"its {name} is no time")
    return Jws(algorithm, kid, claims)


def _bytes(segment: str) -> bytes:
    if not _SEGMENT.fullmatch(segment):
        raise BadToken("it is not base64url")
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except (binascii.Error, ValueError) as error:
        raise BadToken("it is not base64url") from error
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != segment:  # the same bytes in another spelling
        raise BadToken("it is not canonical base64url")
    return decoded


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_no_constant)
    except BadToken:
        raise
    except (ValueError, RecursionError) as error:
        raise BadToken("it holds no JSON") from error
    if not isinstance(value, dict):
        raise BadToken("it holds no JSON object")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers of a repeated member may believe different ones."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadToken("a member comes twice")
    return members


def _no_constant(_name: str) -> None:
    raise BadToken("it holds a number that is none")


def _is_time(value: object) -> bool:
    """Seconds since the epoch, up to the year 9999."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value < 253_402_300_800
