"""Nothing locked ever leaves its lock: random policies, requests, states and failures, and what is tried by whatever happens.

The short form is part of the suite; `HEADGATE_TEST_LONG=1 pytest -m long tests/policies/test_lock.py` goes through 100,000 requests.
"""

from __future__ import annotations

import random
from typing import Any, get_args

import msgspec
import pytest

from adapters.backend import DATA_CLASSES, BackendSpec, may_see
from adapters.errors import ERRORS, BackendError
from adapters.resilience import RetrySpec
from adapters.types import Capabilities
from config.prices import FREE
from policies.constraints import permitted
from policies.decide import decide
from policies.decision import CLASS_OF, BackendState, Decision, State
from policies.features import Features
from policies.load import ConfiguredBackend, Policy, asks_of
from policies.matching import within
from policies.schema import (
    Complexity,
    ErrorClass,
    Fallback,
    PolicyFile,
    Rule,
    Tenant,
    TimeOfDay,
    Use,
    When,
)
from router.attempts.course import Course

REQUESTS_PER_POLICY = 10
NAMES = ("a", "b", "c", "d", "e", "extractive")
TENANTS, TASKS, TAGS = ("acme", "umbrella"), ("code", "math", "chat"), ("gold", "batch")
CODES = sorted(CLASS_OF)


def some(dice: random.Random, names: tuple[str, ...], least: int = 0) -> tuple[str, ...]:
    return tuple(dice.sample(names, dice.randint(least, len(names))))


def when(dice: random.Random, depth: int = 2) -> When:
    parts: dict[str, Any] = {}
    for name, make in (
        ("tenant", lambda: dice.choice(TENANTS)),
        ("task", lambda: some(dice, TASKS, 1)),
        ("data_class", lambda: some(dice, DATA_CLASSES, 1)),
        ("tags", lambda: dice.choice(TAGS)),
        ("grounded", lambda: dice.random() < 0.5),
        ("min_input_tokens", lambda: dice.choice((0, 100, 1000))),
        ("max_complexity", dice.random),
        ("max_budget_left", dice.random),
        ("time", lambda: TimeOfDay(start=f"{dice.randrange(24):02}:00", to=f"{dice.randrange(24):02}:30", zone="Europe/Berlin")),
    ):
        if dice.random() < 0.2:
            parts[name] = make()
    if depth:
        for name in ("all", "any"):
            if dice.random() < 0.2:
                parts[name] = tuple(when(dice, depth - 1) for _ in range(dice.randint(1, 2)))
        if dice.random() < 0.15:
            parts["none"] = when(dice, depth - 1)
    return When(**parts)


def use(dice: random.Random) -> tuple[str, ...] | Use:
    names = some(dice, NAMES, 1)
    caps = {"max_cost_usd": dice.choice((None, 0.5)), "max_latency_ms": dice.choice((None, 500.0)), "min_quality": dice.choice((None, 0.5))}
    match dice.randrange(5):
        case 0:
            return names
        case 1:
            return Use(weighted={name: float(dice.randrange(4)) for name in names}, sticky=dice.choice((None, "conversation", "user")), **caps)
        case 2:
            return Use(cheapest=names, **caps)
        case 3:
            return Use(fastest=names, **caps)
        case _:
            return Use(ordered=names, **caps)


def fallback(dice: random.Random) -> tuple[str, ...] | Fallback:
    if dice.random() < 0.4:
        return some(dice, NAMES)
    classes: dict[str, tuple[str, ...] | None] = {name: some(dice, NAMES) for name in get_args(ErrorClass) if dice.random() < 0.5}
    return Fallback(default=some(dice, NAMES) if dice.random() < 0.5 else None, **classes)


def ladder(dice: random.Random) -> dict[str, Any]:
    weak, strong = dice.sample(NAMES, 2)
    complexity = Complexity(weak=weak, strong=strong, threshold=dice.random(), explore=dice.choice((0.0, 0.5)))
    return {"default": some(dice, NAMES), "fallback": fallback(dice), "complexity": dice.choice((None, complexity))}


def policy(dice: random.Random) -> Policy:
    """As it is after its checks, which would refuse most of these: the lock must not depend on them."""
    rules = tuple(
        Rule(
            name=f"r{index}",
            when=when(dice),
            use=use(dice),
            lock=dice.random() < 0.5,
            pin_fallback=dice.random() < 0.4,
            fallback=dice.choice((None, fallback(dice))),
        )
        for index in range(dice.randint(1, 5))
    )
    specs = {name: BackendSpec(kind="scripted", quality=dice.choice((None, 0.4, 0.9))) for name in NAMES}
    tenants = {"acme": Tenant(on_budget_end=dice.choice((None, *NAMES)), **ladder(dice))}
    file = PolicyFile(version=1, backends=specs, rules=rules, tenants=tenants, **ladder(dice))
    backends = {name: ConfiguredBackend(name=name, spec=spec, clearance=dice.choice(DATA_CLASSES), remote=False, price=FREE) for name, spec in specs.items()}
    return Policy(file=file, backends=backends, asks=asks_of(file), hash="0" * 64, source="")


def request(dice: random.Random) -> Features:
    return Features(
        tenant=dice.choice((*TENANTS, "other")),
        task=dice.choice(TASKS),  # type: ignore[arg-type]
        data_class=dice.choice(DATA_CLASSES),
        model=dice.choice(("auto", "auto", *NAMES)),
        tags=some(dice, TAGS),
        needs=dice.choice(((), ("tools",))),
        grounded=dice.random() < 0.5,
        input_tokens=dice.choice((10, 500, 5000)),
        complexity=dice.choice((None, dice.random())),
        conversation=dice.choice(("", "one")),
        user=dice.choice(("", "somebody")),
    )


def state(dice: random.Random) -> State:
    return State(
        backends={
            name: BackendState(
                capabilities=Capabilities(tools=dice.random() < 0.8, needs_context=name == "extractive"),
                ready=dice.random() < 0.8,
                upper_cost_usd=dice.random(),
                cost_usd=dice.choice((None, dice.random())),
                latency_ms=dice.choice((None, 1000 * dice.random())),
                queue_depth=dice.randrange(5),
            )
            for name in NAMES
        },
        remaining_usd=dice.choice((None, dice.random())),
        allowed_models=dice.choice((None, None, (*some(dice, NAMES), "auto"))),
        seed=str(dice.random()),
        now=1_700_000_000 + 3600 * dice.random() * 24 * 7,
        budget_left=dice.choice((None, round(dice.random(), 2))),
        thresholds=dice.choice(({}, {"acme": dice.random()})),
    )


def holds(condition: When, features: Features, now: State) -> bool:
    """Whether a condition holds: by other means than the service's own, but for the clock."""

    def among(written: Any, *values: str) -> bool:
        return written is None or bool(set([written] if isinstance(written, str) else written) & set(values))

    return (
        among(condition.tenant, features.tenant)
        and among(condition.task, features.task)
        and among(condition.data_class, features.data_class)
        and among(condition.tags, *features.tags)
        and condition.grounded in (None, features.grounded)
        and (condition.min_input_tokens or 0) <= features.input_tokens
        and (condition.max_complexity is None or (features.complexity is not None and features.complexity <= condition.max_complexity))
        and (condition.max_budget_left is None or (1.0 if now.budget_left is None else now.budget_left) <= condition.max_budget_left)
        and (condition.time is None or within(condition.time, now.now))
        and all(holds(part, features, now) for part in condition.all or ())
        and (condition.any is None or True in [holds(part, features, now) for part in condition.any])
        and not (condition.none is not None and holds(condition.none, features, now))
    )


def tried(decision: Decision, dice: random.Random) -> list[str]:
    """Every backend that is tried where all of them fail, each in some way."""
    course = Course({name: RetrySpec() for name in NAMES}, dice=dice.random)
    last: BackendError | None = None
    failures: list[str] = []
    found = []
    while (step := course.following(decision.order(failures), last, lambda _: dice.random() < 0.9)) is not None and len(found) < 40:
        course.took(step)
        found.append(step.backend)
        last = ERRORS[dice.choice(CODES)]("it failed")
        failures.append(last.code)
    return found


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("requests", [3_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_nothing_locked_is_ever_tried_outside_its_lock_whatever_fails(requests: int) -> None:
    dice = random.Random(20_260_701)
    locked = left = 0
    for number in range(requests):
        if number % REQUESTS_PER_POLICY == 0:
            one = policy(dice)
        features, now = request(dice), state(dice)
        decision = decide(one, features, now)
        locks = [rule for rule in one.file.rules if rule.lock and holds(rule.when, features, now)]
        inside = set(NAMES).intersection(*(rule.backends for rule in locks))
        reachable = {*decision.candidates, *(name for names in decision.fallbacks.values() for name in names)}
        allowed = {name for name in NAMES if permitted(one, features, now, name)}
        assert reachable <= inside, (number, reachable, inside)
        assert set(tried(decision, dice)) <= inside, number
        assert allowed <= inside, number
        assert reachable <= allowed | {name for name in reachable if now.backends[name].capabilities.needs_context}, number
        assert all(may_see(one.backends[name].clearance, features.data_class) for name in reachable), number
        locked += bool(locks) and bool(reachable)
        left += not reachable
    assert locked > requests / 20, "too few requests were locked and answered for this to say anything"
    assert left < requests * 0.8


def test_a_decision_with_every_new_part_is_the_same_once_it_was_stored() -> None:
    dice = random.Random(7)
    for _ in range(300):
        one, features, now = policy(dice), request(dice), state(dice)
        decision = decide(one, features, now)
        again = msgspec.json.decode(msgspec.json.encode(decision), type=Decision)
        assert again == decision
        assert decide(one, again.features, msgspec.structs.replace(now, seed=again.seed)) == decision
        assert 0 < decision.propensity <= 1
