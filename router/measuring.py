"""What a worker has seen of its backends of late: how long the first word took, and how long answers are.

Rules that ask for the fastest or the cheapest backend go by it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

from adapters.cost import cost, usd_float
from adapters.types import Usage
from config.prices import Price

SAMPLES = 50
FRESH_S = 600.0
"""How long a measurement counts: after it a backend is as if it had never been measured, and is tried again."""

USUAL_OUTPUT_TOKENS = 400
"""How long an answer is taken to be by a backend that has given none yet."""

USUAL_SECONDS = 5.0
"""How long it is taken to run."""

NEWEST = 0.1
"""What the newest answer's length counts in the average."""


class Measured:
    """One backend, as this worker sees it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self._latency_ms: float | None = None
        self._output_tokens = float(USUAL_OUTPUT_TOKENS)
        self._seconds = USUAL_SECONDS

    def answered(self, first_event_s: float, output_tokens: int, seconds: float) -> None:
        """Note an answer: how long its first word took and all of it, from when the backend was called, and the tokens of each of its choices."""
        self._first.append((self._clock(), first_event_s))
        self._latency_ms = _banded(1000 * statistics.median(seconds for _, seconds in self._first))
        self._output_tokens += NEWEST * (output_tokens - self._output_tokens)
        self._seconds += NEWEST * (seconds - self._seconds)

    @property
    def latency_ms(self) -> float | None:
        """The median of the last answers, in two digits; None where there was none of late."""
        while self._first and self._clock() - self._first[0][0] > FRESH_S:
            self._first.popleft()
            self._latency_ms = _banded(1000 * statistics.median(seconds for _, seconds in self._first)) if self._first else None
        return self._latency_ms

    @property
    def output_tokens(self) -> int:
        """How long an answer usually is."""
        return round(self._output_tokens)

    def expected_cost(self, input_tokens: int, most_output: int | None, choices: int, price: Price) -> float:
        """What a request of so much input is expected to cost, in USD: with an answer as long as they usually are, and no longer than was asked for."""
        output = self.output_tokens if most_output is None else min(self.output_tokens, most_output)
        usage = Usage(input_tokens=input_tokens, output_tokens=output * choices, source="estimated")
        return usd_float(cost(usage, price, round(1000 * self._seconds) if price.second else 0))


def _banded(milliseconds: float) -> float:
    """In two digits: what differs by less is equally fast."""
    if milliseconds <= 0:
        return 0.0
    return round(milliseconds, 1 - math.floor(math.log10(milliseconds)))
