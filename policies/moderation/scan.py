"""The scan: characters in, matches out, as soon as they are certain.

What is found. A *candidate* is a span that a rule accepts (see `Rule`). For every rule and every start, the longest candidate is a match; so a validator that
refuses a long candidate gives way to a shorter one from the same start and to any later one. Matches of one rule inside another match of the same rule are not
reported. Nothing depends on how the text was cut. The character after a JSON escape (`\\n`, `\\r`, `\\t`, `\\b`, `\\f`) counts as preceded by white space,
because tool calls' arguments are streamed as JSON text: `"\\nghp_…"` must not hide a token behind the `n`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TypeAlias

import msgspec

from policies.moderation.automaton import START, Automaton, State
from policies.moderation.rules import Action
from policies.moderation.ruleset import RuleSet


class Match(msgspec.Struct, frozen=True):
    """A match at `[start, end)` of the original text, in code points."""

    rule: str
    category: str
    start: int
    end: int
    action: Action


Found: TypeAlias = tuple[int, int, int]
"""start, end, the rule's index."""


class Candidate:
    """A start that may still match or extend. `ends`: rule → where it last matched; `tries`: ends that a validator has yet to judge."""

    __slots__ = ("automaton", "ends", "start", "state", "tries")

    def __init__(self, state: State, automaton: Automaton, start: int) -> None:
        self.state = state
        self.automaton = automaton
        self.start = start
        self.ends: dict[int, int] = {}
        self.tries: list[tuple[int, int]] = []


class Scanner:
    """The incremental scan of one text.

    `at` is how far it has read, `live` the undecided candidates; `buffer` the text from `base` on.
    """

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self.at = 0
        self.base = 0
        self.buffer = ""
        self.live: list[Candidate] = []
        self._decided: list[Found] = []
        self._before = START
        self._after_backslash = False
        self._run = -1  # where the current run of head characters began

    def feed(self, text: str) -> None:
        """Reads more of the text."""
        self.buffer += text
        rules = self.rules
        symbols = rules.alphabet
        headed = rules.head_automaton
        before = self._before
        row = rules.rows[before]
        after_backslash = self._after_backslash
        at = self.at
        live = self.live
        run = self._run
        for char in text:
            symbol = symbols[char]
            if live:
                live = self._advance(live, symbol, at)
            begun, kind, row = row.get(symbol) or rules.step(before, symbol)
            if begun:
                for state, automaton in begun:
                    live.append(Candidate(state, automaton, at))
            before = symbol
            if after_backslash and char in "nrtbf":
                kind = 0
                before = rules.newline
                row = rules.rows[before]
            if kind == 0:
                if run >= 0:
                    if headed is not None and (state_or_none := rules.spawn_headed(symbol)) is not None:
                        live.append(Candidate(state_or_none, headed, max(run, at - rules.head_max)))
                    run = -1
            elif run < 0 and kind == 2:
                run = at
            after_backslash = char == "\\"
            at += 1
        self._before, self._after_backslash, self.at, self.live, self._run = before, after_backslash, at, live, run

    def finish(self) -> None:
        """Reads the end of the text: nothing is undecided afterwards."""
        for candidate in self.live:
            for rule in candidate.state.finals:
                self._confirm(candidate, rule, self.at)
            self._resolve(candidate)
        self.live = []
        self._run = -1

    def undecided_from(self, *, holding: bool) -> int:
        """The earliest position a future match can start at; `holding`: of the rules that change the text."""
        first = self.at
        for candidate in self.live:
            if candidate.start < first and (candidate.automaton.holds or not holding):
                first = candidate.start
        headed = self.rules.head_automaton
        if self._run >= 0 and headed is not None and (headed.holds or not holding):
            first = min(first, max(self._run, self.at - self.rules.head_max))
        return first

    def forget(self) -> None:
        """Drops the text that can no longer be asked for: by a validator, or for the output should a candidate come to nothing.

        A holding open candidate has only its undecided tail to lose: up to its last match it is certain to be removed.
        """
        needed = self.at
        for candidate in self.live:
            if not candidate.automaton.open:
                needed = min(needed, candidate.start)
            elif candidate.automaton.holds:
                needed = min(needed, max(candidate.ends.values(), default=candidate.start))
        headed = self.rules.head_automaton
        if self._run >= 0 and headed is not None and headed.holds:
            needed = min(needed, max(self._run, self.at - self.rules.head_max))
        if needed > self.base:
            self.buffer = self.buffer[needed - self.base :]
            self.base = needed

    def take(self) -> list[Found]:
        """The matches decided since the last call, in the order they were decided."""
        decided = self._decided
        self._decided = []
        return decided

    def _advance(self, live: list[Candidate], symbol: int, at: int) -> list[Candidate]:
        """Moves every candidate over one symbol; those that lead nowhere are decided."""
        going = []
        for candidate in live:
            state = candidate.state
            target, confirmed = state.edges.get(symbol) or candidate.automaton.edge(state, symbol)
            for rule in confirmed:
                self._confirm(candidate, rule, at)
            if target is not None:
                candidate.state = target
                going.append(candidate)
            elif candidate.ends or candidate.tries:
                self._resolve(candidate)
        return going

    def _confirm(self, candidate: Candidate, rule: int, end: int) -> None:
        if self.rules.rules[rule].validate is None:
            candidate.ends[rule] = end
        else:
            candidate.tries.append((end, rule))

    def _resolve(self, candidate: Candidate) -> None:
        ends = candidate.ends
        start = candidate.start
        for end, rule in reversed(candidate.tries):
            if rule not in ends:
                validate = self.rules.rules[rule].validate
                if validate is not None and validate(self.buffer[start - self.base : end - self.base]):
                    ends[rule] = end
        self._decided += [(start, end, rule) for rule, end in ends.items()]


class Reports:
    """Puts decided matches in the order of the text and leaves out those inside another match of the same rule."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._waiting: list[tuple[int, int, int]] = []  # (start, -end, rule): the widest first
        self._reach: dict[str, int] = {}

    def add(self, decided: list[Found]) -> None:
        for start, end, rule in decided:
            insort(self._waiting, (start, -end, rule))

    def settled(self, before: int) -> tuple[Match, ...]:
        """Takes the matches that start before `before`; the caller says thereby that every match starting there has been added."""
        if not self._waiting:
            return ()
        count = bisect_left(self._waiting, (before,))
        matches = []
        for start, negative_end, rule in self._waiting[:count]:
            found = self._rules.rules[rule]
            if -negative_end > self._reach.get(found.name, 0):
                self._reach[found.name] = -negative_end
                matches.append(Match(found.name, found.category, start, -negative_end, self._rules.actions[rule]))
        del self._waiting[:count]
        return tuple(matches)


def find(rules: RuleSet, text: str) -> tuple[Match, ...]:
    """Every match of a whole text, by start, whatever its action."""
    scanner = Scanner(rules)
    scanner.feed(text)
    scanner.finish()
    reports = Reports(rules)
    reports.add(scanner.take())
    return reports.settled(len(text))
