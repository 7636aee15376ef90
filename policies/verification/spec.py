"""The `cascade` table of a policy: whose answers are looked at, by which signals, and which backend answers in place of one that will not do."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta, Struct

Signal: TypeAlias = Literal["logprob", "length", "hedging", "refusal", "citations", "format", "agreement"]
Name: TypeAlias = Annotated[str, Meta(min_length=1)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Logprob: TypeAlias = Annotated[float, Meta(le=0)]

SIGNALS: tuple[Signal, ...] = get_args(Signal)
PARTIAL: frozenset[Signal] = frozenset({"logprob", "hedging", "refusal", "format"})
"""Signals that say something about the beginning of an answer. Of `format` it is the language alone."""


class FirstTokens(Struct, frozen=True, forbid_unknown_fields=True):
    """Only so many tokens of a streamed answer are looked at before it is passed on."""

    first_tokens: Annotated[int, Meta(ge=1, le=100_000)]


class Cascade(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An answer of a backend in `on` is verified before anybody sees it; where it fails, a stronger backend answers in its place, once.

    The stronger one is the first in `to` that is permitted and ready; without `to` it is `complexity.strong`, and without that the decision's next
    candidate. With `max_escalations: 0` answers are looked at as they pass, and nothing is held or escalated. Log probabilities are natural
    logarithms.
    """

    on: Annotated[tuple[Name, ...], Meta(min_length=1)]
    to: Name | tuple[Name, ...] | None = None
    verify: Annotated[tuple[Signal, ...], Meta(min_length=1)] = ("refusal", "length", "format", "citations", "logprob", "hedging")
    max_escalations: Annotated[int, Meta(ge=0, le=1)] = 1
    stream: Literal["whole"] | FirstTokens = "whole"
    min_mean_logprob: Logprob = -0.8
    min_token_logprob: Logprob | None = None
    min_characters: Annotated[int, Meta(ge=0)] = 1
    max_characters: Annotated[int, Meta(ge=1)] | None = None
    max_hedges: Annotated[int, Meta(ge=0)] = 0
    min_citations: Share = 0.5
    min_agreement: Share = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.stream, FirstTokens) and not PARTIAL & set(self.verify):
            raise ValueError(f"stream: {{first_tokens: …}} needs a signal that the first tokens show ({', '.join(sorted(PARTIAL))}); or stream: whole")
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(f"min_characters ({self.min_characters}) is more than max_characters ({self.max_characters}): every answer would fail")

    @property
    def stronger(self) -> tuple[str, ...]:
        """The backends in `to`."""
        return (self.to,) if isinstance(self.to, str) else self.to or ()
