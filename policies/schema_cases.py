"""What a policy's own tests may say."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from adapters.backend import DataClass
from policies.access import Role
from policies.schema_values import Count, ErrorClass, Language, Moment, Name, Need, Outcome, Share, Task, Usd


class Given(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The request of a case. `unavailable` names backends that are down; every other one is ready and can do everything its kind can.

    `at` is a moment in UTC (`2026-11-30T09:30`; without one, noon of a Monday), `after` the classes of the errors that came before, one after the
    other: `candidates` are then what is tried next. `cost_usd`, `latency_ms`, `queue` and `wait_s` are of the backends that they name.
    """

    tenant: str = "default"
    role: Role = "member"
    key: str = ""
    user: str = ""
    conversation: str = ""
    tags: tuple[Name, ...] = ()
    data_class: DataClass | None = None
    task: Task = "chat"
    language: Language | None = None
    model: str = "auto"
    needs: tuple[Need, ...] = ()
    grounded: bool = False
    top_score: Share | None = None
    hits: Count | None = None
    context_tokens: Count = 0
    input_tokens: Count = 100
    output_tokens: Count | None = None
    turns: Count = 1
    complexity: Share | None = None
    budget_left: Share | None = None
    at: Moment | None = None
    seed: str = ""
    unavailable: tuple[str, ...] = ()
    over_budget: tuple[str, ...] = ()
    cost_usd: dict[str, Usd] = {}
    latency_ms: dict[str, Annotated[float, Meta(ge=0)]] = {}
    queue: dict[str, Count] = {}
    wait_s: dict[str, Annotated[float, Meta(ge=0)]] = {}
    after: tuple[ErrorClass, ...] = ()


class Expect(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must come out. `backend` is the first candidate, `candidates` all of them in order, `error` the refusal's code."""

    backend: str | None = None
    candidates: tuple[str, ...] | None = None
    rule: str | None = None
    error: Outcome | None = None
    never: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.backend or self.candidates is not None or self.rule or self.error or self.never):
            raise ValueError("a case must expect something: backend, candidates, rule, error or never")


class Case(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of the policy's own tests."""

    given: Given
    expect: Expect
    name: str | None = None
