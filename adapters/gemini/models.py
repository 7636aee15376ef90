"""What differs between Gemini's models, by their names. Pure."""

from __future__ import annotations

from msgspec import Struct

from adapters.types import JsonObject, Reasoning

_BUDGETS = {"minimal": 1_024, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 32_768, "max": 32_768}
"""Thinking tokens by OpenAI's word, as Google's own OpenAI-compatible endpoint has them; above `high`, the most a model takes."""

_LEVELS = {"none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "xhigh": "HIGH", "max": "HIGH"}

_FLASH_MOST = 24_576
_PRO_LEAST = 128

_WINDOW, _WIDEST_WINDOW = 1_048_576, 2_097_152


class Model(Struct, frozen=True):
    """A model's name and what follows from it.

    `signs`: it asks for the signatures of its tool calls, and a call without one is refused (Gemini 3 on). `fetches`: it takes files by address.
    `thinking`: by a level (3 on), by a budget of tokens (2.5), or not at all.
    """

    name: str
    signs: bool
    fetches: bool
    thinking: str

    @property
    def pro(self) -> bool:
        return "-pro" in self.name

    @property
    def window(self) -> int:
        """Tokens of the longest prompt it can take: 1.5 Pro's is twice the others'."""
        return _WIDEST_WINDOW if self.name.startswith("gemini-1.5-pro") else _WINDOW


def model_named(name: str) -> Model:
    name = name.removeprefix("models/")
    if not name.startswith("gemini-"):
        return Model(name, signs=False, fetches=False, thinking="none")
    old = name.startswith(("gemini-1", "gemini-2.0", "gemini-2-"))
    budgeted = name.startswith("gemini-2.5")
    silent = old or "-image" in name or "-tts" in name
    return Model(name, signs=not (old or budgeted), fetches=not old, thinking="none" if silent else "budget" if budgeted else "level")


def thinking_config(model: Model, wanted: Reasoning | None) -> tuple[JsonObject, bool]:
    """`thinkingConfig` for what the request asks for, and whether that is all of it (otherwise `reasoning` is named as ignored)."""
    if wanted is None:
        return {}, True
    off = wanted.enabled is False or wanted.effort == "none"
    if model.thinking == "none":
        return {}, off
    config: JsonObject = {"includeThoughts": True} if wanted.summary not in (None, "none", "omitted") and not off else {}
    if off:
        return _off(model)
    if wanted.budget_tokens is not None:
        config["thinkingBudget"] = wanted.budget_tokens
        return config, True
    if wanted.effort is None:
        if model.thinking == "budget" and (wanted.adaptive or wanted.enabled):
            config["thinkingBudget"] = -1  # the model decides; Gemini 3 always does
        return config, True
    if model.thinking == "budget":
        budget = _BUDGETS.get(wanted.effort)
        if budget is None:
            return config, False
        config["thinkingBudget"] = budget if model.pro else min(budget, _FLASH_MOST)
        return config, True
    level = _LEVELS.get(wanted.effort)
    if level is None:
        return config, False
    exact = wanted.effort not in ("xhigh", "max")
    if level == "MINIMAL" and model.pro:
        level, exact = "LOW", False
    config["thinkingLevel"] = level
    return config, exact


def _off(model: Model) -> tuple[JsonObject, bool]:
    """The least thinking: none where the model can do without."""
    if model.thinking == "level":
        return {"thinkingLevel": "LOW" if model.pro else "MINIMAL"}, False
    return ({"thinkingBudget": _PRO_LEAST}, False) if model.pro else ({"thinkingBudget": 0}, True)
