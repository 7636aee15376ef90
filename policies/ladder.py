"""What the policy names for a request before anything is filtered: the fallbacks of a rule, a tenant and the policy, one over the other."""

from __future__ import annotations

from typing import get_args

from msgspec import Struct

from policies.schema import ErrorClass, Fallback, PolicyFile

ERROR_CLASSES: tuple[ErrorClass, ...] = get_args(ErrorClass)


class Fallbacks(Struct, frozen=True):
    """What is tried when `use` has nothing left, and after failures of the classes that have a list of their own."""

    default: tuple[str, ...] = ()
    classes: dict[ErrorClass, tuple[str, ...]] = {}

    def under(self, written: tuple[str, ...] | Fallback | None) -> Fallbacks:
        """These, with what was written on a narrower level over them: a list replaces all of them, a table what it says."""
        if written is None:
            return self
        if isinstance(written, tuple):
            return Fallbacks(written)
        own = {name: names for name in ERROR_CLASSES if (names := getattr(written, name)) is not None}
        return Fallbacks(self.default if written.default is None else written.default, {**self.classes, **own})


BUILT_IN = Fallbacks(("extractive",))


def fallbacks(file: PolicyFile, *narrower: tuple[str, ...] | Fallback | None) -> Fallbacks:
    """The policy's, with those of each narrower level (a tenant's, then a rule's) over them."""
    found = BUILT_IN.under(file.fallback)
    for each in narrower:
        found = found.under(each)
    return found
