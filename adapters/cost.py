"""Money: integer picodollars (1 USD = 10**12), so that sums are exact and a cost never depends on the order of additions.

A price in USD per million tokens with up to six decimals is a whole number of picodollars per token; a finer one is rounded up.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import NamedTuple

from adapters.types import Usage
from config.prices import Price

PICODOLLARS = 10**12
"""Picodollars in a US dollar."""


class Rates(NamedTuple):
    """Picodollars per token, for inputs longer than `above` tokens."""

    above: int
    input: int
    cache_read: int
    cache_write: int
    output: int

    @property
    def dearest_input(self) -> int:
        return max(self.input, self.cache_read, self.cache_write)


def cost(usage: Usage, price: Price, milliseconds: int = 0) -> int:
    """What the usage costs, in picodollars, and the time of this machine that it took, where that has a price.

    Input neither read from nor written to a cache is billed at the input rate; the length of the whole input chooses the tier. Spoken tokens are
    billed at the rates of audio, where the price has some.
    """
    rates = next(tier for tier in reversed(_tiers(price)) if usage.input_tokens > tier.above)
    read, written = usage.cache_read_input_tokens, usage.cache_creation_input_tokens
    uncached = max(usage.input_tokens - read - written, 0)
    text = uncached * rates.input + read * rates.cache_read + written * rates.cache_write + usage.output_tokens * rates.output
    return text + _more_for_audio(usage, price, rates, uncached) + _request_fee(price) + time_cost(price, milliseconds)


def time_cost(price: Price, milliseconds: int) -> int:
    """What so much time of this machine costs, in picodollars, rounded up."""
    return -(-picodollars(price.second) * milliseconds // 1000) if price.second else 0


def _more_for_audio(usage: Usage, price: Price, rates: Rates, uncached: int) -> int:
    """What spoken tokens cost more (or less) than as many of text."""
    more = 0
    if price.audio_input is not None:
        fresh_rate, cached_rate = _audio_input(price)
        cached = min(usage.audio_cache_read_input_tokens, usage.audio_input_tokens, usage.cache_read_input_tokens)
        fresh = min(usage.audio_input_tokens - cached, uncached)
        more += fresh * (fresh_rate - rates.input) + cached * (cached_rate - rates.cache_read)
    if price.audio_output is not None:
        more += min(usage.audio_output_tokens, usage.output_tokens) * (_per_token(price.audio_output) - rates.output)
    return more


def _audio_input(price: Price) -> tuple[int, int]:
    """Picodollars for a spoken token that is read, and for one that was cached."""
    fresh = 0.0 if price.audio_input is None else price.audio_input
    return _per_token(fresh), _per_token(fresh if price.audio_cache_read is None else price.audio_cache_read)


def upper_bound(input_tokens: int, output_tokens: int, price: Price, *, spoken: bool = False, milliseconds: int = 0) -> int:
    """The most that a usage of at most so many input and output tokens can cost, in picodollars. `spoken`: some of them may be audio.

    `milliseconds` is the longest that it may run on this machine.

    Guarantee: never below `cost` of such a usage, whatever part of its input was read from or written to a cache, and whichever tier it falls in.
    """
    tiers = _tiers(price)
    ends = [tier.above for tier in tiers[1:]] + [input_tokens]
    reachable = [(tier, min(input_tokens, end)) for tier, end in zip(tiers, ends, strict=True) if input_tokens > tier.above]
    heard, said = (max(_audio_input(price)), _per_token(price.audio_output or 0.0)) if spoken else (0, 0)
    return (
        max(max(tier.dearest_input, heard) * most + max(tier.output, said) * output_tokens for tier, most in reachable)
        + _request_fee(price)
        + time_cost(price, milliseconds)
    )


@lru_cache(maxsize=1024)
def _tiers(price: Price) -> tuple[Rates, ...]:
    """The base rates (above -1: they hold for an empty input too), then the tiers by length."""
    base = _rates(-1, price.input, price.output, price.cache_read, price.cache_write)
    tiers = [_rates(tier.above, tier.input, tier.output, tier.cache_read, tier.cache_write) for tier in price.tiers]
    return (base, *sorted(tiers))


def _rates(above: int, input_rate: float, output: float, cache_read: float | None, cache_write: float | None) -> Rates:
    return Rates(
        above,
        _per_token(input_rate),
        _per_token(input_rate if cache_read is None else cache_read),
        _per_token(input_rate if cache_write is None else cache_write),
        _per_token(output),
    )


def _per_token(usd_per_million: float) -> int:
    return int((Decimal(str(usd_per_million)) * (PICODOLLARS // 10**6)).to_integral_value(ROUND_CEILING))


@lru_cache(maxsize=1024)
def _request_fee(price: Price) -> int:
    return picodollars(price.request)


def picodollars(usd: float | str | Decimal) -> int:
    """US dollars as picodollars. A float is read as the decimal it prints as (0.1 is a tenth); what is finer than a picodollar is rounded up."""
    return int((Decimal(str(usd)) * PICODOLLARS).to_integral_value(ROUND_CEILING))


def usd(pico: int) -> str:
    """The exact amount in US dollars, as a plain decimal string: `usd(2_500_000) == "0.0000025"`."""
    whole, rest = divmod(abs(pico), PICODOLLARS)
    digits = f"{rest:012d}".rstrip("0")
    return f"{'-' if pico < 0 else ''}{whole}{'.' + digits if digits else ''}"


def usd_float(pico: int) -> float:
    """The amount in US dollars as the nearest float, for JSON; reckon with picodollars."""
    return pico / PICODOLLARS
