"""Deny-list terms as an automaton: a sorted list of folded terms, walked by bisection.

A state is a range of the list and a depth in it, so compiling thousands of terms is one sort, and only what texts walk is ever built. Terms are compared by
full case folding ("STRASSE" finds "straße"), white space in a term is any one white-space character, and a term's edge that is a word character must be a
word's edge in the text, except in scripts that put no space between words (Chinese, Japanese, Korean particles, Thai, Lao, Khmer, Burmese).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from policies.moderation.automaton import Alphabet, Edge, State, StateTable, fold
from policies.moderation.errors import RuleError

_MAX_TERM = 200
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
_AFTER_ALL = "\U0010ffff"


def fold_terms(terms: Sequence[str]) -> tuple[str, ...]:
    """The terms as they are compared: folded, white space squeezed, sorted, each once. Raises `RuleError` for an empty or over-long one."""
    folded = set()
    for term in terms:
        plain = " ".join("".join(map(fold, term)).split())
        if not plain or len(plain) > _MAX_TERM:
            raise RuleError(f"the deny-list term {term[:40]!r} must have 1 to {_MAX_TERM} characters")
        folded.add(plain)
    return tuple(sorted(folded))


class DenyAutomaton:
    """All terms report the one rule they are given; each matches its longest continuation that ends where it may."""

    open = False

    def __init__(self, alphabet: Alphabet, rule: int, terms: Sequence[str], *, holds: bool) -> None:
        """`terms` come from `fold_terms`."""
        self.holds = holds
        self._alphabet = alphabet
        self._rule = (rule,)
        self._word = alphabet.label(r"\w")
        alphabet.letters |= frozenset("".join(terms))
        self._lists = (tuple(term for term in terms if not _wordlike(term[0])), tuple(term for term in terms if _wordlike(term[0])))
        self._start_states: dict[int, State] = {}
        self._table = StateTable()

    def start(self, before: int) -> State:
        known = self._start_states.get(before)
        if known is None:
            lists = (0,) if self._alphabet.has(before, self._word) else (0, 1)
            known = self._start_states.setdefault(before, State(tuple(n for which in lists for n in (which, 0, len(self._lists[which]), 0)), ()))
        return known

    def edge(self, state: State, symbol: int) -> Edge:
        confirmed = False
        places: list[int] = []
        final = False
        letters = self._alphabet.folded(symbol)
        for which, low, high, depth in _ranges(state.places):
            terms = self._lists[which]
            prefix = terms[low][:depth] if low < high else ""
            if depth and terms[low] == prefix and not (_wordlike(prefix[-1]) and self._alphabet.has(symbol, self._word)):
                confirmed = True
            if not letters:
                continue
            after = prefix + letters
            first = bisect_left(terms, after, low, high)
            last = bisect_left(terms, after + _AFTER_ALL, first, high)
            if first < last:
                places += (which, first, last, len(after))
                final = final or terms[first] == after
        target = self._table.state(tuple(places), self._rule if final else ()) if places else None
        edge = (target, self._rule if confirmed else ())
        state.edges[symbol] = edge
        return edge


def _ranges(places: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    return [(places[at], places[at + 1], places[at + 2], places[at + 3]) for at in range(0, len(places), 4)]


def _wordlike(char: str) -> bool:
    """Whether this edge of a term must lie at the edge of a word."""
    return (char.isalnum() or char == "_") and _UNSPACED.match(char) is None
