"""The checks of a policy that its types cannot express: names that must exist, rules that could never work, prices that must be known."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from urllib.parse import urlsplit

import msgspec

from adapters.backend import BackendSpec, RemoteSpec, kind_named
from adapters.embedders.spec import EmbedderSpec
from adapters.embedding import BUNDLED
from config.prices import FREE, Price
from config.yamlfile import Path, Places, Problem, nearest
from policies.check_cascade import cascade_problems
from policies.check_federation import federation_problems
from policies.check_rules import RuleChecker
from policies.check_trials import trial_backends, trial_problems
from policies.hosts import is_host, is_private
from policies.moderation import RuleError
from policies.overlay import compiled, merge_moderation, prompt_redaction
from policies.schema import OTHER_TASKS, TASKS, Alerts, Case, Limits, Moderation, PolicyFile, Tenant

_NAME = re.compile(r"[\w .:/@+-]{1,64}", re.ASCII)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Checker:
    """One pass of checks over one file. A backend counts as known when it is written down, even if its table has a problem of its own."""

    def __init__(
        self,
        file: PolicyFile,
        places: Places,
        builtin: Mapping[str, BackendSpec],
        price_of: Callable[[str, BackendSpec], Price | None],
        private_addresses: bool,
    ) -> None:
        self.file = file
        self.places = places
        self.builtin = builtin
        self.price_of = price_of
        self.private_addresses = private_addresses
        self.specs = {**builtin, **file.backends}
        self.known = sorted({*builtin, *file.backends, *places.keys(("backends",))})
        self.problems: list[Problem] = []
        self.tenants: dict[Path, Tenant] = {("tenants", name): tenant for name, tenant in file.tenants.items()}
        if file.tenant_defaults != Tenant():
            self.tenants[("tenant_defaults",)] = file.tenant_defaults
        self.rules = RuleChecker(file, self.tenants, self.specs, self.known, price_of, self._add)

    def run(self) -> list[Problem]:
        for name, spec in self.file.backends.items():
            self._backend(name, spec)
        for name, embedder in self.file.embedders.items():
            self._embedder(name, embedder)
        self._rule_names()
        self.rules.run(self.places.keys(()), self.builtin)
        if self.file.history.summarise_with is not None:
            self.rules.exists(self.file.history.summarise_with, ("history", "summarise_with"))
        for name, place in trial_backends(self.file, self.tenants):
            self.rules.exists(name, place)
        for place, message in trial_problems(self.file, self.tenants, {name: self._price(name, spec) for name, spec in self.specs.items()}):
            self._add(place, message)
        for trouble in cascade_problems(self.file, self.known, self.specs):
            self._add(*trouble)
        self._moderation()
        self._alerts(self.file.alerts, ("alerts",))
        for path, tenant in self.tenants.items():
            if tenant.history is not None and tenant.history.summarise_with is not None:
                self.rules.exists(tenant.history.summarise_with, (*path, "history", "summarise_with"))
            for budgeted in tenant.budget_usd.models:
                self._budgeted(budgeted, (*path, "budget_usd", "models", budgeted))
            if tenant.on_budget_end is not None:
                self.rules.exists(tenant.on_budget_end, (*path, "on_budget_end"))
            self._alerts(tenant.alerts, (*path, "alerts"))
        self._limits()
        for place, message, on_key in federation_problems(self.file.identity, self.private_addresses):
            self._add(place, message, key=on_key)
        for index, case in enumerate(self.file.cases):
            self._case(case, ("cases", index))
        return self.problems

    def _add(self, path: Path, message: str, suggestion: str | None = None, *, key: bool = False) -> None:
        self.problems.append(self.places.problem(path, message, suggestion, key=key))

    def _name(self, name: str, path: Path, *, key: bool = False) -> None:
        """Names stand in response headers, in metrics and in the books."""
        if name and not _NAME.fullmatch(name):
            self._add(path, f"{name!r} is no name: 1 to 64 of the letters A to Z, digits, spaces and _ . : / @ + - are", key=key)

    def _budgeted(self, name: str, path: Path) -> None:
        models = {model for spec in self.specs.values() if (model := spec.model)}
        models |= {embedder.model for embedder in self.file.embedders.values()} | set(self.file.embedders)
        if name not in self.known and name not in models:
            near = nearest(name, [*self.known, *models])
            self._add(path, f"there is no backend, embedder or model {name!r}", near, key=True)

    def _backend(self, name: str, spec: BackendSpec) -> None:
        path = ("backends", name)
        self._name(name, path, key=True)
        if name in ("auto", ""):
            self._add(path, f"a backend cannot be called {name!r}: that model name lets the policy choose", key=True)
        if name in self.builtin and spec.kind != self.builtin[name].kind:
            self._add((*path, "kind"), f"{name!r} is built in and is of kind {self.builtin[name].kind!r}; choose another name")
        if isinstance(spec, RemoteSpec):
            self._server(spec, path)
        if spec.hedge is not None and spec.hedge.backend is not None:
            self.rules.exists(spec.hedge.backend, (*path, "hedge", "backend"))
        if spec.queue_s != BackendSpec(kind=spec.kind).queue_s and spec.slots() is None:
            self._add((*path, "queue_s"), "does nothing here: no `max_concurrency` of the gateway's own limits this backend")
        if not self.private_addresses:
            for key in spec.files():
                message = "names a file or folder of this machine; only the policy file may do that, unless settings.allow_private_backends is true"
                self._add((*path, key), message)
        for task in spec.quality if isinstance(spec.quality, dict) else ():
            if task not in TASKS and task != OTHER_TASKS:
                known = [*TASKS, OTHER_TASKS]
                near = nearest(task, known)
                self._add((*path, "quality", task), f"there is no task {task!r}" + ("" if near else f"; there are {', '.join(known)}"), near, key=True)
        self._prices(spec, path)
        if not kind_named(spec.kind).remote:
            return
        if spec.model is None:
            self._add(path, "the key 'model' is missing")
        elif spec.price is None and self.price_of(name, spec) is None:
            self._add(
                (*path, "model"), f"the price of {spec.model!r} is not known; add price: {{input: …, output: …}} to this backend, in USD per million tokens"
            )

    def _price(self, name: str, spec: BackendSpec) -> Price:
        return spec.price or (self.price_of(name, spec) if kind_named(spec.kind).remote else None) or FREE

    def _prices(self, spec: BackendSpec, path: Path) -> None:
        for day in spec.price_from:
            if not _is_day(day):
                self._add((*path, "price_from", day), f"{day!r} is no day; write it as 2027-01-31", key=True)
        prices = [((*path, "price"), spec.price), *(((*path, "price_from", day), price) for day, price in spec.price_from.items())]
        for where, price in prices:
            if price is None or not price.second:
                continue
            if kind_named(spec.kind).remote:
                self._add((*where, "second"), "prices time on this machine, and this backend runs elsewhere")
            elif spec.total_s is None:
                self._add((*where, "second"), "needs total_s on this backend: the longest time an attempt may run, which is set aside before it")

    def _server(self, spec: RemoteSpec, path: Path) -> None:
        if spec.api_key_env is not None and not spec.api_key_env.endswith("_API_KEY"):
            self._add((*path, "api_key_env"), f"must end in _API_KEY, found {spec.api_key_env!r}")
        if spec.base_url is not None:
            self._base_url(spec.base_url, (*path, "base_url"))
        self._headers(spec.headers, (*path, "headers"))

    def _embedder(self, name: str, embedder: EmbedderSpec) -> None:
        """Keys and clients name backends and embedders alike, so no two may share a name."""
        path = ("embedders", name)
        self._name(name, path, key=True)
        if name in ("auto", "", BUNDLED):
            self._add(path, f"an embedder cannot be called {name!r}: that name is taken", key=True)
        if name in self.known:
            self._add(path, f"there is a backend {name!r} already", key=True)
        spec = embedder.as_backend()
        self._server(spec, path)
        if spec.price is None and self.price_of(name, spec) is None:
            self._add(
                (*path, "model"), f"the price of {spec.model!r} is not known; add price: {{input: …, output: 0}} to this embedder, in USD per million tokens"
            )

    def _alerts(self, alerts: Alerts | None, path: Path) -> None:
        if alerts is None:
            return
        self._base_url(alerts.url, (*path, "url"), "what is sent is signed with the secret in secret_env")
        if not alerts.secret_env.endswith("_API_KEY"):
            self._add((*path, "secret_env"), f"must end in _API_KEY, found {alerts.secret_env!r}")
        for index, share in enumerate(alerts.at):
            if share in alerts.at[:index]:
                self._add((*path, "at", index), f"{share:g} stands in this list twice")

    def _base_url(self, url: str, path: Path, instead: str = "name a variable in api_key_env") -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
            valid = parts.scheme in ("http", "https") and parts.port != 0 and is_host(host)
        except ValueError:  # a port that is no number from 0 to 65535, or a torn IPv6 address
            valid = False
        if not valid or not url.isascii() or not url.isprintable() or " " in url:
            self._add(path, f"expected an http or https URL, found {url!r}")
        elif parts.username is not None or parts.password is not None:
            self._add(path, f"a URL must not hold a name or a password; {instead}")
        elif not self.private_addresses and is_private(host):
            self._add(path, f"{host} is a private address; only the policy file may name one, unless settings.allow_private_backends is true")

    def _headers(self, headers: Mapping[str, str], path: Path) -> None:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                self._add((*path, name), f"{name!r} is no name of an HTTP header", key=True)
            if any(not (character == "\t" or " " <= character <= "\xff") or "\x7f" <= character < "\xa0" for character in value):
                self._add((*path, name), "the value of an HTTP header is one line of printable Latin-1 characters")

    def _rule_names(self) -> None:
        seen: dict[str, int] = {}
        for index, rule in enumerate(self.file.rules):
            path = ("rules", index, "name")
            self._name(rule.name, path)
            if rule.name in seen:
                self._add(path, f"rule {seen[rule.name]} is called {rule.name!r} too")
            seen.setdefault(rule.name, index)

    def _moderation(self) -> None:
        cases: list[tuple[Path, Moderation, bool]] = [(("moderation",), self.file.moderation, bool(self.file.moderation.deny_list))]
        for place, tenant in self.tenants.items():
            if tenant.moderation is not None:
                own = bool(tenant.moderation.deny_list)
                cases.append(((*place, "moderation"), merge_moderation(self.file.moderation, tenant), own))
            self._redaction((*place, "prompts"), prompt_redaction(self.file.moderation, tenant))
        for path, moderation, lists in cases:
            try:
                compiled(moderation)
            except RuleError as error:
                self._add(self._culprit(path, moderation, str(error)), str(error))
            if lists and "deny-list" not in moderation.output:
                self._add((*path, "deny_list"), "these terms do nothing: 'deny-list' is not among the rules of 'output'")

    def _redaction(self, path: Path, redaction: Moderation) -> None:
        try:
            compiled(msgspec.structs.replace(redaction, deny_list=()))  # bad terms are said where they stand
        except RuleError as error:
            index = next((index for index, name in enumerate(redaction.output) if repr(name) in str(error)), 0)
            self._add((*path, "redact", index), str(error))

    def _culprit(self, path: Path, moderation: Moderation, message: str) -> Path:
        """The place of the name that the message quotes."""
        for field, values in (("output", moderation.output), ("deny_list", moderation.deny_list), ("per_rule", tuple(moderation.per_rule))):
            for index, value in enumerate(values):
                if repr(value) in message:
                    return (*path, field, value if field == "per_rule" else index)
        return path

    def _limits(self) -> None:
        """A limit of something that does not exist limits nothing, and a queue where nobody waits holds nobody."""
        base = self.file.limits
        tables: list[tuple[Path, Limits]] = [(("limits",), base), *(((*path, "limits"), tenant.limits) for path, tenant in self.tenants.items())]
        waits = any(table.on_limit == "wait" for _, table in tables)
        for path, table in tables:
            self._limited_models(table.models or {}, (*path, "models"))
            for name, team in (table.teams or {}).items():
                self._limited_models(team.models, (*path, "teams", name, "models"))
            if table.queue is not None and (table.on_limit or base.on_limit) != "wait" and not (table is base and waits):
                self._add((*path, "queue"), "does nothing without on_limit: wait")

    def _limited_models(self, models: Iterable[str], path: Path) -> None:
        embedders = self.file.embedders.items()
        named = {*self.known, *(spec.model for spec in self.specs.values()), BUNDLED, *(name for name, _ in embedders), *(each.model for _, each in embedders)}
        known = sorted(name for name in named if name)
        for name in models:
            if name not in known:
                self._add((*path, name), f"no backend, embedder or model is called {name!r}", nearest(name, known), key=True)

    def _case(self, case: Case, path: Path) -> None:
        expect = case.expect
        if expect.backend is not None:
            self.rules.exists(expect.backend, (*path, "expect", "backend"))
        for field, names in (("candidates", expect.candidates or ()), ("never", expect.never)):
            self.rules.names(names, (*path, "expect", field))
        for field, names in (("unavailable", case.given.unavailable), ("over_budget", case.given.over_budget)):
            self.rules.names(names, (*path, "given", field))
        for field in ("cost_usd", "latency_ms", "queue", "wait_s"):
            for name in getattr(case.given, field):
                self.rules.exists(name, (*path, "given", field, name), key=True)
        if case.given.at is not None and not _is_moment(case.given.at):
            self._add((*path, "given", "at"), f"there is no such moment: {case.given.at}")
        rules = [rule.name for rule in self.file.rules]
        if expect.rule is not None and rules and expect.rule not in rules:
            self._add((*path, "expect", "rule"), f"there is no rule {expect.rule!r}", nearest(expect.rule, rules))


def _is_day(text: str) -> bool:
    try:
        return len(text) == 10 and date.fromisoformat(text) is not None
    except ValueError:
        return False


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text) is not None
    except ValueError:
        return False
