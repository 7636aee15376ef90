"""Choosing rules and compiling them into one immutable `RuleSet`."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from policies.moderation.automaton import Alphabet, Automaton, PatternAutomaton, State
from policies.moderation.deny import DenyAutomaton, fold_terms
from policies.moderation.errors import RuleError
from policies.moderation.pattern import parse
from policies.moderation.rules import DENY_LIST, RULES, Action, Rule

_REVISION = 1  # raised when the meaning of a rule set changes without its data changing (a validator, the scan)
_HEAD = 1
_HEAD_FIRST = 2


Step: TypeAlias = "tuple[tuple[tuple[State, Automaton], ...], int, dict[int, Step]]"
"""What a symbol begins: candidates (those with a head excepted), its place in a head (0: none, 1: continues one, 2: may also begin one), and the steps
that may follow it."""


class _Rows(dict[int, dict[int, Step]]):
    """For the symbol before: what each symbol does after it, as far as known (`RuleSet.step` finds the others)."""

    def __missing__(self, before: int) -> dict[int, Step]:
        return self.setdefault(before, {})


class RuleSet:
    """Compiled rules: immutable, shareable between streams and threads (its lazy tables only ever fill in). Equal rules have equal `version`s.

    `bounds` gives, for each rule name, the most characters a stream can wait for a candidate of it.
    """

    def __init__(self, rules: Sequence[tuple[Rule, Action]], terms: tuple[str, ...], deny_action: Action) -> None:
        self.alphabet = Alphabet()
        self.rules = tuple(rule for rule, _ in rules)
        self.actions = tuple(action for _, action in rules)
        self.bounds: dict[str, int] = {}
        self.automata: list[Automaton] = []
        self.head_automaton: PatternAutomaton | None = None
        self.head_max = 0
        self._head_labels: tuple[int, int] = (0, 0)
        self._build()
        if terms:
            deny = Rule(DENY_LIST, DENY_LIST, "[REDACTED]", "")
            self.automata.append(DenyAutomaton(self.alphabet, len(self.rules), terms, holds=deny_action != "flag"))
            self.rules += (deny,)
            self.actions += (deny_action,)
            self.bounds[DENY_LIST] = max(map(len, terms)) + 1
        self.newline = self.alphabet["\n"]
        self.rows = _Rows()
        described = [(msgspec.structs.replace(rule, validate=None, load=None), action) for rule, action in zip(self.rules, self.actions, strict=True)]
        digest = hashlib.sha256(msgspec.json.encode([_REVISION, described, terms]))
        self.version: str = digest.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RuleSet) and self.version == other.version

    def __hash__(self) -> int:
        return hash(self.version)

    def _build(self) -> None:
        groups: dict[tuple[bool, bool], PatternAutomaton] = {}
        for index, (rule, action) in enumerate(zip(self.rules, self.actions, strict=True)):
            holds = action != "flag"
            if rule.load is not None:
                rule.load()
            if rule.head:
                if not rule.open or self.head_automaton is not None:
                    raise RuleError(f"rule {rule.name}: one rule may have a head, and only without a validator and `not_after`")
                automaton = self.head_automaton = PatternAutomaton(self.alphabet, holds=holds, open=True)
                self.head_max = rule.head_max
                self._head_labels = (self.alphabet.label(rule.head), self.alphabet.label(rule.head_first))
            else:
                key = (holds, rule.open)
                if key not in groups:
                    groups[key] = PatternAutomaton(self.alphabet, holds=holds, open=rule.open)
                automaton = groups[key]
            try:
                bound = automaton.add(index, parse(rule.pattern), rule.not_before, rule.not_after)
            except RuleError as error:
                raise RuleError(f"rule {rule.name}: {error}") from error
            # one more character decides a boundary
            self.bounds[rule.name] = max(self.bounds.get(rule.name, 0), bound + rule.head_max + 1)
        self.automata += groups.values()

    def step(self, before: int, symbol: int) -> Step:
        """What `symbol` begins after `before`; kept in `rows[before][symbol]`."""
        found = []
        for automaton in self.automata:
            state, _ = automaton.edge(automaton.start(before), symbol)
            if state is not None:
                found.append((state, automaton))
        return self.rows[before].setdefault(symbol, (tuple(found), self._head_kind(symbol), self.rows[symbol]))

    def spawn_headed(self, symbol: int) -> State | None:
        """The candidate that `symbol` begins directly after a head."""
        if self.head_automaton is None:
            return None
        start = self.head_automaton.start(-1)
        return (start.edges.get(symbol) or self.head_automaton.edge(start, symbol))[0]

    def _head_kind(self, symbol: int) -> int:
        if self.head_automaton is None:
            return 0
        inside, first = (self.alphabet.has(symbol, label) for label in self._head_labels)
        return inside * (_HEAD_FIRST if first else _HEAD)


def compile_rules(enabled: Sequence[str], deny_list: Sequence[str] = (), on_match: Action = "redact", per_rule: Mapping[str, Action] | None = None) -> RuleSet:
    """Compiles the enabled rules.

    `enabled` holds categories (`pii`, `secrets`, `deny-list`) and single rules' names; the terms of `deny_list` count only when `deny-list` is among them.
    `per_rule` overrides `on_match` for a rule or a category. Raises `RuleError` for a name that does not exist, a name in `per_rule` that is not enabled, an
    action that does not exist and a bad term.
    """
    per_rule = per_rule or {}
    known = {DENY_LIST} | {rule.name for rule in RULES} | {rule.category for rule in RULES}
    for name in (*enabled, *per_rule):
        if name not in known:
            raise RuleError(f"no moderation rule or category is named {name!r}{_did_you_mean(name, known)}")
    for action in (on_match, *per_rule.values()):
        if action not in ("redact", "block", "flag"):
            raise RuleError(f"no action is named {action!r}{_did_you_mean(action, ('redact', 'block', 'flag'))}")
    chosen = [rule for rule in RULES if rule.name in enabled or rule.category in enabled]
    in_force = {DENY_LIST} & set(enabled) | {rule.name for rule in chosen} | {rule.category for rule in chosen}
    for name in per_rule:
        if name not in in_force:
            raise RuleError(f"the action for {name!r} has no effect: it is not among the enabled rules")
    rules = [(rule, per_rule.get(rule.name, per_rule.get(rule.category, on_match))) for rule in chosen]
    terms = fold_terms(deny_list) if DENY_LIST in enabled else ()
    return RuleSet(rules, terms, per_rule.get(DENY_LIST, on_match))


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), sorted(known), n=1)
    return f": did you mean {close[0]!r}?" if close else f": there are {', '.join(sorted(known))}"
