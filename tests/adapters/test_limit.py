"""The concurrency limit: exactly so many at once over all processes of a host, first come first served, and a bounded wait."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from adapters.errors import DeadlinePassed, ProviderFault, QueueFull
from adapters.slots import Slots
from adapters.types import AttemptRecord
from adapters.wrappers import Limiter, with_limit
from tests.adapters.test_wrappers import HELLO, REQUEST, START, Played, drain, forever, playing
from tests.conftest import ROOT
from tests.serving import until


@asynccontextmanager
async def limiter(folder: Path, count: int, queue_s: float = 5.0) -> AsyncIterator[Limiter]:
    made = Limiter(Slots(folder, count), queue_s)
    try:
        yield made
    finally:
        await made.aclose()


def test_two_holders_of_one_folder_share_its_slots(tmp_path: Path) -> None:
    one, other = Slots(tmp_path, 3), Slots(tmp_path, 3)
    held = [one.take(), other.take(), one.take()]
    assert sorted(slot for slot in held if slot is not None) == [0, 1, 2]
    assert (one.take(), other.take()) == (None, None)
    assert held[1] is not None
    other.give(held[1])
    assert one.take() == held[1]
    one.close()
    assert other.take() is not None
    other.close()


def test_a_process_that_is_killed_gives_its_slots_back(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from adapters.slots import Slots
slots = Slots(Path({str(tmp_path)!r}), 2)
print(slots.take(), slots.take(), flush=True)
input()
"""
    holder = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().split() != []
        slots = Slots(tmp_path, 2)
        assert slots.take() is None
    finally:
        holder.kill()
        holder.communicate()
    assert {slots.take(), slots.take()} == {0, 1}
    slots.close()


async def test_those_who_wait_are_served_in_their_order(tmp_path: Path) -> None:
    async with limiter(tmp_path, 1) as limit:
        first = await limit.acquire()
        order: list[int] = []

        async def wait(number: int) -> None:
            slot = await limit.acquire()
            order.append(number)
            limit.release(slot, 0.01)

        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(wait(number)))
            await until(lambda number=number: limit.waiting == number + 1)  # type: ignore[misc]
        limit.release(first, 0.01)
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]


async def test_a_slot_that_another_process_gives_back_is_seen(tmp_path: Path) -> None:
    async with limiter(tmp_path, 1) as here, limiter(tmp_path, 1) as there:
        slot = await there.acquire()
        waiting = asyncio.create_task(here.acquire())
        await until(lambda: here.waiting == 1)
        there.release(slot, 0.01)
        here.release(await waiting, 0.01)


async def test_a_busy_process_does_not_keep_a_slot_from_the_others_for_ever(tmp_path: Path) -> None:
    """One worker has a queue that never ends; another worker's only request gets its turn all the same."""
    async with limiter(tmp_path, 1, 30.0) as busy, limiter(tmp_path, 1, 30.0) as other:
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                slot = await busy.acquire()
                await asyncio.sleep(0.001)
                busy.release(slot, 0.001)

        crowd = [asyncio.create_task(client()) for _ in range(4)]
        await until(lambda: busy.waiting >= 2)
        async with asyncio.timeout(20):
            other.release(await other.acquire(), 0.001)
        stop.set()
        await asyncio.gather(*crowd)


async def test_a_wait_longer_than_the_queue_allows_is_refused_with_the_time_to_come_back(tmp_path: Path) -> None:
    async with limiter(tmp_path, 1, 0.05) as limit:
        slot = await limit.acquire()
        limit.release(slot, 8.0)
        await limit.acquire()
        with pytest.raises(QueueFull, match="max_concurrency") as caught:
            await limit.acquire()
        assert caught.value.retry_after == pytest.approx(8.0)
        assert limit.waiting == 0


async def test_without_a_queue_nobody_waits(tmp_path: Path) -> None:
    async with limiter(tmp_path, 1, 0.0) as limit:
        await limit.acquire()
        with pytest.raises(QueueFull):
            await limit.acquire()


async def test_a_cancelled_wait_loses_no_slot(tmp_path: Path) -> None:
    """The cancel and the slot in the same tick, in both orders, many times."""
    async with limiter(tmp_path, 1) as limit:
        for number in range(200):
            slot = await limit.acquire()
            task = asyncio.create_task(limit.acquire())
            await until(lambda: limit.waiting == 1)
            if number % 2:
                limit.release(slot, 0.0)
                task.cancel()
            else:
                task.cancel()
                limit.release(slot, 0.0)
            with pytest.raises(asyncio.CancelledError):
                await task
        limit.release(await limit.acquire(), 0.0)


async def test_at_most_so_many_attempts_run_at_once_however_they_end(tmp_path: Path) -> None:
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    async with limiter(tmp_path, 2, 30.0) as one, limiter(tmp_path, 2, 30.0) as other:
        backends = [with_limit(Played(playing(START, work, HELLO, ProviderFault("x"))), limit) for limit in (one, other)]
        results = await asyncio.gather(*(drain(backends[number % 2]) for number in range(20)), return_exceptions=True)
        assert all(isinstance(result, ProviderFault) for result in results)
        assert most == 2


async def test_an_attempt_that_is_closed_gives_its_slot_back(tmp_path: Path) -> None:
    async with limiter(tmp_path, 1, 0.0) as limit:
        backend = with_limit(Played(playing(START, forever)), limit)
        async with aclosing(backend.generate(REQUEST, AttemptRecord("played"))) as events:
            await anext(events)
            with pytest.raises(QueueFull):
                await drain(backend)
            assert (await backend.health()).queue_depth == 3
        limit.release(await limit.acquire(), 0.0)


async def test_a_deadline_that_passes_in_the_queue_is_the_requests_own(tmp_path: Path) -> None:
    async with limiter(tmp_path, 1) as limit:
        await limit.acquire()
        request = msgspec.structs.replace(REQUEST, deadline=time.time() + 0.05)
        with pytest.raises(DeadlinePassed):
            await drain(with_limit(Played(playing(START)), limit), request)
