"""A decoded request, in no dialect."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from adapters.backend import DataClass
from adapters.types import GenerateRequest
from policies.schema import TAG, Priority

Tag: TypeAlias = Annotated[str, Meta(pattern=TAG)]
"""A short name of the client's own, for rules to tell its requests apart."""


class Hints(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client may say to Headgate in `headgate: {...}`. Hints only narrow: they never lower a data class or lift a limit."""

    max_cost_usd: Annotated[float, Meta(ge=0)] | None = None
    data_class: DataClass | None = None
    cache: Literal["bypass"] | None = None
    explain: bool = False
    seed: int | None = None
    priority: Priority | None = None
    tags: Annotated[tuple[Tag, ...], Meta(max_length=16)] = ()
    reference: Annotated[str, Meta(min_length=1, max_length=20_000)] | None = None


class Call(Struct, frozen=True):
    """A decoded request: what to generate, and how the client wants it routed, grounded and delivered.

    `store` keeps the answer for later turns; `previous_response_id` and `conversation` name what was kept.
    `unread` are fields inside the body's objects that nobody reads, by their path.
    """

    request: GenerateRequest
    model: str
    stream: bool
    include_usage: bool
    hints: Hints
    stores: tuple[str, ...] = ()
    stores_param: str = "tools"
    search_limit: int | None = None
    store: bool = False
    previous_response_id: str | None = None
    conversation: str | None = None
    unread: tuple[str, ...] = ()
