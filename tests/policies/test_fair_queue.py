"""Who waits is served by class, and within a class fairly between keys."""

from __future__ import annotations

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from policies.fair_queue import FairQueue

Item = tuple[int, str, float, int]
items = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.floats(0, 5_000)), max_size=60)


def filled(given_items: list[tuple[int, str, float]], quantum: float = 1_000) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue(quantum)
    for number, (priority, key, cost) in enumerate(given_items):
        queue.push(priority, key, cost, (priority, key, cost, number))
    return queue


def drained(queue: FairQueue[Item]) -> list[Item]:
    found = []
    while (item := queue.next()) is not None:
        assert queue.next() is item, "asked again, the answer is the same"
        assert queue.remove(item[0], item[1], item, served=True)
        found.append(item)
    return found


@given(items)
def test_everything_is_served_once_by_class_and_in_each_keys_order(given_items: list[tuple[int, str, float]]) -> None:
    queue = filled(given_items)
    served = drained(queue)
    assert len(queue) == 0
    assert sorted(item[3] for item in served) == list(range(len(given_items)))
    assert [item[0] for item in served] == sorted(item[0] for item in served)
    for priority in range(3):
        for key in "abc":
            own = [item[3] for item in served if item[:2] == (priority, key)]
            assert own == sorted(own)


@given(st.lists(st.floats(1, 5_000), min_size=30, max_size=60), st.lists(st.floats(1, 5_000), min_size=30, max_size=60))
def test_while_two_keys_wait_neither_is_served_much_more_than_the_other(left: list[float], right: list[float]) -> None:
    quantum, largest = 1_000.0, max(*left, *right)
    queue = filled([(0, "a", cost) for cost in left] + [(0, "b", cost) for cost in right], quantum)
    waiting = {"a": deque(left), "b": deque(right)}
    served = {"a": 0.0, "b": 0.0}
    for _, key, cost, _ in drained(queue):
        served[key] += cost
        waiting[key].popleft()
        if not (waiting["a"] and waiting["b"]):
            break
        assert abs(served["a"] - served["b"]) <= 2 * largest + 2 * quantum


def test_a_key_with_a_thousand_waiting_does_not_hold_up_one_with_a_single_request() -> None:
    queue = filled([(1, "flood", 100.0)] * 1_000 + [(1, "quiet", 100.0)])
    assert "quiet" in [item[1] for item in drained(queue)[:20]]


def test_what_may_not_come_now_holds_up_nobody_and_keeps_its_place() -> None:
    queue = filled([(1, "a", 1.0), (1, "a", 1.0), (1, "b", 1.0)])
    item = queue.next(lambda each: each[1] != "a")
    assert item is not None
    assert item[1] == "b"
    queue.remove(item[0], item[1], item, served=True)
    assert queue.next(lambda each: each[1] != "a") is None
    assert [each[3] for each in drained(queue)] == [0, 1]


def test_whoever_leaves_is_forgotten() -> None:
    queue = filled([(1, "a", 1.0), (1, "b", 1.0)])
    first = queue.next()
    assert first is not None
    assert queue.remove(first[0], first[1], first)
    assert not queue.remove(first[0], first[1], first)
    assert Counter(item[1] for item in queue) == Counter(["b"])
