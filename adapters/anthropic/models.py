"""What each generation of Anthropic's models can do, read from a model's name. Pure, one table.

Sources: platform.claude.com/docs (models overview, structured outputs, adaptive thinking, effort, the migration guides up to Opus 5.5). A model
of another name (a proxy's alias) counts as unknown: what it is sent is what the oldest and the newest understand alike.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, TypeAlias

from msgspec import Struct

Off: TypeAlias = Literal["omit", "disabled", "between_tools", "never"]
"""How thinking is switched off: by saying nothing, by `disabled`, by the least that there is, or not at all."""

_NAME = re.compile(
    r"claude-(?:(?P<family>opus|sonnet|haiku|fable|mythos)-(?P<major>\d{1,2})(?!\d)(?:[-.](?P<minor>\d{1,2})(?!\d))?"
    r"|(?P<old_major>\d)(?:[-.](?P<old_minor>\d)(?!\d))?-(?P<old_family>opus|sonnet|haiku))"
)

SMALL_WINDOW, LARGE_WINDOW = 200_000, 1_000_000


class Traits(Struct, frozen=True, kw_only=True):
    """`sampling`: takes temperature, top_p and top_k; `both_samplers`: temperature and top_p together. `budgets`: takes a budget for thinking.

    `efforts` are the words that `output_config.effort` takes. `prefill`: continues a text that the last message began. `inline_system`: takes
    system messages between turns. `window`: the longest prompt, in tokens.
    """

    known: bool = False
    structured: bool = False
    sampling: bool = True
    both_samplers: bool = True
    budgets: bool = True
    adaptive: bool = False
    thinks_unasked: bool = False
    off: Off = "omit"
    efforts: tuple[str, ...] = ()
    prefill: bool = True
    inline_system: bool = False
    window: int = LARGE_WINDOW


UNKNOWN = Traits()


@lru_cache(maxsize=256)
def traits_of(model: str) -> Traits:
    """The traits of a model, whatever stands before or behind its name (a region, a date)."""
    found = _NAME.search(model.lower())
    if found is None:
        return UNKNOWN
    family = found["family"] or found["old_family"]
    version = (int(found["major"] or found["old_major"]), int(found["minor"] or found["old_minor"] or 0))
    return Traits(
        known=True,
        structured=version >= (4, 5) or (family, version) == ("opus", (4, 1)),
        sampling=version < (4, 7),
        both_samplers=version < (4, 1),
        budgets=(3, 7) <= version < (4, 7),
        adaptive=version >= (4, 6),
        thinks_unasked=version >= (5, 0),
        off=_off(family, version),
        efforts=_efforts(family, version),
        prefill=version < (4, 6),
        inline_system=version >= (4, 8),
        window=LARGE_WINDOW if version >= (4, 6) else SMALL_WINDOW,
    )


def _off(family: str, version: tuple[int, int]) -> Off:
    if version < (5, 0):
        return "omit"
    if family in ("fable", "mythos") or (family == "opus" and version >= (5, 5)):
        return "never"
    return "between_tools" if family == "sonnet" and version >= (5, 5) else "disabled"


def _efforts(family: str, version: tuple[int, int]) -> tuple[str, ...]:
    if version >= (4, 7):
        return ("low", "medium", "high", "xhigh", "max")
    if version >= (4, 6):
        return ("low", "medium", "high", "max")
    return ("low", "medium", "high") if (family, version) == ("opus", (4, 5)) else ()
