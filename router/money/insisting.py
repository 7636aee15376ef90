"""Booking that does not give up while the database is away, and does not go on where trying again cannot help."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

log = structlog.get_logger("headgate.insisting")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0

PASSING_STATES = ("08", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE: connection, rollback (deadlock, serialization), resources, not available now, operator intervention, system."""


def may_pass(error: BaseException) -> bool:
    """Whether the same statement may succeed later: the database is away, busy or full; not: it does not take these values."""
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout | OSError | TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    # asyncpg's errors arrive as plain `DBAPIError`s, most of them told apart by their state alone.
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or (isinstance(state, str) and state.startswith(PASSING_STATES))


async def insist(book: Callable[[], Awaitable[None]], request_id: str, otherwise: Callable[[], Awaitable[None]] | None = None) -> None:
    """Book, again and again while the database is away. What it will never take is logged, and `otherwise` is booked in its place.

    Never raises an error of the booking: an answer is not held because of it.
    """
    delay = FIRST_WAIT_S
    while True:
        try:
            await book()
            return
        except Exception as error:
            if not may_pass(error):
                log.exception("settlement_refused", request_id=request_id, booked_as_reserved=otherwise is not None)
                break
            log.warning("settlement_failed", request_id=request_id, retry_in_s=delay, error=type(error).__name__)
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_WAIT_S)
    if otherwise is not None:
        await insist(otherwise, request_id)
