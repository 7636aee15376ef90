"""Guessing slowed: exactly as much as said, in bounded memory, and nobody beside the guesser."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.credentials.slowing import PER_S, Slowing, TooMany
from tests.serving import until


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def attempt(slowing: Slowing, names: Sequence[str], digest: bytes, good: bool) -> bool:
    """Whether it was looked at."""
    if slowing.known_good(digest):
        names = ()
    try:
        await slowing.enter(names, digest)
    except TooMany:
        return False
    slowing.leave(names, digest, good)
    slowing.was(digest, good)
    return True


async def test_the_limit_is_looked_at_at_once_and_then_one_in_two_seconds() -> None:
    clock = Clock()
    slowing = Slowing(30, clock)
    looked = [await attempt(slowing, ["a"], b"%d" % number, False) for number in range(100)]
    assert looked == [True] * 30 + [False] * 70
    with pytest.raises(TooMany) as caught:
        await slowing.enter(["a"], b"another")
    assert caught.value.wait_s == pytest.approx(PER_S / 30)
    count = 0
    for number in range(1000):
        clock.now += 0.06
        count += await attempt(slowing, ["a"], b"later %d" % number, False)
    assert count == pytest.approx(30, abs=1)


async def test_other_addresses_and_known_keys_are_not_slowed() -> None:
    slowing = Slowing(5, Clock())
    assert await attempt(slowing, ["a"], b"mine", True)
    for number in range(20):
        await attempt(slowing, ["a"], b"%d" % number, False)
    assert not await attempt(slowing, ["a"], b"new", True)
    assert await attempt(slowing, ["a"], b"mine", True)
    assert await attempt(slowing, ["b"], b"new", True)
    assert await attempt(slowing, ["a"], b"new", True)  # it is known now


async def test_a_key_that_was_good_and_is_revoked_is_a_failure_like_any_other() -> None:
    slowing = Slowing(3, Clock())
    assert await attempt(slowing, ["a"], b"mine", True)
    assert await attempt(slowing, ["a"], b"mine", False)
    assert not slowing.known_good(b"mine")
    assert [await attempt(slowing, ["a"], b"mine", False) for _ in range(5)] == [True, True, False, False, False]


async def test_the_same_wrong_key_again_leaves_half_of_the_room_to_others() -> None:
    clock = Clock()
    slowing = Slowing(10, clock)
    assert sum([await attempt(slowing, ["a"], b"stale", False) for _ in range(100)]) == 5
    for number in range(5):
        assert await attempt(slowing, ["a"], b"new %d" % number, True)
    for _ in range(100):
        clock.now += 0.5
        await attempt(slowing, ["a"], b"stale", False)
        assert await attempt(slowing, ["a"], b"at %f" % clock.now, True)


async def test_failures_count_for_every_name_over_all_the_others() -> None:
    slowing = Slowing(10, Clock())
    for number in range(10):
        assert await attempt(slowing, [f"from {number}", "key hg-abcd"], b"%d" % number, False)
    assert not await attempt(slowing, ["from elsewhere", "key hg-abcd"], b"x", False)
    assert await attempt(slowing, ["from elsewhere", "key hg-efgh"], b"y", False)


async def test_a_hundred_thousand_addresses_take_the_room_of_the_most() -> None:
    slowing = Slowing(5, Clock(), most_names=1000, most_digests=500)
    for number in range(100_000):
        await attempt(slowing, [f"from {number}"], b"%d" % number, number % 2 == 0)
    assert len(slowing) == 1000
    assert len(slowing._good) == len(slowing._bad) == 500


async def test_of_a_thousand_wrong_guesses_at_the_same_time_no_more_than_the_limit_are_looked_at() -> None:
    slowing = Slowing(30, Clock())
    looked = 0
    most = 0
    gate = asyncio.Event()

    async def guess(number: int) -> None:
        nonlocal looked, most
        await slowing.enter(["a"], b"%d" % number)
        looked += 1
        most = max(most, slowing._buckets["a"].running)
        await gate.wait()
        slowing.leave(["a"], b"%d" % number, False)

    guesses = [asyncio.create_task(guess(number)) for number in range(1000)]
    await until(lambda: looked == 30)
    gate.set()
    done = await asyncio.gather(*guesses, return_exceptions=True)
    assert sum(isinstance(each, TooMany) for each in done) == 970
    assert (looked, most) == (30, 30)


async def test_two_hundred_new_good_keys_at_the_same_time_all_pass() -> None:
    slowing = Slowing(30, Clock())
    assert all(await asyncio.gather(*(_slow_attempt(slowing, number) for number in range(200))))
    assert slowing._buckets["a"].running == 0


async def _slow_attempt(slowing: Slowing, number: int, good: bool = True) -> bool:
    await slowing.enter(["a", f"key {number}"], b"%d" % number)
    await asyncio.sleep(0)
    slowing.leave(["a", f"key {number}"], b"%d" % number, good)
    return True


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("xyz")), max_size=60), st.integers(1, 5))
async def test_nobody_waits_for_ever_whoever_gives_up(attempts: list[tuple[bool, bool, str]], limit: int) -> None:
    slowing = Slowing(limit, Clock(), most_names=3)

    async def one(number: int, good: bool, second: str) -> None:
        names = ["a", second]
        await slowing.enter(names, b"%d" % number)
        try:
            await asyncio.sleep(0)
        finally:
            slowing.leave(names, b"%d" % number, good)

    tasks = [asyncio.create_task(one(number, good, second)) for number, (good, _, second) in enumerate(attempts)]
    await asyncio.sleep(0)
    for task, (_, leaves, _) in zip(tasks, attempts, strict=True):
        if leaves:
            task.cancel()
    async with asyncio.timeout(30):
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(each is None or isinstance(each, TooMany | asyncio.CancelledError) for each in done)
    assert all(bucket.running == 0 and not bucket.waiting for bucket in slowing._buckets.values())


async def test_zero_slows_nobody() -> None:
    slowing = Slowing(0, Clock())
    assert all([await attempt(slowing, ["a"], b"x", False) for _ in range(1000)])
    assert len(slowing) == 0
