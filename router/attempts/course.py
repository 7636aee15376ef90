"""Which attempt comes next: the same backend again, the same backend with a changed request, or the next candidate. Pure but for clock and dice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct

from adapters.errors import BackendError, InvalidOutput
from adapters.prompting import repair_turn
from adapters.resilience import RetrySpec
from adapters.retry import pause_before_retry
from adapters.types import Message

MAX_REPAIRS = 2
"""How often a backend is shown its answer and what is wrong with it."""

QUICK_S = 2.0
"""While another candidate is left, a backend is tried again only where that begins so soon after its first attempt began."""


class Step(Struct, frozen=True):
    """The attempt to make next: at which backend, after which pause, with which messages added to the request (a repair's)."""

    backend: str
    kind: Literal["candidate", "retry", "repair"] = "candidate"
    wait_s: float = 0.0
    added: tuple[Message, ...] = ()


class Course:
    """The course of one request through its candidates. Ask `following`, and say with `took` which step was really begun."""

    def __init__(
        self,
        retries: Mapping[str, RetrySpec],
        deadline: float | None = None,
        *,
        clock: Callable[[], float] = time.time,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self._retries = retries
        self._deadline = deadline
        self._clock = clock
        self._dice = dice
        self._tried: set[str] = set()
        self._step: Step | None = None
        self._began = 0.0
        self._made = 0
        self._no_retry = False
        self._repairs = 0
        self.bodies = 0
        """How many different requests went out: a retry repeats the one before it."""

    def following(self, candidates: Iterable[str], last: BackendError | None, ready: Callable[[str], bool]) -> Step | None:
        """What to try after `last` (None: at the beginning), or None where nothing is left.

        The order: a repair (the backend answers, only not what was asked for), a quick retry, the next candidate, a slow retry. A retry keeps the
        messages of the attempt it repeats. Candidates that are not `ready` any more come after those that are.
        """
        left = [name for name in candidates if name not in self._tried]
        further = next((name for name in left if ready(name)), left[0] if left else None)
        if last is not None and self._step is not None:
            if isinstance(last, InvalidOutput) and self._repairs < MAX_REPAIRS and not self._no_retry:
                return Step(self._step.backend, "repair", added=(*self._step.added, *repair_turn(last.answer, last.problem)))
            wait = self._pause(last, ready)
            if wait is not None and (further is None or self._elapsed() + wait <= QUICK_S):
                return Step(self._step.backend, "retry", wait, self._step.added)
        return None if further is None else Step(further)

    def took(self, step: Step) -> None:
        """The step's attempt begins: its bound is reserved."""
        if step.kind == "candidate":
            self._tried.add(step.backend)
            self._began, self._no_retry, self._repairs = self._clock(), False, 0
        self._repairs += step.kind == "repair"
        if step.kind != "retry":
            self._made = 0
            self.bodies += 1
        self._made += 1
        self._step = step

    def set_aside(self, names: Iterable[str]) -> None:
        """These were tried beside the step that began last: they are no candidates any more."""
        self._tried.update(names)

    def once_more(self) -> None:
        """The step that began last was refused for what was added to it: its backend is a candidate again."""
        assert self._step is not None
        self._tried.discard(self._step.backend)

    def has_tried(self, name: str) -> bool:
        return name in self._tried

    def cannot_afford(self, step: Step) -> None:
        """The budget does not allow the step: a retry is not asked for again. (Candidates are decided anew.)"""
        self._no_retry = self._no_retry or step.kind != "candidate"

    def _pause(self, error: BackendError, ready: Callable[[str], bool]) -> float | None:
        assert self._step is not None
        name = self._step.backend
        if self._no_retry or not ready(name):
            return None
        wait = pause_before_retry(self._retries[name], error, failures=self._made, elapsed_s=self._elapsed(), chance=self._dice())
        late = wait is not None and self._deadline is not None and self._clock() + wait >= self._deadline
        return None if late else wait

    def _elapsed(self) -> float:
        return self._clock() - self._began
