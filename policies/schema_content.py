"""What the policy file may say of what is in requests and answers: moderation, input, grounding, histories, and which prompts are stored."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from policies.moderation import Action
from policies.schema_values import Count, Name, Positive


class Moderation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is looked for in answers: categories (`pii`, `secrets`, `deny-list`) or single rules, and what is done with a match."""

    output: tuple[str, ...] = ()
    on_match: Action = "redact"
    deny_list: tuple[Name, ...] = ()
    per_rule: dict[str, Action] = {}


class TenantModeration(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What differs for one tenant; what is not given stays as the policy's."""

    output: tuple[str, ...] | None = None
    on_match: Action | None = None
    deny_list: tuple[Name, ...] | None = None
    per_rule: dict[str, Action] | None = None


class InputLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a request may hold at most, all its messages together. A request with a term of `deny_list` is refused."""

    max_characters: Positive = 400_000
    max_messages: Positive = 1_000
    max_input_tokens: Positive | None = None
    deny_list: tuple[Name, ...] = ()


class Grounding(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The vector stores that ground a request which names none, and how many passages it gets."""

    stores: tuple[Name, ...] = ()
    limit: Annotated[int, Meta(ge=1, le=50)] = 8


class History(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done with messages that do not fit the chosen backend's window, or `max_tokens`.

    `refuse` leaves the backend out. `trim` drops the oldest turns whole until at most `target_share` of the room is used; `summarise` puts a
    summary by the backend `summarise_with` in their place. The last `keep_last` messages, the last turn, and system and developer messages stay.
    """

    on_overflow: Literal["refuse", "trim", "summarise"] = "refuse"
    keep_last: Count = 6
    target_share: Annotated[float, Meta(gt=0, le=1)] = 0.7
    max_tokens: Positive | None = None
    summarise_with: str | None = None

    def __post_init__(self) -> None:
        if self.on_overflow == "summarise" and self.summarise_with is None:
            raise ValueError("on_overflow summarise needs summarise_with: the name of a backend")
        if self.on_overflow != "summarise" and self.summarise_with is not None:
            raise ValueError("summarise_with does nothing without on_overflow: summarise")
        if self.on_overflow == "refuse" and self.max_tokens is not None:
            raise ValueError("max_tokens does nothing without on_overflow: trim or summarise; input.max_input_tokens refuses")


class Prompts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether a tenant's prompts are stored, encrypted, for its own owners and admins; `redact` names what is taken out of them before.

    `redact` holds categories (`pii`, `secrets`, `deny-list`) and single rules, as `moderation.output` does.
    """

    store: bool = False
    retention_days: Positive = 30
    redact: tuple[str, ...] = ("pii", "secrets")
