"""Output moderation: an exact, incremental matcher that holds back no more than it must. Pure: no I/O, no clock, no globals that change.

`compile_rules` once, then one `Moderator` per text stream; `moderate` and `find` for whole texts; an `ArgumentsModerator` per tool
call. What is found and what is guaranteed: `scan` and `stream`.
"""

from policies.moderation.arguments import ArgumentsModerator
from policies.moderation.errors import RuleError
from policies.moderation.rules import Action
from policies.moderation.ruleset import RuleSet, compile_rules
from policies.moderation.scan import Match, find
from policies.moderation.stream import Moderator, Released, moderate

__all__ = ["Action", "ArgumentsModerator", "Match", "Moderator", "Released", "RuleError", "RuleSet", "compile_rules", "find", "moderate"]
