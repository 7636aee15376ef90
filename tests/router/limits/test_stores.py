"""Every store counts alike, over all that share it: nothing more passes than was configured, and nothing that fits is refused."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from policies.rate_limits import Measure, Scope
from router.limits.shared_memory import BUCKETS, WAYS, SharedMemory
from router.limits.values import Charge, Give, Store, StoreAway, Take
from tests.router.limits.conftest import Clock, scope

Stores = Callable[[int], Awaitable[list[Store]]]


def take(*charges: tuple[Scope, float], slots: tuple[Scope, ...] = ()) -> Take:
    return Take(tuple(Charge(scope, cost) for scope, cost in charges), slots)


async def settled(store: Store) -> None:
    """What was given has arrived: an empty question stands behind it."""
    await store.take(Take())


@pytest.mark.parametrize("limit", [60, 600])
async def test_four_workers_that_always_ask_get_the_configured_rate_within_two_percent(stores: Stores, clock: Clock, limit: int) -> None:
    four, requests = await stores(4), scope("requests", limit)
    asked, passed, worst = 0, [0, 0], 0
    ticks = min(3 * limit, 240)
    for minute in range(2):
        for _ in range(ticks):
            clock.now += 60 / ticks
            verdicts = await asyncio.gather(*(store.take(take((requests, 1))) for store in four for _ in range(1 + limit // ticks)))
            asked += len(verdicts)
            passed[minute] += sum(verdict.passed for verdict in verdicts)
            worst = max(worst, passed[minute])
    assert limit <= passed[0] <= max(limit * 1.02, limit + 1) + 1
    assert abs(passed[1] - limit) <= max(1, 0.02 * limit)
    assert asked > 2 * sum(passed) - limit


async def test_tokens_are_trued_up_and_what_was_really_used_is_the_configured_rate(stores: Stores, clock: Clock) -> None:
    """Three times as much is reserved as is used, and it takes seconds until that is known."""
    four, tokens, chance = await stores(4), scope("tokens", 60_000), random.Random(4)
    running: list[tuple[float, Store, int, int]] = []
    used = [0, 0, 0]
    for minute in range(3):
        for _ in range(240):
            clock.now += 0.25
            for end, store, reserved, real in [each for each in running if each[0] <= clock.now]:
                store.give(Give((Charge(tokens, real - reserved),)))
                await settled(store)
                running.remove((end, store, reserved, real))
            while True:
                store, real = chance.choice(four), chance.randint(100, 900)
                if not (await store.take(take((tokens, 3 * real)))).passed:
                    break
                running.append((clock.now + 2, store, 3 * real, real))
                used[minute] += real
    assert used[1] + used[2] == pytest.approx(120_000, rel=0.02)


async def test_a_request_that_used_more_than_it_reserved_leaves_a_debt_that_everybody_waits_for(stores: Stores, clock: Clock) -> None:
    one, other = await stores(2)
    tokens = scope("tokens", 6_000)
    assert (await one.take(take((tokens, 100)))).passed
    one.give(Give((Charge(tokens, 1_000),)))
    await settled(one)
    verdict = await other.take(take((tokens, 10)))
    assert verdict.exhausted == tokens
    assert verdict.wait_s == pytest.approx((1_100 - 120 + 10) / 100, rel=1e-3)
    clock.now += verdict.wait_s
    assert (await other.take(take((tokens, 10)))).passed


async def test_a_request_is_charged_to_all_its_scopes_or_to_none(stores: Stores, clock: Clock) -> None:
    one, other = await stores(2)
    requests, tokens, slots = scope("requests", 600), scope("tokens", 6_000), scope("concurrency", 1)
    assert (await one.take(take((requests, 1), (tokens, 80), slots=(slots,)))).levels == pytest.approx((11, 40))
    refused = await other.take(take((requests, 1), (tokens, 30), slots=(slots,)))
    assert (refused.exhausted, refused.levels) == (slots, pytest.approx((11, 40)))
    one.give(Give((), (slots,)))
    await settled(one)
    refused = await other.take(take((requests, 1), (tokens, 50), slots=(slots,)))
    assert refused.exhausted == tokens
    assert (await one.take(take((requests, 1), (tokens, 40), slots=(slots,)))).levels == pytest.approx((10, 0))


async def test_concurrency_is_exact_over_workers_and_every_slot_comes_back(stores: Stores) -> None:
    four, slots = await stores(4), scope("concurrency", 5)
    verdicts = await asyncio.gather(*(store.take(take(slots=(slots,))) for store in four for _ in range(5)))
    assert sum(verdict.passed for verdict in verdicts) == 5
    held = [store for store, verdict in zip([store for store in four for _ in range(5)], verdicts, strict=True) if verdict.passed]
    for store in held:
        store.give(Give((), (slots,)))
        await settled(store)
    for store in held:  # one time too many: nobody else's slot is given
        store.give(Give((), (slots,)))
        await settled(store)
    verdicts = await asyncio.gather(*(store.take(take(slots=(slots,))) for store in four for _ in range(5)))
    assert sum(verdict.passed for verdict in verdicts) == 5


async def test_a_clock_that_goes_back_lets_nobody_pass(stores: Stores, clock: Clock) -> None:
    (store,) = await stores(1)
    requests = scope("requests", 60)
    assert (await store.take(take((requests, 1)))).passed
    clock.now -= 3_600
    assert not (await store.take(take((requests, 1)))).passed
    clock.now += 2
    assert (await store.take(take((requests, 1)))).passed


async def test_a_limit_that_changes_counts_on(stores: Stores, clock: Clock) -> None:
    (store,) = await stores(1)
    assert (await store.take(take((scope("requests", 6_000), 100)))).passed
    verdict = await store.take(take((scope("requests", 60), 1)))
    assert verdict.levels == pytest.approx((19,)), "a policy that lowers a limit forgets nothing"


async def test_heartbeats_change_nothing_of_what_is_held(stores: Stores) -> None:
    one, other = await stores(2)
    slots = scope("concurrency", 2)
    assert (await one.take(take(slots=(slots,)))).passed
    for _ in range(3):
        await one.beat()
        await other.beat()
    assert (await other.take(take(slots=(slots,)))).passed
    assert not (await other.take(take(slots=(slots,)))).passed
    one.give(Give((), (slots,)))
    await one.beat()
    assert (await other.take(take(slots=(slots,)))).passed


def test_a_full_table_forgets_who_is_idle_and_keeps_who_is_not(tmp_path: Path) -> None:
    """More counters than there are places, all in one set: the one in debt is still known."""
    clock = Clock()
    store = SharedMemory(tmp_path / "limits", clock)
    start = bytes(4)
    busy = Scope("ip", "", "requests", 60, "busy", start + b"b" * 12, scope("requests", 60).bucket)
    assert store.take_now(take((busy, 50))).passed
    for number in range(3 * WAYS):
        clock.now += 0.001
        other = Scope("ip", "", "requests", 6_000, f"{number}", start + number.to_bytes(12, "big"), scope("requests", 6_000).bucket)
        assert store.take_now(take((other, 1))).passed
    assert not store.take_now(take((busy, 1))).passed
    assert BUCKETS % WAYS == 0
    store.close()


def of_one_set(measure: Measure, limit: int, name: str) -> Scope:
    """A scope that shares its set of places with all others of this."""
    return msgspec.structs.replace(scope(measure, limit, name), digest=bytes(4) + hashlib.sha256(name.encode()).digest()[:12])


def test_two_concurrencies_of_one_request_in_one_set_have_a_place_each(tmp_path: Path) -> None:
    store = SharedMemory(tmp_path / "limits", Clock())
    tenant, key = of_one_set("concurrency", 2, "tenant"), of_one_set("concurrency", 2, "key")
    both = take(slots=(tenant, key))
    for _ in range(3):
        assert store.take_now(both).passed
        assert store.take_now(both).passed
        assert not store.take_now(take(slots=(tenant,))).passed
        assert not store.take_now(take(slots=(key,))).passed
        store.give(Give(slots=both.slots))
        store.give(Give(slots=both.slots))
    store.close()


def test_a_concurrency_that_is_idle_keeps_its_place_beside_one_that_is_new(tmp_path: Path) -> None:
    """The first is known and nothing of it runs, and every other place of the set is in use."""
    store = SharedMemory(tmp_path / "limits", Clock())
    idle = of_one_set("concurrency", 1, "idle")
    assert store.take_now(take(slots=(idle,))).passed
    others = [of_one_set("concurrency", 1, f"{number}") for number in range(WAYS - 1)]
    for other in others:
        assert store.take_now(take(slots=(other,))).passed
    store.give(Give(slots=(idle,)))
    with pytest.raises(StoreAway):
        store.take_now(take(slots=(idle, of_one_set("concurrency", 1, "new"))))
    store.give(Give(slots=(others[0],)))
    both = take(slots=(idle, of_one_set("concurrency", 1, "new")))
    assert store.take_now(both).passed
    assert [store.take_now(take(slots=(each,))).passed for each in both.slots] == [False, False]
    store.close()


def test_two_buckets_of_one_request_in_a_full_set_have_a_place_each(tmp_path: Path) -> None:
    clock = Clock()
    store = SharedMemory(tmp_path / "limits", clock)
    for number in range(WAYS):
        assert store.take_now(take((of_one_set("requests", 6_000, f"{number}"), 1 + number))).passed
    clock.now += 0.001
    tenant, key = of_one_set("requests", 60, "tenant"), of_one_set("requests", 60, "key")
    assert store.take_now(take((tenant, 40), (key, 40))).passed
    assert [store.take_now(take((each, 40))).passed for each in (tenant, key)] == [False, False]
    many = tuple((of_one_set("requests", 60, f"{number} of many"), 1.0) for number in range(WAYS + 1))
    with pytest.raises(StoreAway):
        store.take_now(take(*many))
    store.give(Give(take(*many).charges))
    store.close()
