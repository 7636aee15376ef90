"""What is sent again after answers were delivered: a bounded queue of each worker, dropped from when it is full, and emptied when the service stops.

A request leaves word here and goes; nothing here delays it, fails it, or is seen by whoever asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from policies.choosing import unit
from policies.trials import Shadow
from router.summarising import UNMODERATED
from router.trials import pairs
from router.trials.pairs import DAY_S
from router.trials.shadowing import PAYER, PAYER_OF_ALL, PAYER_OF_PAIRS, Trial

if TYPE_CHECKING:
    from adapters.types import Message
    from policies.trials import TrialBudget
    from router.gateway import Gateway
    from router.pipeline import Exchange

log = structlog.get_logger("headgate.shadows")

AT_ONCE = 4
"""How many run at once in a worker."""

MOST_WAITING = 100
MOST_CHARACTERS = 20_000_000
"""Of the requests that wait, together."""


class Shadows:
    """One worker's. `offer` an answered request; `stop` when the service does: what waits is dropped, what runs is stopped and booked."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._waiting: deque[tuple[Exchange, int, Callable[[], Awaitable[None]]]] = deque()
        self._characters = 0
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._running

    def offer(self, exchange: Exchange) -> None:
        """A request was answered, and its answer delivered. Never raises, never waits."""
        if self._stopped or exchange.decision is None:
            return
        try:
            self._offer(exchange)
        except Exception:
            log.exception("not_shadowed", request_id=exchange.request_id)

    def _offer(self, exchange: Exchange) -> None:
        if exchange.pairing is not None:
            other = pairs.other_backend(exchange)
            if other is not None:
                self._put(exchange, lambda: self._pair(exchange, other))
            else:
                self._gateway.metrics.paired("no_answer")
        elif (found := shadow_of(exchange)) is not None:
            shadow, payer = found
            self._put(exchange, lambda: self._shadow(exchange, shadow, payer))

    def _put(self, exchange: Exchange, work: Callable[[], Awaitable[None]]) -> None:
        size = sum(map(_size, exchange.call.request.messages))
        if len(self._waiting) >= MOST_WAITING or self._characters + size > MOST_CHARACTERS:
            self._gateway.metrics.shadow("", "dropped")
            return
        if not self._gateway.policy.retain(exchange.active):
            return
        self._characters += size
        self._waiting.append((exchange, size, work))
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._running) < AT_ONCE and not self._stopped:
            exchange, size, work = self._waiting.popleft()
            self._characters -= size
            task = self._gateway.background(self._run(exchange, work))
            self._running.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._begin()

    async def _run(self, exchange: Exchange, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (SQLAlchemyError, OSError) as error:  # what is open is settled as soon as the database is back
            log.error("shadow_failed", request_id=exchange.request_id, error=type(error).__name__)
        except Exception:
            log.exception("shadow_failed", request_id=exchange.request_id)
        finally:
            self._gateway.policy.release(exchange.active)

    async def _shadow(self, exchange: Exchange, shadow: Shadow, payer: str) -> None:
        async def each(trial: Trial) -> None:
            for name in shadow.to:
                if name != exchange.backend_name:  # which has answered already
                    came, _ = await trial.answer(name, UNMODERATED)
                    self._gateway.metrics.shadow(name, came)

        await self._tried(exchange, payer, shadow.budget_usd, each)

    async def _pair(self, exchange: Exchange, other: str) -> None:
        wanted = exchange.pairing
        assert wanted is not None, "only what is to be paired comes here"

        async def both(trial: Trial) -> None:
            gateway = self._gateway
            keep_s = gateway.settings.decisions_days * DAY_S
            came = await pairs.pair(trial, exchange, wanted, other, "".join(exchange.heard).strip(), gateway.database, keep_s)
            gateway.metrics.paired(came)

        await self._tried(exchange, PAYER_OF_PAIRS, wanted.budget_usd, both)

    async def _tried(self, exchange: Exchange, payer: str, budget: TrialBudget, work: Callable[[Trial], Awaitable[None]]) -> None:
        trial = Trial(self._gateway, exchange, payer, budget)
        failure: BaseException | None = None
        try:
            await work(trial)
        except BaseException as error:
            failure = error
            raise
        finally:
            await trial.close(failure)

    def stop(self) -> None:
        """Begin nothing any more. Again, it does nothing."""
        self._stopped = True
        for exchange, _, _ in self._waiting:
            self._gateway.metrics.shadow("", "dropped")
            self._gateway.policy.release(exchange.active)
        self._waiting.clear()
        self._characters = 0
        for task in self._running:
            task.cancel()


def shadow_of(exchange: Exchange) -> tuple[Shadow, str] | None:
    """The shadow that a request is drawn for: that of the rule that decided, else the policy's own; and what its budget is kept under.

    None for a request that pins its backend: it said where it wants to go.
    """
    if exchange.decided_by("pin"):
        return None
    file = exchange.active.policy.file
    rule = next((rule for rule in file.rules if exchange.decided_by("rule", rule.name)), None)
    shadow = rule.shadow if rule is not None and rule.shadow is not None else file.shadow
    if shadow is None or unit(f"{exchange.request_id}\nshadow") >= shadow.share:
        return None
    return shadow, PAYER + rule.name if rule is not None and shadow is rule.shadow else PAYER_OF_ALL


def _size(message: Message) -> int:
    return sum(len(getattr(part, "text", "")) + len(getattr(part, "data", "") or "") for part in message.parts)
