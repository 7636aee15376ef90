"""A queue that is fair between keys: higher classes first, and within a class deficit round robin by what the keys' requests cost. Pure.

Source: M. Shreedhar, G. Varghese, Efficient Fair Queuing using Deficit Round Robin, SIGCOMM 1995. While several keys wait in a class, what two of
them were served differs by at most the largest cost and a quantum, whatever each of them sends and however fast.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Lane(Generic[T]):
    """What one key has waiting, first come, first served. `deficit` is what it may still be served in this round."""

    def __init__(self) -> None:
        self.items: deque[tuple[float, T]] = deque()
        self.deficit = 0.0


class FairQueue(Generic[T]):
    """Items of `(class, key, cost)`. Lower class numbers come first. `quantum` is what a key is served in a round."""

    def __init__(self, quantum: float = 1.0) -> None:
        self._quantum = quantum
        self._classes: dict[int, OrderedDict[str, _Lane[T]]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        for number in sorted(self._classes):
            for lane in self._classes[number].values():
                for _, item in lane.items:
                    yield item

    def push(self, number: int, key: str, cost: float, item: T) -> None:
        lanes = self._classes.setdefault(number, OrderedDict())
        lanes.setdefault(key, _Lane()).items.append((max(cost, 0.0), item))
        self._length += 1

    def remove(self, number: int, key: str, item: T, *, served: bool = False) -> bool:
        """Take an item out: one that waits no more, or, `served`, one that had its turn. False where it is not there."""
        lane = self._classes.get(number, OrderedDict()).get(key)
        entry = None if lane is None else next((entry for entry in lane.items if entry[1] is item), None)
        if lane is None or entry is None:
            return False
        lane.items.remove(entry)
        self._length -= 1
        if served:
            lane.deficit -= entry[0]
        lanes = self._classes[number]
        if not lane.items:  # a key that has nothing waiting saves nothing
            del lanes[key]
            if not lanes:
                del self._classes[number]
        elif served and lane.deficit < lane.items[0][0]:
            lanes.move_to_end(key)  # its turn is over
        return True

    def next(self, may: Callable[[T], bool] = lambda _: True) -> T | None:
        """Whose turn it is among those that `may` come, still in the queue; None where none may.

        A key whose first item may not come holds up no other. Asked again before `remove`, the answer is the same unless others may come now.
        """
        for number in sorted(self._classes):
            lanes = self._classes[number]
            able = {key: lane.items[0][0] for key, lane in lanes.items() if may(lane.items[0][1])}
            if able:
                return lanes[self._turn(lanes, able)].items[0][1]
        return None

    def _turn(self, lanes: OrderedDict[str, _Lane[T]], able: dict[str, float]) -> str:
        """The key whose turn it is. Rounds in which nobody has saved enough are passed over at once."""
        lacking = min(cost - lanes[key].deficit for key, cost in able.items())
        skipped = max(0.0, -(-lacking // self._quantum) - 1) * self._quantum
        for key in able:
            lanes[key].deficit += skipped
        while True:
            for key in [key for key in lanes if key in able]:
                lane = lanes[key]
                if lane.deficit < able[key]:
                    lane.deficit += self._quantum
                if lane.deficit >= able[key]:
                    return key
                lanes.move_to_end(key)
