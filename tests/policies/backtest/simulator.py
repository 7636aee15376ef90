"""A world whose truth is known: requests of which it is certain what either backend would answer, and a log of what a policy made of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import adapters.extractive
import adapters.scripted  # noqa: F401  (each import registers a kind)
from adapters.cost import cost
from adapters.types import Capabilities, Usage
from policies.backtest.lines import labels, line_of
from policies.backtest.redeciding import redecide
from policies.backtest.values import Line
from policies.decide import BackendState, State, decide
from policies.features import Features
from policies.load import Policy, load_policy
from policies.record import Record
from policies.schema import Task

BACKENDS = """version: 1
backends:
  weak: {kind: scripted, text: a, price: {input: 1, output: 4}}
  strong: {kind: scripted, text: b, price: {input: 5, output: 20}}
default: weak
fallback: []
"""
EXPLORING = """rules:
  - {name: hard, when: {min_complexity: 0.6}, use: {weighted: {strong: 97.5, weak: 2.5}}}
  - {name: easy, use: {weighted: {weak: 97.5, strong: 2.5}}}
"""
"""One request in twenty is drawn between the two, evenly."""

CERTAIN = """rules:
  - {name: hard, when: {min_complexity: 0.6}, use: [strong]}
  - {name: easy, use: [weak]}
"""
BOTH = {name: BackendState(capabilities=Capabilities(streaming=True)) for name in ("weak", "strong")}
WRITES_MORE = 1.7
"""Tokens that the strong backend writes for each of the weak one's, in the mean."""

TASKS: tuple[Task, ...] = ("chat", "code", "math", "qa")


def policy(rest: str) -> Policy:
    return load_policy(BACKENDS + rest, price_of=lambda _name, _spec: None)


def threshold(value: float) -> Policy:
    return policy(f"complexity: {{weak: weak, strong: strong, threshold: {value}}}\n")


@dataclass
class Asked:
    """A request, and what each backend would make of it: whether it is right, and how many tokens it writes."""

    features: Features
    right: dict[str, float]
    tokens: dict[str, int]


@dataclass
class World:
    """`truth` is what the mean outcome of these very requests would have been under a policy, `spent` their cost in USD."""

    asked: list[Asked]
    records: list[Record]
    logging: Policy

    def truth(self, candidate: Policy) -> float:
        return sum(each.right[self._target(candidate, each)] for each in self.asked) / len(self.asked)

    def spent(self, candidate: Policy) -> float:
        return sum(spent(candidate, self._target(candidate, each), each) for each in self.asked) / 1e12

    def _target(self, candidate: Policy, each: Asked) -> str:
        return decide(candidate, each.features, State(backends=BOTH)).candidates[0]

    def lines(self, candidate: Policy) -> list[Line]:
        called = labels(self.logging, candidate)
        return [line_of(record, redecide(candidate, record), candidate, called) for record in self.records]


def spent(by: Policy, name: str, each: Asked) -> int:
    return cost(Usage(input_tokens=each.features.input_tokens, output_tokens=each.tokens[name]), by.backends[name].price)


def world(logging: Policy, seed: int, size: int, *, scored: bool = True) -> World:
    chance = random.Random(seed)
    return log_of(logging, [ask(chance) for _ in range(size)], seed, scored=scored)


def log_of(logging: Policy, asked: list[Asked], seed: int, *, scored: bool = True) -> World:
    """What a policy makes of requests, as the log has it."""
    records = []
    for number, each in enumerate(asked):
        state = State(backends=BOTH, seed=f"req-{seed}-{number}")
        decision = decide(logging, each.features, state)
        name = decision.candidates[0]
        records.append(
            Record(
                request_id=f"req-{seed}-{number}",
                tenant=("acme", "globex", "initech")[number % 3],
                created_at=1_790_000_000.0 + number,
                policy_version=1,
                policy_hash=logging.hash,
                decision=decision,
                features=each.features,
                state=state,
                backend=name,
                model=name,
                attempts=1,
                input_tokens=each.features.input_tokens,
                output_tokens=each.tokens[name],
                cost=spent(logging, name, each),
                latency_ms=800.0,
                score=each.right[name] if scored else None,
                outcome="ok" if scored or each.right[name] else "error",
            )
        )
    return World(asked, records, logging)


def ask(chance: random.Random) -> Asked:
    complexity, task = chance.betavariate(2, 2), chance.choice(TASKS)
    hidden = chance.gauss(0, 0.15)  # what no feature tells
    weak = min(max(0.95 - 0.6 * complexity + (0.08 if task == "chat" else -0.05) + hidden, 0.02), 0.98)
    strong = min(weak + 0.35 * complexity, 0.99)
    drawn = chance.random()  # a question that the weak one gets right, the strong one gets right too, mostly
    length = max(1, round(chance.lognormvariate(5, 0.6) * (1.6 if task == "code" else 1.0) * (0.7 + complexity)))
    return Asked(
        Features(
            task=task,
            tenant="acme",
            complexity=round(complexity, 4),
            input_tokens=round(chance.lognormvariate(6, 0.8)),
        ),
        {"weak": float(drawn < weak), "strong": float(drawn < strong)},
        {"weak": length, "strong": max(1, round(length * WRITES_MORE * chance.lognormvariate(-0.08, 0.4)))},
    )
