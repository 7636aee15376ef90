"""The checks of the rules and of the ladder below them: what can never match, never decide, never be chosen or never be allowed."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from adapters.backend import DATA_CLASSES, BackendSpec, DataClass, clearance_of, kind_named, may_see
from config.prices import Price
from config.yamlfile import Path, nearest
from policies.access import TENANT_MATRIX
from policies.conditions import contradictions, facts, implies, placed_parts
from policies.ladder import fallbacks
from policies.matching import minutes
from policies.schema import TAG, Complexity, Fallback, PolicyFile, Rule, Tenant, TimeOfDay, Use, When, one_or_more

CHATTING = frozenset(role for role, actions in TENANT_MATRIX.items() if "chat" in actions)


class Report(Protocol):
    def __call__(self, path: Path, message: str, suggestion: str | None = None, *, key: bool = False) -> None: ...


class RuleChecker:
    """`known` are the backends that are written down; `specs` those of them whose tables have no problem."""

    def __init__(
        self,
        file: PolicyFile,
        tenants: Mapping[Path, Tenant],
        specs: Mapping[str, BackendSpec],
        known: list[str],
        price_of: Callable[[str, BackendSpec], Price | None],
        report: Report,
    ) -> None:
        self.file = file
        self.tenants = tenants
        self.specs = specs
        self.known = known
        self.price_of = price_of
        self._add = report

    def run(self, written: Iterable[str], builtin: Iterable[str]) -> None:
        """`written` are the file's sections, whether they are valid or not; a `builtin` backend alone is no answer to a request that no rule matches."""
        for index, rule in enumerate(self.file.rules):
            path: Path = ("rules", index)
            self._use(rule, path)
            self._when(rule.when, (*path, "when"))
            self._pins(rule, path)
            self._clearance(rule, path)
            self._quality(rule, path)
            self.fallback(rule.fallback, (*path, "fallback"))
            self._locked_fallback(rule, path)
            self._shadowed(index, rule, path)
        self.ladder(self.file.default, self.file.complexity, self.file.fallback, ())
        for path, tenant in self.tenants.items():
            self.ladder(tenant.default, tenant.complexity, tenant.fallback, path)
        self._somewhere(set(written), set(builtin))

    # --- names -----------------------------------------------------------------------------------------------------------------------

    def exists(self, name: str, path: Path, *, key: bool = False) -> None:
        if name not in self.known:
            near = nearest(name, self.known)
            self._add(path, f"there is no backend {name!r}" + ("" if near else f"; there are {', '.join(self.known)}"), near, key=key)

    def names(self, names: Iterable[str], path: Path) -> None:
        seen: set[str] = set()
        for index, name in enumerate(names):
            self.exists(name, (*path, index))
            if name in seen:
                self._add((*path, index), f"{name!r} stands in this list twice")
            seen.add(name)

    def fallback(self, fallback: tuple[str, ...] | Fallback | None, path: Path) -> None:
        if isinstance(fallback, Fallback):
            for name in fallback.__struct_fields__:
                self.names(getattr(fallback, name) or (), (*path, name))
        else:
            self.names(fallback or (), path)

    # --- the ladder ------------------------------------------------------------------------------------------------------------------

    def ladder(self, default: str | tuple[str, ...] | None, complexity: Complexity | None, fallback: tuple[str, ...] | Fallback | None, path: Path) -> None:
        """The file's, or a tenant's."""
        if isinstance(default, str):
            self.exists(default, (*path, "default"))
        else:
            self.names(default or (), (*path, "default"))
            if default == ():
                self._add((*path, "default"), "an empty list routes nothing")
        self.fallback(fallback, (*path, "fallback"))
        if complexity is not None:
            self.exists(complexity.weak, (*path, "complexity", "weak"))
            self.exists(complexity.strong, (*path, "complexity", "strong"))
            if complexity.explore and complexity.weak == complexity.strong:
                self._add((*path, "complexity", "explore"), f"does nothing: weak and strong are both {complexity.weak!r}")

    def _somewhere(self, written: set[str], builtin: set[str]) -> None:
        file = self.file
        valid = {name for name, value in (("default", file.default), ("complexity", file.complexity), ("rules", file.rules)) if value}
        catches_all = any(rule.when == When() for rule in file.rules) or {"default", "complexity", "rules"} & written - valid
        if not (file.default or file.complexity or file.tenant_defaults.default or catches_all or set(fallbacks(file).default) - builtin):
            self._add((), "a request that no rule matches would go nowhere: set 'default'")

    # --- one rule --------------------------------------------------------------------------------------------------------------------

    def _use(self, rule: Rule, path: Path) -> None:
        use, place = rule.use, (*path, "use")
        if isinstance(use, Use):
            way = use.ways[0]
            place = (*place, way)
            if use.sticky is not None and use.weighted is None:
                self._add((*path, "use", "sticky"), f"does nothing without 'weighted': only there is anything drawn, and this is {way!r}")
            if use.weighted is not None:
                for name in use.weighted:
                    self.exists(name, (*place, name), key=True)
                if sum(use.weighted.values()) <= 0:
                    self._add(place, "the weights sum to 0: nothing could ever be chosen")
                return
        self.names(rule.backends, place)
        if not rule.backends:
            self._add(place, "an empty list routes nothing")

    def _when(self, when: When, path: Path) -> None:
        for place, part in placed_parts(when, path):
            for field in When.__struct_fields__:
                if getattr(part, field) == ():
                    self._add((*place, field), "an empty list says nothing; leave it out" if field == "all" else "an empty list matches nothing")
            if part.none == When():
                self._add((*place, "not"), "an empty condition always holds, so that this never does")
            for index, role in enumerate(one_or_more(part.role or ())):
                if role not in CHATTING:
                    self._add(_at(place, "role", part.role, index), f"the role {role} may not ask for answers, so that nothing can match")
            for index, tag in enumerate(one_or_more(part.tags or ())):
                if not re.fullmatch(TAG, tag):
                    self._add(_at(place, "tags", part.tags, index), f"no request can carry the tag {tag!r}: 1 to 32 letters, digits and _ . : - are")
            if part.backend is not None:
                self.exists(part.backend.name, (*place, "backend", "name"))
                if part.backend.ready is None and part.backend.max_queue is None and part.backend.max_wait_s is None:
                    self._add((*place, "backend"), "says nothing of the backend: give ready, max_queue or max_wait_s")
            if part.time is not None:
                self._time(part.time, (*place, "time"))
        for place, message in contradictions(when, path):
            self._add(place, message)

    def _time(self, part: TimeOfDay, path: Path) -> None:
        try:
            zoneinfo.ZoneInfo(part.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            near = nearest(part.zone, zoneinfo.available_timezones())
            self._add((*path, "zone"), f"there is no time zone {part.zone!r}; write it as Europe/Berlin", near)
        if minutes(part.start) % 1440 == minutes(part.to) % 1440 and (part.start, part.to) != ("00:00", "24:00"):
            self._add((*path, "to"), f"from {part.start} to {part.to} there is no time: `to` is the first minute after it")
        if minutes(part.start) == 1440:
            self._add((*path, "from"), "a day begins at 00:00")
        for index, day in enumerate(part.days):
            if day in part.days[:index]:
                self._add((*path, "days", index), f"{day!r} stands in this list twice")

    def _pins(self, rule: Rule, path: Path) -> None:
        """A request for a backend or a model by name is pinned, and no rule decides it."""
        models = {*self.known, *(spec.model for spec in self.specs.values())}
        if rule.lock or rule.pin_fallback:
            return
        for place, part in placed_parts(rule.when, (*path, "when")):
            for index, model in enumerate(one_or_more(part.model or ()) if "not" not in place else ()):
                if model in models:
                    told = f"a request for {model!r} pins that backend, so this rule can never decide it; use a name of its own, lock or pin_fallback"
                    self._add(_at(place, "model", part.model, index), told)

    def _clearance(self, rule: Rule, path: Path) -> None:
        """A lock must not hold data where some of its backends may not see it; a rule must not be about data that none of them may see."""
        found = facts(rule.when).one_of
        classes = [one for one in DATA_CLASSES if one in found.get("data_class", ())]
        specs = {name: self.specs[name] for name in rule.backends if name in self.specs}
        if len(specs) != len(rule.backends) or not specs:
            return
        if classes:
            low = {name: seen for name, spec in specs.items() for seen in [clearance_of(spec)] if not all(may_see(seen, one) for one in classes)}
            if rule.lock and low:
                listed = ", ".join(f"{name!r} ({clearance})" for name, clearance in low.items())
                self._add((*path, "use"), f"the rule locks {' and '.join(classes)} data to backends whose clearance is lower: {listed}")
                return
        else:
            classes = self._least_classes(found.get("tenant", frozenset()))
        if classes and not any(may_see(clearance_of(spec), one) for spec in specs.values() for one in classes):
            self._add((*path, "use"), f"none of these backends may see {' or '.join(classes)} data; raise a clearance or use another backend")

    def _least_classes(self, tenants: Iterable[str]) -> list[DataClass]:
        """The least sensitive data that a rule's tenants send; nothing where it is about any tenant."""
        floor = self.file.tenant_defaults
        least = {self.file.tenants.get(name, floor).data_class for name in tenants}
        return [one for one in DATA_CLASSES if one in least]

    def _quality(self, rule: Rule, path: Path) -> None:
        """Caps that a backend can never keep leave it out for good, whatever the request."""
        use = rule.use
        if not isinstance(use, Use):
            return
        way = (*path, "use", use.ways[0])
        for index, name in enumerate(use.names):
            spec = self.specs.get(name)
            place: Path = (*way, name) if use.weighted is not None else (*way, index)
            if spec is None:
                continue
            qualities = spec.quality.values() if isinstance(spec.quality, dict) else [spec.quality]
            best = max((quality for quality in qualities if quality is not None), default=None)
            if use.min_quality is not None and best is None:
                self._add(place, f"{name!r} has no quality, so min_quality always leaves it out; give it one: backends.{name}.quality", key=True)
            elif use.min_quality is not None and best is not None and best < use.min_quality:
                self._add(place, f"the quality of {name!r} is at most {best:g}, so that min_quality ({use.min_quality:g}) always leaves it out", key=True)
            price = spec.price or (self.price_of(name, spec) if kind_named(spec.kind).remote else None)
            if use.max_cost_usd == 0 and price is not None and (price.input or price.output or price.request):
                self._add(place, f"{name!r} costs money, so that max_cost_usd: 0 always leaves it out", key=True)

    def _locked_fallback(self, rule: Rule, path: Path) -> None:
        if not rule.lock or rule.fallback is None:
            return
        lists = {"": rule.fallback} if isinstance(rule.fallback, tuple) else {name: getattr(rule.fallback, name) for name in rule.fallback.__struct_fields__}
        for field, names in lists.items():
            for index, name in enumerate(names or ()):
                if name not in rule.backends:
                    place = (*path, "fallback", *([field] if field else []), index)
                    self._add(place, f"{name!r} is outside this rule's lock, so that it is never called; name it in 'use', or take it out")

    def _shadowed(self, index: int, rule: Rule, path: Path) -> None:
        """A rule behind one that holds whenever it does. A lock holds whichever rule decides, and pins are no matter of the first rule."""
        if rule.lock or facts(rule.when).impossible():
            return
        for earlier in self.file.rules[:index]:
            if (rule.pin_fallback and not earlier.pin_fallback) or not implies(rule.when, earlier.when):
                continue
            if earlier.when == When():
                self._add(path, f"this rule can never decide: rule {earlier.name!r} before it has no condition")
            else:
                told = f"this rule can never decide: rule {earlier.name!r} before it holds whenever this one does; put it before that one"
                self._add(path, told)
            return


def _at(place: Path, field: str, written: str | tuple[str, ...] | None, index: int) -> Path:
    """The place of one of a condition's values, whether it was written as one or as a list."""
    return (*place, field) if isinstance(written, str) else (*place, field, index)
