"""Who is let in, who waits and who is refused: one worker's limiter over real stores."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from policies.rate_limits import Scopes
from policies.schema import Priority, Queue
from router.http.errors import ApiError
from router.limits.limiter import Limiter
from router.limits.redis import RedisTransport
from router.limits.refusals import Limited
from router.limits.remote import Remote
from router.limits.shared_memory import SharedMemory
from router.limits.values import SLOTS_LAPSE_S, Charge, Give, Take
from tests.router.limits.conftest import Clock, Counted, RedisServer, limiter, principal, scope, scopes
from tests.serving import ROOT, until


@pytest.fixture
def memory(tmp_path: Path, clock: Clock) -> SharedMemory:
    return SharedMemory(tmp_path / "limits", clock)


async def passes(limits: Limiter, wanted: Scopes, tokens: int = 1, key: str = "key_1", **options: Any) -> bool:
    try:
        await limits.admit(wanted, principal(key), tokens, **options)
    except Limited:
        return False
    return True


async def test_a_refusal_names_the_scope_and_when_to_come_back(memory: SharedMemory, clock: Clock) -> None:
    counted = Counted()
    limits, wanted = limiter(memory, counted), scopes(rpm=6)
    await limits.admit(wanted, principal(), 1)
    with pytest.raises(Limited) as refused:
        await limits.admit(wanted, principal(), 1)
    assert refused.value.status == 429
    assert refused.value.message == "Limit reached for tenant 'acme': 6 requests per minute. Try again in 10 s."
    assert refused.value.headers == {"retry-after": "10", "retry-after-ms": "10000"}
    assert counted.refused == [("tenant", "requests")]
    clock.now += 10
    assert await passes(limits, wanted)
    await limits.aclose()


async def test_what_was_reserved_and_not_used_is_given_back_once(memory: SharedMemory) -> None:
    limits, wanted = limiter(memory), scopes(tpm=6_000)
    admission = await limits.admit(wanted, principal(), 3_000)
    assert not await passes(limits, wanted, 100)
    for _ in range(3):
        admission.settle({"mini": 20}, {"mini": "gpt-5-mini"})
    assert memory.take_now(Take((Charge(wanted.tokens[0], 1),))).levels == pytest.approx((99,))
    await limits.aclose()


async def test_a_request_without_its_own_bound_is_charged_no_more_than_its_limit(memory: SharedMemory) -> None:
    limits = limiter(memory)
    assert await passes(limits, scopes(tpm=500), 10, expected=1_010)
    with pytest.raises(ApiError) as refused:
        await limits.admit(scopes(tpm=500), principal(), 600, 1_600)
    assert (refused.value.status, refused.value.code) == (400, "request_too_large_for_limit")
    assert "500 tokens per minute" in refused.value.message
    await limits.aclose()


async def test_a_waiting_request_gets_the_slot_that_is_given_back_here_at_once(memory: SharedMemory) -> None:
    counted = Counted()
    limits, wanted = limiter(memory, counted), scopes(concurrency=1, wait=True)
    first = await limits.admit(wanted, principal(), 1)
    waiting = asyncio.create_task(limits.admit(wanted, principal(), 1))
    await until(lambda: counted.waiting == 1)
    first.settle({}, {})
    second = await waiting
    second.settle({}, {})
    assert counted.waiting == 0
    assert len(counted.waited) == 1
    assert await passes(limits, wanted)
    await limits.aclose()


async def test_a_waiting_request_gets_a_slot_that_another_worker_gave_back(tmp_path: Path) -> None:
    one, other = limiter(SharedMemory(tmp_path / "limits")), limiter(SharedMemory(tmp_path / "limits"))
    wanted = scopes(concurrency=1, wait=True)
    first = await one.admit(wanted, principal(), 1)
    waiting = asyncio.create_task(other.admit(wanted, principal(), 1))
    await asyncio.sleep(0)
    first.settle({}, {})
    (await waiting).settle({}, {})
    await one.aclose()
    await other.aclose()


async def test_whoever_gives_up_waiting_leaves_nothing_behind(memory: SharedMemory) -> None:
    counted = Counted()
    limits, wanted = limiter(memory, counted), scopes(concurrency=1, wait=True)
    first = await limits.admit(wanted, principal(), 1)
    waiting = [asyncio.create_task(limits.admit(wanted, principal(), 1)) for _ in range(3)]
    await until(lambda: counted.waiting == 3)
    waiting[0].cancel()
    waiting[1].cancel()
    first.settle({}, {})
    (await waiting[2]).settle({}, {})
    assert [task.cancelled() for task in waiting] == [True, True, False]
    assert counted.waiting == 0
    assert await passes(limits, wanted)
    await limits.aclose()


async def test_a_slot_that_comes_in_the_moment_of_a_cancellation_is_not_lost(memory: SharedMemory) -> None:
    limits, wanted = limiter(memory), scopes(concurrency=1, wait=True)
    for _ in range(50):
        first = await limits.admit(wanted, principal(), 1)
        waiting = asyncio.create_task(limits.admit(wanted, principal(), 1))
        await until(lambda: any(len(line) for line in limits._lines.values()))
        first.settle({}, {})
        for _ in range(3):
            await asyncio.sleep(0)
        waiting.cancel()
        outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
        if not isinstance(outcome, BaseException):
            outcome.settle({}, {})
        await until(lambda: memory.take_now(Take(slots=wanted.slots)).passed)
        memory.give(Give(slots=wanted.slots))
    await limits.aclose()


async def test_a_queue_is_bounded_in_length_and_time(memory: SharedMemory) -> None:
    counted = Counted()
    limits, wanted = limiter(memory, counted), scopes(concurrency=1, wait=True, queue=Queue(max_s=0.05, max_waiting=1))
    held = await limits.admit(wanted, principal(), 1)
    waiting = asyncio.create_task(limits.admit(wanted, principal(), 1))
    await until(lambda: counted.waiting == 1)
    with pytest.raises(Limited):
        await limits.admit(wanted, principal(), 1)
    assert counted.most == 1
    with pytest.raises(Limited, match="It waited as long as the policy allows"):
        await waiting
    assert counted.waiting == 0
    held.settle({}, {})
    assert await passes(limits, wanted)
    await limits.aclose()


async def test_a_wait_that_is_too_long_is_refused_at_once(memory: SharedMemory) -> None:
    counted = Counted()
    limits, wanted = limiter(memory, counted), scopes(rpm=1, wait=True, queue=Queue(max_s=5))
    assert await passes(limits, wanted)
    assert not await passes(limits, wanted)
    assert not await passes(limits, wanted, deadline=time.time() - 1)
    assert counted.most == 0
    await limits.aclose()


async def test_keys_that_wait_are_served_in_turn_and_higher_classes_first(memory: SharedMemory) -> None:
    limits, wanted = limiter(memory), scopes(concurrency=1, wait=True)
    held = await limits.admit(wanted, principal(), 1)
    served: list[str] = []

    async def ask(key: str, priority: Priority | None = None) -> None:
        admission = await limits.admit(wanted, principal(key), 1_000, priority=priority)
        served.append(f"{key}{'' if priority is None else '-' + str(priority)}")
        admission.settle({}, {})

    asks: list[tuple[str, Priority | None]] = [*[("flood", None)] * 10, *[("later", "low")] * 2, *[("quiet", None)] * 3]
    tasks = []
    for number, (key, priority) in enumerate(asks, 1):
        tasks.append(asyncio.create_task(ask(key, priority)))
        await until(lambda number=number: sum(map(len, limits._lines.values())) == number)  # type: ignore[misc]
    held.settle({}, {})
    await asyncio.gather(*tasks)
    assert served[:6] in (["flood", "quiet"] * 3, ["quiet", "flood"] * 3)
    assert served[-2:] == ["later-low"] * 2
    await limits.aclose()


async def test_a_key_at_its_own_limit_holds_up_no_other_key(memory: SharedMemory) -> None:
    limits = limiter(memory)
    shared = scope("concurrency", 3)

    def of(key: str) -> Scopes:
        return Scopes(slots=(shared, scope("concurrency", 1, key, "key")), wait=True)

    first = await limits.admit(of("a"), principal("a"), 1)
    waiting = asyncio.create_task(limits.admit(of("a"), principal("a"), 1))
    await until(lambda: any(len(line) for line in limits._lines.values()))
    other = await limits.admit(of("b"), principal("b"), 1)
    assert not waiting.done()
    first.settle({}, {})
    (await waiting).settle({}, {})
    other.settle({}, {})
    await limits.aclose()


TAKER = """
import asyncio, sys
from pathlib import Path
from router.limits.shared_memory import SharedMemory
from router.limits.values import Take
from tests.router.limits.conftest import scope

store = SharedMemory(Path(sys.argv[1]))
print(sum(store.take_now(Take(slots=(scope("concurrency", 5),))).passed for _ in range(4)), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_worker_held_is_free_the_moment_it_is_needed(tmp_path: Path) -> None:
    store, slots = SharedMemory(tmp_path / "limits"), (scope("concurrency", 5),)
    worker = subprocess.Popen([sys.executable, "-c", TAKER, str(tmp_path / "limits")], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdin is not None
    assert worker.stdout.readline() == "4\n"
    assert [store.take_now(Take(slots=slots)).passed for _ in range(2)] == [True, False]
    worker.kill()
    worker.wait(10)
    worker.stdin.close()
    worker.stdout.close()
    assert [store.take_now(Take(slots=slots)).passed for _ in range(5)] == [True, True, True, True, False]
    store.close()


def test_a_new_worker_inherits_nothing_of_the_number_it_gets(tmp_path: Path) -> None:
    slots = (scope("concurrency", 2),)
    first = SharedMemory(tmp_path / "limits")
    assert [first.take_now(Take(slots=slots)).passed for _ in range(2)] == [True, True]
    first.close()
    second = SharedMemory(tmp_path / "limits")
    assert [second.take_now(Take(slots=slots)).passed for _ in range(3)] == [True, True, False]
    second.close()


async def test_in_redis_a_silent_workers_slots_are_free_after_a_while(redis_url: str, clock: Clock) -> None:
    dead, alive = (Remote(RedisTransport(redis_url, name, clock)) for name in ("dead", "alive"))
    slots = (scope("concurrency", 2),)
    assert [(await dead.take(Take(slots=slots))).passed for _ in range(2)] == [True, True]
    clock.now += SLOTS_LAPSE_S - 1
    await alive.beat()
    assert not (await alive.take(Take(slots=slots))).passed
    assert alive.shared_by == 2
    clock.now += 2
    assert (await alive.take(Take(slots=slots))).passed
    await alive.beat()
    assert alive.shared_by == 1
    await dead.beat()  # it only stood still: what it holds counts again
    assert not (await alive.take(Take(slots=slots))).passed
    await dead.aclose()
    await alive.aclose()


@pytest.fixture
def own_redis(tmp_path: Path) -> RedisServer:
    return RedisServer(tmp_path)


@pytest.mark.parametrize(
    ("when_away", "expected"), [("share", [True, True, False]), ("admit", [True, True, True]), ("refuse", [(503, "limits_unavailable")] * 3)]
)
async def test_while_redis_is_away_it_goes_on_as_the_setting_says_and_after_it_as_before(
    own_redis: RedisServer, clock: Clock, when_away: str, expected: list[object]
) -> None:
    """Two workers share a limit of four at once: alone, each of them keeps to two."""
    own_redis.start()
    counted, turned = Counted(), Clock()
    two = [Remote(RedisTransport(own_redis.url, f"worker-{number}", clock), turned) for number in range(2)]
    try:
        for store in two:
            await store.beat()
        await two[0].beat()
        limits, wanted = limiter(two[0], counted, when_away), scopes(concurrency=4)
        before = await limits.admit(wanted, principal(), 1)
        own_redis.stop()
        found: list[object] = []
        held = []
        for _ in range(3):
            try:
                held.append(await limits.admit(wanted, principal(), 1))
                found.append(True)
            except Limited:
                found.append(False)
            except ApiError as error:
                found.append((error.status, error.code))
        assert found == expected
        assert counted.away == ["redis"] * 3
        before.settle({}, {})
        for admission in held:
            admission.settle({}, {})
        own_redis.start()
        turned.now += 2
        await two[0].beat()
        assert [await passes(limits, wanted) for _ in range(5)] == [True] * 4 + [False]
    finally:
        for store in two:
            await store.aclose()
        own_redis.stop()


async def test_a_heartbeat_mends_what_a_lost_answer_left_unclear(own_redis: RedisServer, clock: Clock) -> None:
    """The server took the slots and nobody learned of it: they are free after the next heartbeat."""
    own_redis.start()
    turned = Clock()
    transport = RedisTransport(own_redis.url, "worker-1", clock)
    store, slots = Remote(transport, turned), (scope("concurrency", 1),)
    honest = transport.run

    async def lost(*arguments: object) -> object:
        await honest(*arguments)  # type: ignore[arg-type]
        raise ConnectionError("the answer was lost")

    try:
        transport.run = lost  # type: ignore[method-assign, assignment]
        assert await passes(limiter(store), scopes(concurrency=1)), "it goes on with its own share"
        transport.run = honest  # type: ignore[method-assign]
        turned.now += 2
        assert not (await store.take(Take(slots=slots))).passed
        await store.beat()
        assert (await store.take(Take(slots=slots))).passed
    finally:
        await store.aclose()
        own_redis.stop()


async def test_a_cancelled_question_gives_back_what_it_was_granted(redis_url: str, clock: Clock) -> None:
    store, slots = Remote(RedisTransport(redis_url, "worker-1", clock)), (scope("concurrency", 1),)
    for ticks in range(6):
        asked = asyncio.create_task(store.take(Take(slots=slots)))
        for _ in range(ticks):
            await asyncio.sleep(0)
        asked.cancel()
        outcome = (await asyncio.gather(asked, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError)
        await store.take(Take())
        await store.take(Take())
        assert (await store.take(Take(slots=slots))).passed
        store.give(Give(slots=slots))
    await store.aclose()


async def test_what_waits_together_goes_in_one_call(redis_url: str, clock: Clock) -> None:
    transport = RedisTransport(redis_url, "worker-1", clock)
    store, calls, honest = Remote(transport), [0], transport.run

    async def counting(operations: object, held: object) -> object:
        calls[0] += 1
        return await honest(operations, held)  # type: ignore[arg-type]

    transport.run = counting  # type: ignore[method-assign, assignment]
    requests = scope("requests", 6_000)
    verdicts = await asyncio.gather(*(store.take(Take((Charge(requests, 1),))) for _ in range(200)))
    assert sum(verdict.passed for verdict in verdicts) == 120
    assert calls[0] <= 4
    await store.aclose()
