"""What can be said of conditions without any request: that one can never hold, and that one holds whenever another does. Pure.

Both are sound and not complete: what is said is so, and of what is more involved nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from config.yamlfile import Path
from policies.schema import BOUNDS, BackendIs, TimeOfDay, When, one_or_more

ONE_OF = ("tenant", "role", "data_class", "task", "language", "model")
"""Of these a request has exactly one."""

ANY_OF = ("key", "tags", "needs")
"""Of these it may have several."""

SEARCHED = ("hits", "context_tokens", "top_score")
"""What only a request that searched documents has."""

MOST_STEPS = 2_000
"""How far a proof is followed: conditions of `any` in `any` in `any` grow quickly."""


class Facts(Struct):
    """What holds where a condition does: each entry of each field is true."""

    one_of: dict[str, frozenset[str]] = {}
    any_of: dict[str, list[frozenset[str]]] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    grounded: set[bool] = msgspec.field(default_factory=set)
    times: list[TimeOfDay] = []
    backends: list[BackendIs] = []
    anys: list[tuple[When, ...]] = []
    nots: list[When] = []

    def impossible(self) -> bool:
        """Whether it can never hold."""
        if any(not values for values in self.one_of.values()) or len(self.grounded) > 1:
            return True
        if any(name in self.high and least > self.high[name] for name, least in self.low.items()):
            return True
        return False in self.grounded and any(self.low.get(name, 0) > 0 for name in SEARCHED)


def facts(*whens: When) -> Facts:
    """What holds where all of the conditions do."""
    found = Facts()
    for when in whens:
        for atom in atoms(when):
            _add(found, atom)
    return found


def atoms(when: When) -> Iterator[When]:
    """The conditions that must all hold, `all` resolved."""
    for _, atom in placed_atoms(when, ()):
        yield atom


def placed_atoms(when: When, path: Path) -> Iterator[tuple[Path, When]]:
    """The same, each with its place."""
    yield path, when
    for index, part in enumerate(when.all or ()):
        yield from placed_atoms(part, (*path, "all", index))


def placed_parts(when: When, path: Path) -> Iterator[tuple[Path, When]]:
    """A condition and everything inside it, with its place."""
    yield path, when
    for name, parts in (("all", when.all), ("any", when.any)):
        for index, part in enumerate(parts or ()):
            yield from placed_parts(part, (*path, name, index))
    if when.none is not None:
        yield from placed_parts(when.none, (*path, "not"))


def _add(found: Facts, when: When) -> None:
    for name in ONE_OF:
        if (written := getattr(when, name)) is not None:
            values = frozenset(one_or_more(written))
            found.one_of[name] = found.one_of[name] & values if name in found.one_of else values
    for name in ANY_OF:
        if (written := getattr(when, name)) is not None:
            found.any_of.setdefault(name, []).append(frozenset(one_or_more(written)))
    for name, _ in BOUNDS:
        least, most = getattr(when, f"min_{name}"), getattr(when, f"max_{name}")
        if least is not None:
            found.low[name] = max(least, found.low.get(name, least))
        if most is not None:
            found.high[name] = min(most, found.high.get(name, most))
    if when.grounded is not None:
        found.grounded.add(when.grounded)
    if when.time is not None:
        found.times.append(when.time)
    if when.backend is not None:
        found.backends.append(when.backend)
    if when.any is not None:
        found.anys.append(when.any)
    if when.none is not None:
        found.nots.append(when.none)


def implies(first: When, second: When) -> bool:
    """Whether the second surely holds wherever the first does."""
    return _Proof().holds((first,), second)


class _Proof:
    def __init__(self) -> None:
        self._left = MOST_STEPS

    def holds(self, known: tuple[When, ...], wanted: When) -> bool:
        self._left -= 1
        if self._left < 0:
            return False
        found = facts(*known)
        if found.impossible() or all(self._atom(known, found, atom) for atom in atoms(wanted)):
            return True
        for index, group in enumerate(found.anys):  # whichever of them it is
            rest = tuple(_without_any(each, group) for each in known)
            if group and all(self.holds((*rest, branch), wanted) for branch in group):
                return True
            if index >= 3:
                break
        return False

    def _atom(self, known: tuple[When, ...], found: Facts, wanted: When) -> bool:
        for name in ONE_OF:
            written = getattr(wanted, name)
            if written is not None and not (name in found.one_of and found.one_of[name] <= frozenset(one_or_more(written))):
                return False
        for name in ANY_OF:
            written = getattr(wanted, name)
            if written is not None and not any(values <= frozenset(one_or_more(written)) for values in found.any_of.get(name, ())):
                return False
        for name, _ in BOUNDS:
            least, most = getattr(wanted, f"min_{name}"), getattr(wanted, f"max_{name}")
            if (least is not None and found.low.get(name, -1) < least) or (most is not None and found.high.get(name, most + 1) > most):
                return False
        if wanted.grounded is not None and found.grounded != {wanted.grounded}:
            return False
        if (wanted.time is not None and wanted.time not in found.times) or (wanted.backend is not None and wanted.backend not in found.backends):
            return False
        if wanted.any is not None and not any(self.holds(known, branch) for branch in wanted.any):
            return False
        return wanted.none is None or self._never(known, found, wanted.none)

    def _never(self, known: tuple[When, ...], found: Facts, unwanted: When) -> bool:
        """Whether it surely does not hold where all of `known` does."""
        return facts(*known, unwanted).impossible() or any(self.holds((unwanted,), excluded) for excluded in found.nots)


def _without_any(when: When, group: tuple[When, ...]) -> When:
    inside = None if when.all is None else tuple(_without_any(part, group) for part in when.all)
    return msgspec.structs.replace(when, all=inside, any=None if when.any is group else when.any)


def contradictions(when: When, path: Path) -> Iterator[tuple[Path, str]]:
    """The places of conditions that can never hold beside the others, each with a sentence for people."""
    yield from _conjunction(when, path, ())
    for place, part in placed_parts(when, path):
        if part is not when and place[-1] == "not":
            yield from _conjunction(part, place, ())


def _conjunction(when: When, path: Path, outer: tuple[When, ...]) -> Iterator[tuple[Path, str]]:
    """Of conditions that must all hold, each is looked at beside those before it."""
    before = facts(*outer)
    branches: list[tuple[Path, tuple[When, ...]]] = []
    for place, atom in placed_atoms(when, path):
        yield from _clash(before, atom, place)
        _add(before, atom)
        if atom.any is not None:
            branches.append(((*place, "any"), atom.any))
    if before.impossible():
        return
    everything = (*outer, when)
    for place, parts in branches:
        for index, branch in enumerate(parts):
            yield from _conjunction(branch, (*place, index), tuple(_without_any(each, parts) for each in everything))
    for place, atom in placed_atoms(when, path):
        if atom.none is not None and atom.none != When() and implies(_without_not(when, atom.none), atom.none):
            yield (*place, "not"), "this excludes all that the conditions beside it let through: nothing can match"


def _without_not(when: When, inner: When) -> When:
    inside = None if when.all is None else tuple(_without_not(part, inner) for part in when.all)
    return msgspec.structs.replace(when, all=inside, none=None if when.none is inner else when.none)


def _clash(before: Facts, atom: When, place: Path) -> Iterator[tuple[Path, str]]:
    for name in ONE_OF:
        written = getattr(atom, name)
        known = before.one_of.get(name)
        if written is not None and known and one_or_more(written) and not known & frozenset(one_or_more(written)):
            yield (*place, name), f"a request has one {name}, and another condition that must hold too wants {_or(known)}: nothing can match"
    for name, _ in BOUNDS:
        least, most = getattr(atom, f"min_{name}"), getattr(atom, f"max_{name}")
        if least is not None and most is not None and least > most:
            yield (*place, f"min_{name}"), f"{least} is more than max_{name} ({most}): nothing can match"
        elif least is not None and name in before.high and least > before.high[name]:
            yield (*place, f"min_{name}"), f"{least} is more than max_{name} ({before.high[name]}) of a condition that must hold too: nothing can match"
        elif most is not None and name in before.low and most < before.low[name]:
            yield (*place, f"max_{name}"), f"{most} is less than min_{name} ({before.low[name]}) of a condition that must hold too: nothing can match"
    if atom.grounded is not None and before.grounded and before.grounded != {atom.grounded}:
        yield (*place, "grounded"), "another condition that must hold too wants the opposite: nothing can match"
    if False in before.grounded | ({atom.grounded} if atom.grounded is not None else set()):
        for name in SEARCHED:
            if (getattr(atom, f"min_{name}") or 0) > 0:
                yield (*place, f"min_{name}"), "a request that is not grounded has searched nothing: nothing can match beside grounded: false"


def _or(names: Any) -> str:
    return " or ".join(repr(name) for name in sorted(names))
