"""What is tried next: quick retries, candidates, slow retries, in that order."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapters.errors import AuthenticationFailed, BackendError, InvalidOutput, ProviderFault, RateLimited
from adapters.resilience import RetrySpec
from router.attempts.course import QUICK_S, Course, Step


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Walk:
    """A course on a clock of its own: every step takes `lasts` seconds and fails with `error`."""

    spec: RetrySpec = field(default_factory=lambda: RetrySpec(attempts=3, first_s=0.4, longest_s=4.0, total_s=30.0))
    deadline: float | None = None
    ill: frozenset[str] = frozenset()

    def steps(self, candidates: list[str], error: BackendError, lasts: float = 0.1) -> list[tuple[str, str, float]]:
        clock = Clock()
        deadline = None if self.deadline is None else clock.now + self.deadline
        course = Course(dict.fromkeys("abc", self.spec), deadline, clock=clock, dice=lambda: 0.5)
        last, seen = None, []
        while (step := course.following(candidates, last, lambda name: name not in self.ill)) is not None:
            clock.now += step.wait_s
            course.took(step)
            clock.now += lasts
            seen.append((step.backend, step.kind, round(step.wait_s, 3)))
            last = error
        return seen


def test_a_quick_retry_comes_before_the_next_candidate() -> None:
    assert Walk().steps(["a", "b"], ProviderFault("x")) == [
        ("a", "candidate", 0.0),
        ("a", "retry", 0.2),
        ("a", "retry", 0.4),
        ("b", "candidate", 0.0),
        ("b", "retry", 0.2),
        ("b", "retry", 0.4),
    ]


def test_a_slow_failure_goes_to_the_next_candidate_and_only_the_last_one_is_retried() -> None:
    assert Walk().steps(["a", "b"], ProviderFault("x"), lasts=QUICK_S) == [
        ("a", "candidate", 0.0),
        ("b", "candidate", 0.0),
        ("b", "retry", 0.2),
        ("b", "retry", 0.4),
    ]


def test_a_provider_that_asks_for_patience_is_given_it_only_where_nobody_else_is_left() -> None:
    assert Walk().steps(["a", "b"], RateLimited("x", retry_after=3.0))[:3] == [("a", "candidate", 0.0), ("b", "candidate", 0.0), ("b", "retry", 3.2)]


def test_a_wait_longer_than_the_bounds_ends_the_course() -> None:
    assert Walk().steps(["a"], RateLimited("x", retry_after=4.1)) == [("a", "candidate", 0.0)]


def test_an_error_that_no_retry_mends_goes_to_the_next_candidate_at_once() -> None:
    assert Walk().steps(["a", "b"], AuthenticationFailed("x")) == [("a", "candidate", 0.0), ("b", "candidate", 0.0)]


def test_no_retry_begins_after_the_deadline() -> None:
    assert Walk(deadline=0.25).steps(["a"], ProviderFault("x")) == [("a", "candidate", 0.0)]


def test_a_backend_that_is_not_ready_any_more_is_neither_retried_nor_preferred() -> None:
    assert [step[:2] for step in Walk(ill=frozenset("a")).steps(["a", "b"], ProviderFault("x"))] == [
        ("b", "candidate"),
        ("b", "retry"),
        ("b", "retry"),
        ("a", "candidate"),
    ]


def test_a_retry_that_the_budget_does_not_allow_is_not_asked_for_again() -> None:
    course = Course({"a": RetrySpec()}, dice=lambda: 0.0)
    course.took(Step("a"))
    step = course.following(["a"], ProviderFault("x"), lambda _: True)
    assert step is not None
    course.cannot_afford(step)
    assert course.following(["a"], ProviderFault("x"), lambda _: True) is None


def test_retries_repeat_a_body_and_candidates_bring_a_new_one() -> None:
    course = Course(dict.fromkeys("ab", RetrySpec()), dice=lambda: 0.0)
    bodies = []
    for step in (Step("a"), Step("a", "retry"), Step("a", "repair"), Step("a", "retry"), Step("b")):
        course.took(step)
        bodies.append(course.bodies)
    assert bodies == [1, 1, 2, 2, 3]


def test_an_answer_that_does_not_fit_is_shown_to_the_model_twice_and_then_the_next_candidate_is_asked() -> None:
    assert Walk().steps(["a", "b"], InvalidOutput("x")) == [(name, kind, 0.0) for name in "ab" for kind in ("candidate", "repair", "repair")]


def test_a_repair_shows_every_answer_so_far_and_what_was_wrong_with_it() -> None:
    course = Course({"a": RetrySpec()})
    last: InvalidOutput | None = None
    for number in range(3):
        step = course.following(["a"], last, lambda _: True)
        assert step is not None
        course.took(step)
        last = InvalidOutput("x")
        last.answer, last.problem = f"answer {number}", f"problem {number}"
    assert [(message.role, message.text.partition(":")[0]) for message in step.added] == [
        ("assistant", "answer 0"),
        ("user", "Your answer cannot be used"),
        ("assistant", "answer 1"),
        ("user", "Your answer cannot be used"),
    ]
    assert "problem 1" in step.added[-1].text


def test_a_repair_that_the_budget_refuses_is_not_asked_for_again() -> None:
    course = Course({"a": RetrySpec(), "b": RetrySpec()})
    course.took(Step("a"))
    repair = course.following(["a", "b"], InvalidOutput("x"), lambda _: True)
    assert repair is not None
    assert repair.kind == "repair"
    course.cannot_afford(repair)
    assert course.following(["a", "b"], InvalidOutput("x"), lambda _: True) == Step("b")
