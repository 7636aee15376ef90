"""Requests of one tenant that wait for their limits, in one worker: by class, and fair between the keys of a class."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from msgspec import Struct

from policies.fair_queue import FairQueue
from policies.rate_limits import Scope
from router.limits.values import Store, Take, Verdict, undone

LOOK_S = 0.03
"""How often it is looked for a slot that another worker gave back."""

LONGEST_LOOK_S = 0.25
"""A bucket may be given back to before the time that was said is over."""

QUANTUM = 1_000.0
"""What a key may be served in a round: tokens, or a request where only requests are limited."""

Try = Callable[[Take], Awaitable[tuple[Verdict, Store | None]]]


class Waiter(Struct, eq=False):
    """One request. `outcome` gets what the store said when it passed."""

    take: Take
    key: str
    number: int
    outcome: asyncio.Future[tuple[Verdict, Store | None]]
    refusal: Verdict
    scopes: frozenset[str]


class Line:
    """The queue of one tenant. Ends by itself when nobody waits."""

    def __init__(self, attempt: Try) -> None:
        self._try = attempt
        self._queue: FairQueue[Waiter] = FairQueue(QUANTUM)
        self._blocked: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def join(self, take: Take, key: str, number: int, tokens: int, refusal: Verdict) -> Waiter:
        scopes = frozenset((*(charge.scope.id for charge in take.charges), *(scope.id for scope in take.slots)))
        waiter = Waiter(take, key, number, asyncio.get_running_loop().create_future(), refusal, scopes)
        if refusal.exhausted is not None:
            self._block(refusal)
        self._queue.push(number, key, max(tokens, QUANTUM / 10), waiter)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """It waits no more; whoever stood behind it may pass now."""
        self._queue.remove(waiter.number, waiter.key, waiter)
        self._changed.set()

    def freed(self, scopes: Iterable[Scope]) -> None:
        """Something was given back here: look at once."""
        for scope in scopes:
            if self._blocked.pop(scope.id, None) is not None:
                self._changed.set()

    async def aclose(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    async def _serve(self) -> None:
        while len(self._queue):
            self._changed.clear()
            now = time.monotonic()
            self._blocked = {scope: until for scope, until in self._blocked.items() if until > now}
            waiter = self._queue.next(lambda each: not each.scopes & self._blocked.keys())
            if waiter is None:
                await self._pause(min(self._blocked.values()) - now)
                continue
            try:
                verdict, store = await self._try(waiter.take)
            except Exception as error:  # it is that request's answer, and the next one's turn
                self._queue.remove(waiter.number, waiter.key, waiter)
                if not waiter.outcome.done():
                    waiter.outcome.set_exception(error)
                continue
            if not verdict.passed:
                waiter.refusal = verdict
                self._block(verdict)
                continue
            self._queue.remove(waiter.number, waiter.key, waiter, served=True)
            if not waiter.outcome.done():
                waiter.outcome.set_result((verdict, store))
            elif store is not None:
                store.give(undone(waiter.take))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.001, seconds)):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _block(self, verdict: Verdict) -> None:
        """Whoever needs this scope waits; nobody is asked for in between."""
        assert verdict.exhausted is not None
        longest = LOOK_S if verdict.exhausted.measure == "concurrency" else LONGEST_LOOK_S
        self._blocked[verdict.exhausted.id] = time.monotonic() + min(verdict.wait_s, longest)
