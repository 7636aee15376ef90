"""A second attempt beside a slow first one: whichever brings the first delta answers, the other is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from adapters.errors import BackendError
from adapters.types import Event
from router.attempts.attempt import Attempt


class Runner:
    """An attempt whose first delta is waited for in a task of its own. `failure` is why it brought none."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.events = attempt.events()
        self.failure: BackendError | None = None
        self.first: asyncio.Task[Event | None] | None = None

    def start(self) -> asyncio.Task[Event | None]:
        self.first = asyncio.ensure_future(_first(self.events))
        return self.first

    async def stop(self) -> None:
        """Stop its work; returns once the upstream is closed. Raises nothing of the attempt's own."""
        if self.first is not None:
            self.first.cancel()
            await asyncio.wait([self.first])
            if not self.first.cancelled():
                self.first.exception()
        await self.events.aclose()


async def _first(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def raced(
    primary: Attempt,
    after_s: float,
    second: Callable[[], Awaitable[Attempt | None]],
    won: Callable[[Attempt], None],
    lost: Callable[[Runner], None],
) -> AsyncGenerator[Event, None]:
    """The events of the primary, or of the attempt that `second` gives where no delta came for `after_s`.

    `second` reserves for its attempt and returns it, or None for no hedge; it is cancelled where the primary comes first, which waits for nothing
    of its hedge. `won` is told who answers before its first event is yielded; `lost` gets a runner whose attempt does not answer, to stop and to
    settle. Raises what the answering attempt raises; where both fail before a delta, what the primary raised. A consumer that closes or cancels
    this stops both.
    """
    runners = [Runner(primary)]
    try:
        begun = runners[0].start()
        await asyncio.wait([begun], timeout=after_s)
        if not begun.done() and (attempt := await _unless(begun, second())) is not None:
            runners.append(Runner(attempt))
            if not begun.done():  # both may have come in the same moment
                runners[1].start()
        winner = await _winner(runners)
        for runner in list(runners):
            if runner is not winner:
                runners.remove(runner)
                lost(runner)
        if winner.failure is not None:
            raise winner.failure
        won(winner.attempt)
        assert winner.first is not None, "only one that was started can win"
        if (event := winner.first.result()) is not None:
            yield event
            async for event in winner.events:
                yield event
    finally:
        for runner in runners:
            await runner.stop()


async def _unless(begun: asyncio.Future[Event | None], second: Awaitable[Attempt | None]) -> Attempt | None:
    """The second attempt, once it may begin; None where the first one's task ended before that."""
    making = asyncio.ensure_future(second)
    both: list[asyncio.Future[Any]] = [begun, making]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not making.done():
            making.cancel()
            await asyncio.wait([making])
    return None if making.cancelled() else making.result()


async def _winner(runners: list[Runner]) -> Runner:
    """The first to bring a delta or to end well; where all failed, the primary with its failure."""
    waiting = {runner.first: runner for runner in runners if runner.first is not None}
    while waiting:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in waiting if task in done]:
            runner = waiting.pop(task)
            try:
                task.result()
            except BackendError as error:
                runner.failure = error
            else:
                return runner
    return runners[0]
