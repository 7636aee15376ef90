"""A lazy deterministic automaton over many rules (Thompson 1968; built while it runs, as RE2 does: https://swtch.com/~rsc/regexp/regexp3.html).

Characters are first mapped to *symbols*: two characters that no class, boundary or deny-list term tells apart share one. The number of symbols, and so the size
of every table, does not depend on how many different characters a text holds. A `State` stands for a set of positions in the patterns; its edges are computed
the first time they are walked and kept. Sharing between streams and threads is safe: an edge computed twice is the same edge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol, TypeAlias

from policies.moderation.errors import RuleError
from policies.moderation.pattern import Alternatives, Chars, Node, Repeat, Sequence

START = -1
"""The symbol before the first character of a text."""

_MAX_CHARACTERS = 16_384  # known characters, and
_MAX_STATES = 20_000  # known states: past it the tables start afresh, so hostile text cannot fill the memory
_MAX_POSITIONS = 50_000


class Alphabet(dict[str, int]):
    """Character → symbol. Classes and deny-list characters are declared first (`label`, `letters`), characters are looked up afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._labels: dict[str, int] = {}
        self._tests: list[re.Pattern[str]] = []
        self._symbols: dict[tuple[tuple[bool, ...], str], int] = {}
        self._signatures: list[tuple[tuple[bool, ...], str]] = []
        self.letters: frozenset[str] = frozenset()

    def label(self, source: str) -> int:
        """The number of a character class, declared by its source."""
        if source not in self._labels:
            self._labels[source] = len(self._tests)
            self._tests.append(re.compile(source))
        return self._labels[source]

    def __missing__(self, char: str) -> int:
        folded = fold(char)
        if not self.letters.issuperset(folded):
            folded = ""
        signature = (tuple(test.match(char) is not None for test in self._tests), folded)
        symbol = self._symbols.get(signature)
        if symbol is None:
            self._signatures.append(signature)
            # setdefault: two threads that meet a new signature at once must agree on its number
            symbol = self._symbols.setdefault(signature, self._signatures.index(signature))
        if len(self) >= _MAX_CHARACTERS:
            self.clear()
        self[char] = symbol
        return symbol

    def has(self, symbol: int, label: int) -> bool:
        return symbol != START and self._signatures[symbol][0][label]

    def folded(self, symbol: int) -> str:
        """What the symbol's characters are in a deny-list term, "" when no term holds them."""
        return self._signatures[symbol][1]


def fold(char: str) -> str:
    """A character as deny-list terms spell it: case-folded (one character may become several: the text keeps its offsets), any white space a space."""
    if char == "İ":  # its full folding ends in a combining dot that nobody types
        return "i"
    return " " if char.isspace() else char.casefold()


class State:
    """A state: `edges[symbol]` is where the symbol leads (None: nowhere) and which rules match up to just before it; `finals` match at the end of the text."""

    __slots__ = ("edges", "finals", "places")

    def __init__(self, places: tuple[int, ...], finals: tuple[int, ...]) -> None:
        self.places = places
        self.finals = finals
        self.edges: dict[int, Edge] = {}


Edge: TypeAlias = "tuple[State | None, tuple[int, ...]]"


class Automaton(Protocol):
    """Several rules walked as one.

    `holds`: their matches are removed from the text, so it has to wait for them. `open`: none of them looks at the matched text or at what follows it, so
    what such a rule has matched once is certain, however far it still extends, and need not be kept.
    """

    holds: bool
    open: bool

    def start(self, before: int) -> State: ...
    def edge(self, state: State, symbol: int) -> Edge: ...


class StateTable:
    """The states of one automaton by what they stand for."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, ...], State] = {}

    def state(self, places: tuple[int, ...], finals: tuple[int, ...]) -> State:
        known = self._states.get(places)
        if known is None:
            if len(self._states) >= _MAX_STATES:
                for state in list(self._states.values()):
                    state.edges.clear()
                self._states.clear()
            known = self._states.setdefault(places, State(places, finals))
        return known


class PatternAutomaton:
    """The automaton of patterns. `add` every rule first, then walk."""

    def __init__(self, alphabet: Alphabet, *, holds: bool, open: bool) -> None:
        self.holds = holds
        self.open = open
        self._alphabet = alphabet
        self._moves: list[list[tuple[int, int]]] = []
        self._jumps: list[list[int]] = []
        self._finals: dict[int, tuple[int, int | None]] = {}
        self._starts: list[tuple[frozenset[int], int | None]] = []
        self._start_states: dict[int, State] = {}
        self._table = StateTable()

    def add(self, rule: int, tree: Node, not_before: str, not_after: str) -> int:
        """Adds a rule and returns its bound: the most characters that can wait for it. Raises `RuleError` where there is none."""
        first = self._place()
        last = self._build(tree, first)
        self._finals[last] = (rule, self._alphabet.label(not_after) if not_after else None)
        begin = self._closure([first])
        if last in begin:
            raise RuleError("the pattern matches the empty text")
        self._starts.append((begin, self._alphabet.label(not_before) if not_before else None))
        return self._bound(first, last)

    def start(self, before: int) -> State:
        known = self._start_states.get(before)
        if known is None:
            places: set[int] = set()
            for begin, label in self._starts:
                if label is None or not self._alphabet.has(before, label):
                    places |= begin
            known = self._start_states.setdefault(before, State(tuple(sorted(places)), ()))
        return known

    def edge(self, state: State, symbol: int) -> Edge:
        has = self._alphabet.has
        guarded = (self._finals[place] for place in state.places if place in self._finals)
        confirmed = tuple(sorted({rule for rule, label in guarded if label is None or not has(symbol, label)}))
        reached = {target for place in state.places for label, target in self._moves[place] if has(symbol, label)}
        places = tuple(sorted(self._closure(reached)))
        target = None
        if places:
            target = self._table.state(places, tuple(sorted({self._finals[place][0] for place in places if place in self._finals})))
        edge = (target, confirmed)
        state.edges[symbol] = edge
        return edge

    def _place(self) -> int:
        if len(self._moves) >= _MAX_POSITIONS:
            raise RuleError("the pattern is too large: its repeats multiply")
        self._moves.append([])
        self._jumps.append([])
        return len(self._moves) - 1

    def _build(self, node: Node, at: int) -> int:
        match node:
            case Chars(source):
                end = self._place()
                self._moves[at].append((self._alphabet.label(source), end))
                return end
            case Sequence(items):
                for item in items:
                    at = self._build(item, at)
                return at
            case Alternatives(items):
                end = self._place()
                for item in items:
                    branch = self._place()
                    self._jumps[at].append(branch)
                    self._jumps[self._build(item, branch)].append(end)
                return end
            case Repeat(item, low, high):
                for _ in range(low):
                    at = self._build(item, at)
                end = self._place()
                self._jumps[at].append(end)
                if high is None:
                    loop = self._place()
                    self._jumps[at].append(loop)
                    back = self._build(item, loop)
                    self._jumps[back] += [loop, end]
                    return end
                for _ in range(high - low):
                    at = self._build(item, at)
                    self._jumps[at].append(end)
                return end

    def _closure(self, places: Iterable[int]) -> frozenset[int]:
        """Everything reachable without a character, less the places that are only ways through."""
        seen: set[int] = set(places)
        stack = list(seen)
        while stack:
            for target in self._jumps[stack.pop()]:
                if target not in seen:
                    seen.add(target)
                    stack.append(target)
        return frozenset(place for place in seen if self._moves[place] or place in self._finals)

    def _bound(self, first: int, last: int) -> int:
        """The longest walk; of an open rule, the longest one on which nothing has matched yet or again. Loops outside of that have no bound and are refused."""
        lengths: dict[int, int] = {}
        on_path: set[int] = set()
        stack: list[tuple[int, bool]] = [(place, False) for place in self._closure([first])]
        # an open rule's walk may start over at any place after a match, so every place counts as a start there
        if self.open:
            stack += [(place, False) for place in range(first, len(self._moves)) if self._moves[place]]
        following: dict[int, list[int]] = {}
        while stack:
            place, done = stack.pop()
            if done:
                on_path.discard(place)
                lengths[place] = 1 + max((lengths[after] for after in following[place]), default=0)
                continue
            if place in lengths:
                continue
            if place in on_path:
                continue
            on_path.add(place)
            after: list[int] = []
            for _, target in self._moves[place]:
                reached = self._closure([target])
                if not (self.open and last in reached):
                    after += [step for step in reached if self._moves[step]]
            if on_path.intersection(after):
                raise RuleError("a repeat without end is possible only after everything a rule needs: give it a highest number")
            following[place] = after
            stack.append((place, True))
            stack += [(step, False) for step in after]
        return max(lengths.values(), default=0)
