"""What providers say in headers of their rate limits: OpenAI's names (also those of servers that speak its dialect) and Anthropic's.

Google sends none with an answer; its refusals say how long to wait, which `adapters.faults` reads.
Sources: platform.openai.com/docs/guides/rate-limits, docs.anthropic.com/en/api/rate-limits.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import datetime

from adapters.types import RateLimit

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|d|h|m|s)")
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def rate_limit(headers: Mapping[str, str], now: float | None = None) -> RateLimit | None:
    """The limits an answer's headers tell (names in lower case), None where they tell none. `now` is `time.time()`.

    Anthropic's token figures are those of the limit that is nearest to its end, as it says itself.
    """
    if not any("ratelimit" in name for name in headers):
        return None
    at = time.time() if now is None else now
    found = RateLimit(
        requests_limit=_count(headers, "x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit"),
        requests_remaining=_count(headers, "x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining"),
        requests_reset_s=_reset(headers, "x-ratelimit-reset-requests", "anthropic-ratelimit-requests-reset", at),
        tokens_limit=_count(headers, "x-ratelimit-limit-tokens", "anthropic-ratelimit-tokens-limit"),
        tokens_remaining=_count(headers, "x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-remaining"),
        tokens_reset_s=_reset(headers, "x-ratelimit-reset-tokens", "anthropic-ratelimit-tokens-reset", at),
    )
    return None if found == RateLimit() else found


def _count(headers: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        value = headers.get(name, "").strip()
        if value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
    return None


def _reset(headers: Mapping[str, str], duration: str, moment: str, now: float) -> float | None:
    """Seconds: OpenAI says a duration (`6m0s`, `120ms`; others plain seconds), Anthropic a time in RFC 3339."""
    if (value := headers.get(duration)) is not None:
        return _seconds(value.strip())
    if (value := headers.get(moment)) is None:
        return None
    try:
        return max(0.0, datetime.fromisoformat(value.strip()).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _seconds(text: str) -> float | None:
    pieces = _DURATION.findall(text)
    if pieces and "".join(number + unit for number, unit in pieces) == text:
        return sum(float(number) * _SECONDS[unit] for number, unit in pieces)
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
