"""How much to think, and how to sample, in Anthropic's words. Pure.

A budget is part of `max_tokens`, so what is reserved for a request's output holds for its thoughts too.
"""

from __future__ import annotations

from msgspec import Struct

from adapters.anthropic.models import Traits
from adapters.types import GenerateRequest, JsonObject, Reasoning

LEAST_BUDGET = 1_024
"""The API takes no smaller one."""

BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 32_768, "max": 65_536}
"""Tokens for an effort, at models that are given a budget. At least a quarter of the output limit is left to the answer."""

EFFORTS = ("low", "medium", "high", "xhigh", "max")


class Thinking(Struct, frozen=True):
    """`thinking` and `effort` as they are sent, if at all; `on` says whether the model will think, `budgeted` that it has a budget to do so."""

    thinking: JsonObject | None = None
    effort: str | None = None
    on: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def budgeted(self) -> bool:
        return self.thinking is not None and self.thinking["type"] == "enabled"


def thinking_of(request: GenerateRequest, traits: Traits, limit: int) -> Thinking:
    """What a request's `reasoning` becomes where answers have at most `limit` tokens."""
    asked = request.reasoning
    if asked is None:
        return Thinking(on=traits.thinks_unasked)
    native = request.dialect == "anthropic.messages"
    if native and "thinking" in asked.extra:  # a mode of tomorrow, as it came
        return Thinking(asked.extra["thinking"], _effort(asked.effort, traits), on=True)
    if asked.enabled is False or asked.effort == "none" or asked.budget_tokens == 0:
        return _off(asked, traits, native)
    said = asked.enabled or asked.adaptive or asked.budget_tokens is not None
    if native and not said:
        return _with_effort(None, asked, traits, on=traits.thinks_unasked)
    if asked.effort is None and not said:
        return Thinking(on=traits.thinks_unasked)
    shown = _display(asked, native)
    if traits.adaptive and (asked.adaptive or not traits.budgets or asked.budget_tokens is None):
        effort = asked.effort or (None if asked.adaptive or asked.budget_tokens is None else _effort_of(asked.budget_tokens))
        return _with_effort({"type": "adaptive", **shown}, Reasoning(effort=effort), traits, on=True)
    if not traits.budgets:
        return Thinking(ignored=("reasoning",))
    budget = _budget(asked, limit)
    if budget is None:
        return Thinking(ignored=("reasoning",))
    lowered = ("reasoning",) if asked.budget_tokens is not None and budget < asked.budget_tokens else ()
    return Thinking({"type": "enabled", "budget_tokens": budget, **shown}, _effort(asked.effort, traits) if native else None, True, lowered)


def without(thinking: Thinking, traits: Traits) -> Thinking:
    """The same request without a budget for thinking, said to be ignored."""
    return Thinking(None, thinking.effort, traits.thinks_unasked, (*thinking.ignored, "reasoning"))


def _off(asked: Reasoning, traits: Traits, native: bool) -> Thinking:
    effort = None if asked.effort == "none" else _effort(asked.effort, traits)
    if native and asked.enabled is False and not traits.known:
        return Thinking({"type": "disabled"}, effort)
    match traits.off:
        case "omit":
            return Thinking({"type": "disabled"} if native and asked.enabled is False and traits.budgets else None, effort)
        case "disabled" | "between_tools":
            return Thinking({"type": traits.off}, effort)
        case "never":
            return Thinking(None, effort or "low", True, ("reasoning",))


def _with_effort(thinking: JsonObject | None, asked: Reasoning, traits: Traits, *, on: bool) -> Thinking:
    effort = _effort(asked.effort, traits)
    return Thinking(thinking, effort, on, ("reasoning",) if asked.effort is not None and effort is None else ())


def _effort(wanted: str | None, traits: Traits) -> str | None:
    """The word itself where the model knows it or is not known; else the nearest lower one; None where there is none."""
    if wanted is None or not traits.known:
        return wanted
    if wanted == "minimal":
        wanted = "low"
    if wanted not in EFFORTS:
        return None
    lower = EFFORTS[: EFFORTS.index(wanted) + 1]
    return next((word for word in reversed(lower) if word in traits.efforts), None)


def _effort_of(budget: int) -> str:
    return "low" if budget <= BUDGETS["low"] else "medium" if budget <= BUDGETS["medium"] else "high"


def _budget(asked: Reasoning, limit: int) -> int | None:
    """A budget that fits below the output limit, or None where none does."""
    if asked.budget_tokens is not None:
        budget = min(max(asked.budget_tokens, LEAST_BUDGET), limit - 1)
    else:
        budget = min(BUDGETS.get(asked.effort or "medium", BUDGETS["medium"]), limit - limit // 4)
    return budget if budget >= LEAST_BUDGET else None


def _display(asked: Reasoning, native: bool) -> JsonObject:
    if native:
        return {"display": asked.extra["display"]} if "display" in asked.extra else {}
    return {"display": "summarized"} if asked.summary else {}


class Sampling(Struct, frozen=True):
    fields: JsonObject = {}
    ignored: tuple[str, ...] = ()


def sampling_of(request: GenerateRequest, traits: Traits, *, thinking: bool) -> Sampling:
    """Temperature, top_p and top_k as far as the model takes them; the rest is ignored by name.

    Models from 4.7 on take none; before that, temperature ends at 1, from 4.1 on it excludes top_p, and thinking leaves only a top_p from 0.95.
    """
    fields: JsonObject = {}
    ignored: list[str] = []
    temperature, top_p, top_k = request.temperature, request.top_p, request.top_k
    if temperature is not None:
        if not traits.sampling or (thinking and temperature != 1):
            ignored.append("temperature")
        elif not thinking:
            fields["temperature"] = min(temperature, 1.0)
            if temperature > 1:
                ignored.append("temperature")
    if top_p is not None:
        excluded = "temperature" in fields and not traits.both_samplers
        if not traits.sampling or excluded or (thinking and top_p < 0.95):
            ignored.append("top_p")
        else:
            fields["top_p"] = top_p
    if top_k is not None:
        if not traits.sampling or thinking:
            ignored.append("top_k")
        else:
            fields["top_k"] = top_k
    return Sampling(fields, tuple(ignored))
