"""The checks of a cascade and of ensembles that their types cannot express: backends that must exist, and parts that could never play."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from adapters.backend import BackendSpec
from config.yamlfile import Path, nearest
from policies.schema import PolicyFile, Use
from policies.verification.spec import Cascade

QUOTING = "extractive"


class Trouble(NamedTuple):
    path: Path
    message: str
    suggestion: str | None = None


def cascade_problems(file: PolicyFile, known: Collection[str], specs: Mapping[str, BackendSpec]) -> Iterator[Trouble]:
    """Every problem of the policy's `cascade` and of its rules' `best_of`."""
    if file.cascade is not None:
        yield from _cascade(file.cascade, known, specs)
    for index, rule in enumerate(file.rules):
        if isinstance(rule.use, Use) and rule.use.best_of is not None:
            yield from _ensemble(rule.use, ("rules", index, "use"), known, specs)


def _cascade(cascade: Cascade, known: Collection[str], specs: Mapping[str, BackendSpec]) -> Iterator[Trouble]:
    path: Path = ("cascade",)
    yield from _names(cascade.on, (*path, "on"), known)
    to = (*path, "to")
    if cascade.to == ():
        yield Trouble(to, "an empty list: leave `to` out, or name the backend that answers where the check fails")
    places = [to] if isinstance(cascade.to, str) else [(*to, index) for index in range(len(cascade.stronger))]
    yield from _names(cascade.stronger, to, known, alone=isinstance(cascade.to, str))
    for place, name in zip(places, cascade.stronger, strict=True):
        if name in cascade.on:
            yield Trouble(place, f"{name!r} stands in `on` too: a backend cannot answer in place of itself")
        elif _quotes(name, specs):
            yield Trouble(place, f"{name!r} only quotes documents: it is stronger than none")
    if cascade.stronger and not cascade.max_escalations:
        yield Trouble(to, "does nothing with max_escalations: 0, which only watches")
    if cascade.to is None and cascade.max_escalations and set(cascade.on) >= {name for name in known if not _quotes(name, specs)}:
        yield Trouble((*path, "on"), "every backend stands in `on`: none is left that could answer where the check fails")
    for index, signal in enumerate(cascade.verify):
        if signal in cascade.verify[:index]:
            yield Trouble((*path, "verify", index), f"{signal!r} stands in this list twice")


def _ensemble(use: Use, path: Path, known: Collection[str], specs: Mapping[str, BackendSpec]) -> Iterator[Trouble]:
    yield from _names(use.best_of or (), (*path, "best_of"), known)
    for index, name in enumerate(use.best_of or ()):
        if _quotes(name, specs):
            yield Trouble((*path, "best_of", index), f"{name!r} only quotes documents; put it into `fallback`")
    if use.judge is not None:
        yield from _names((use.judge,), (*path, "judge"), known, alone=True)
        if _quotes(use.judge, specs):
            yield Trouble((*path, "judge"), f"{use.judge!r} only quotes documents: it cannot judge")


def _names(names: tuple[str, ...], path: Path, known: Collection[str], *, alone: bool = False) -> Iterator[Trouble]:
    for index, name in enumerate(names):
        place = path if alone else (*path, index)
        if name not in known:
            near = nearest(name, known)
            yield Trouble(place, f"there is no backend {name!r}" + ("" if near else f"; there are {', '.join(known)}"), near)
        elif name in names[:index]:
            yield Trouble(place, f"{name!r} stands in this list twice")


def _quotes(name: str, specs: Mapping[str, BackendSpec]) -> bool:
    return name in specs and specs[name].kind == QUOTING
