"""The rates of the price book: what a million tokens of a model cost, in US dollars."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Rate: TypeAlias = Annotated[float, Meta(ge=0, le=1_000_000)]
"""US dollars: none is negative, and none is dearer than a dollar a token."""


class PriceTier(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rates that replace the base rates once the input is longer than `above` tokens (the whole request is billed at them). Audio's do not change."""

    above: Annotated[int, Meta(ge=0)]
    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write: Rate | None = None


class Price(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """USD per million tokens. `cache_read` and `cache_write` default to the `input` rate; `request` is USD per call.

    `audio_input` and `audio_output` are those of spoken tokens, where they are not those of text; `audio_cache_read` (default: `audio_input`) of
    spoken input that was cached. `second` is USD per second that an attempt runs on this machine: what its GPU costs, not what a provider charges.
    """

    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    request: Rate = 0.0
    second: Rate = 0.0
    audio_input: Rate | None = None
    audio_output: Rate | None = None
    audio_cache_read: Rate | None = None
    tiers: tuple[PriceTier, ...] = ()


FREE = Price(input=0.0, output=0.0)
"""The known price of what costs nothing by the token: work done on the service's own machine."""
