"""Limits in HTTP: the headers that say how they stand, in the words of the path's dialect, and the limit of addresses without a key."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from litestar.types import Scope

from router.http.errors import ApiError
from router.limits.refusals import Limited, Standing, Standings
from router.wire.anthropic_errors import speaks_anthropic

if TYPE_CHECKING:
    from router.gateway import Gateway

PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-")
WRONG = (400, 401, 403)
"""No credential, more than one, a bad one, and a genuine one that opens nothing here."""


def limit_headers(standings: Standings | None, *, anthropic: bool = False) -> list[tuple[bytes, bytes]]:
    """How the narrowest limits stand; none where nothing is limited."""
    if standings is None:
        return []
    named = ((b"requests", standings.requests), (b"tokens", standings.tokens))
    return [header for name, standing in named if standing is not None for header in (_anthropic if anthropic else _openai)(name, standing)]


def _openai(name: bytes, standing: Standing) -> Iterator[tuple[bytes, bytes]]:
    yield b"x-ratelimit-limit-" + name, b"%d" % standing.limit
    yield b"x-ratelimit-remaining-" + name, b"%d" % standing.remaining
    yield b"x-ratelimit-reset-" + name, duration(standing.reset_s).encode()


def _anthropic(name: bytes, standing: Standing) -> Iterator[tuple[bytes, bytes]]:
    start = b"anthropic-ratelimit-" + name
    yield start + b"-limit", b"%d" % standing.limit
    yield start + b"-remaining", b"%d" % standing.remaining
    whole = datetime.fromtimestamp(math.ceil(time.time() + standing.reset_s), UTC)
    yield start + b"-reset", f"{whole:%Y-%m-%dT%H:%M:%SZ}".encode()


def duration(seconds: float) -> str:
    """As OpenAI writes one: `0s`, `120ms`, `1.5s`, `6m0s`, `1h2m3s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    if seconds < 60:
        return f"{math.ceil(seconds * 100) / 100:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def text_headers(standings: Standings | None) -> dict[str, str]:
    """OpenAI's headers, for a response that takes text."""
    return {name.decode(): value.decode() for name, value in limit_headers(standings)}


async def refused_at_the_door(gateway: Gateway, scope: Scope, error: ApiError) -> ApiError:
    """What a request without a valid credential is answered: the error, or 429 once its address has had too many of them."""
    if error.status not in WRONG:
        return error
    try:
        await gateway.limits.address(gateway.policy.current.policy.file, gateway.door.address(scope))
    except Limited as limited:
        anthropic = speaks_anthropic(scope["path"])
        limited.headers.update((name.decode(), value.decode()) for name, value in limit_headers(limited.standings, anthropic=anthropic))
        return limited
    except ApiError as away:
        return away
    return error
