"""Moderating a provider's own item: what a client may see of it.

An item repeats the model's words in a shape of the provider's: thoughts, code and what it printed, pages that a search found. Every readable string,
number and key of it passes the rules, by itself and joined with its neighbours of the same list, so that a text that the provider cut in pieces
is judged whole. The item itself stays as it is: it goes back to its provider sealed.
"""

from __future__ import annotations

from itertools import groupby
from typing import TypeAlias

from msgspec import Struct

from adapters.opaque import Leaf, leaves, rebuilt
from adapters.types import JsonObject
from policies.moderation import ArgumentsModerator, Match, Moderator, RuleSet

Family: TypeAlias = tuple[str, ...]
"""A place in an item's shape, whichever element of a list it is in."""

REMEMBERED = 2_048
"""Characters of an earlier item's text: more than any rule's match needs to be known by what follows."""


class ModeratedItem(Struct, frozen=True):
    """`shown` is None where all of the item may be seen. The matches' offsets are those of the strings they stand in."""

    shown: JsonObject | None
    matches: tuple[Match, ...]
    blocked: bool


def moderate_item(rules: RuleSet, item: JsonObject, before: dict[Family, str] | None = None) -> ModeratedItem:
    """The item as a client may see it. Blocked: nothing of it may be seen.

    `before` is how the earlier items of the answer ended, where they are of the same kind: what began there and goes on here is taken out here. The item
    is added to it.
    """
    found = leaves(item)
    earlier = {} if before is None else before
    matches: list[Match] = []
    strings = [leaf for leaf in found if leaf.is_string]
    for _, group in groupby(sorted(strings, key=_family), key=_family):
        pieces = list(group)
        family = _family(pieces[0])
        if ending := earlier.get(family):
            pieces.insert(0, Leaf((), ending))
        earlier[family] = "".join(piece.was for piece in pieces)[-REMEMBERED:]
        if len(pieces) > 1 and not _join(rules, pieces, matches):
            return ModeratedItem(None, tuple(matches), True)
    for leaf in found:
        text, blocked = _judged(rules, leaf.text, matches)
        if blocked:
            return ModeratedItem(None, tuple(matches), True)
        leaf.text = text
    changed = any(leaf.text != leaf.was for leaf in found)
    return ModeratedItem(rebuilt(item, found) if changed else None, tuple(matches), False)


def _judged(rules: RuleSet, text: str, matches: list[Match]) -> tuple[str, bool]:
    """One string. What may be JSON text (a call's arguments) is judged by what its escapes stand for, as arguments are elsewhere."""
    moderator = ArgumentsModerator(rules) if text.lstrip().startswith(("{", "[", '"')) else Moderator(rules)
    first, last = moderator.feed(text), moderator.finish()
    matches += [*first.matches, *last.matches]
    return first.text + last.text, last.blocked


def _family(leaf: Leaf) -> Family:
    """The same for the strings of one list, whatever objects they stand in there. (Keys are families of their own.)"""
    return tuple("" if isinstance(step, int) and step >= 0 else str(step) for step in leaf.path)


def _join(rules: RuleSet, pieces: list[Leaf], matches: list[Match]) -> bool:
    """Take out of the pieces what matches across their seams; what lies inside one is found there again. False where the whole is blocked."""
    moderator = Moderator(rules)
    released = [moderator.feed("".join(piece.text for piece in pieces)), moderator.finish()]
    if released[-1].blocked:
        matches += [match for part in released for match in part.matches]
        return False
    text = "".join(part.text for part in released)
    at = 0
    spans = [(start, end, text[shown_from:shown_to]) for start, end, shown_from, shown_to in moderator.redactions]
    for piece in pieces:
        start, at = at, at + len(piece.text)
        across = [span for span in spans if span[0] < at and span[1] > start and not (start <= span[0] and span[1] <= at)]
        for first, last, placeholder in reversed(across):
            inside = placeholder if first >= start else ""
            piece.text = piece.text[: max(0, first - start)] + inside + piece.text[min(last, at) - start :]
        matches += [match for part in released for match in part.matches if match.start < at < match.end and match.start >= start]
    return True
