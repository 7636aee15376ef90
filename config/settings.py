"""What an installation decides: where it listens, where it keeps its state, how long it waits.

Values come from the `settings:` block of the policy file, then from the environment: `HEADGATE_<NAME>` for every field of `Settings`,
`DATABASE_URL` and `REDIS_URL`. Secrets (`HEADGATE_ADMIN_KEY`, `HEADGATE_SECRET`) come from the environment only and are wrapped so that no `repr` shows them.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import yaml
from msgspec import Meta, Struct

from config.networks import parse_networks
from config.yamlbundle import parts_of
from config.yamlfile import Schema, YamlError, nearest, read_yaml
from config.yamlwalk import PLAIN, Walk

Seconds = Annotated[float, Meta(gt=0)]

PREFIX = "HEADGATE_"
NOT_SETTINGS = frozenset({"ADMIN_KEY", "SECRET"})
UNPREFIXED = ("DATABASE_URL", "REDIS_URL")
"""Variables that other programs know too."""


class SettingsError(ValueError):
    """The environment is wrong; one line for each problem, naming the variable and never showing a secret's value."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Every setting. Times are in seconds, sizes in MiB.

    `database_url` None means SQLite in the home folder. `durability: full` survives a loss of power and not only the death of the process.
    `plugins` are Python files or modules that register backends. `embedder_model` None means the packaged all-MiniLM-L6-v2.
    `commit_after_s` is how long the status and headers of a stream wait for its first delta, `heartbeat_s` how long a stream may be silent,
    `shutdown_s` how long running requests may go on after a stop was asked for. `max_body_mb` bounds a JSON body, `upload_max_mb` a file.
    `idempotency_s` is how long the answer to a request with an `Idempotency-Key` is kept for its retries,
    `tool_memory_s` how long the opaque parts of an answer with tool calls are, for clients of the chat dialect that do not send them back (0: not at all),
    `retention_s` how long stored responses and conversations are after their last use.
    `decisions_days` is how long the decisions that were made for requests are kept, in days.
    `redis_url` is where replicas share rate limits; `limits_when_away` is what is done while they cannot be asked: every worker keeps to its share,
    everything passes, or nothing with a limit does.
    `ledger_months` is how many whole months `headgate ledger archive` leaves in the ledger where it is not told (None: it must be told).
    `auto_migrate` upgrades an older database at start instead of refusing it.
    `allow_private_backends` lets a policy that arrives over the API name a `base_url` on a private address, and files of this machine.
    `trusted_proxies` are the ranges (CIDR) whose `X-Forwarded-For` and client certificates are believed.
    `auth_failures_per_minute` is how many wrong credentials an address may send before it is slowed (0: none is slowed).
    """

    home: Path = msgspec.field(default_factory=lambda: Path("var"))
    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    database_url: str | None = None
    durability: Literal["normal", "full"] = "normal"
    redis_url: str | None = None
    limits_when_away: Literal["share", "admit", "refuse"] = "share"
    auto_migrate: bool = False
    ledger_months: Annotated[int, Meta(ge=1, le=1200)] | None = None
    plugins: tuple[str, ...] = ()
    embedder_model: str | None = None
    allow_private_backends: bool = False
    auth_failures_per_minute: Annotated[int, Meta(ge=0, le=1000)] = 30
    commit_after_s: Seconds = 10.0
    heartbeat_s: Seconds = 15.0
    shutdown_s: Seconds = 10.0
    max_body_mb: Annotated[int, Meta(ge=1, le=1024)] = 32
    upload_max_mb: Annotated[int, Meta(ge=1, le=65536)] = 512
    idempotency_s: Seconds = 86_400.0
    tool_memory_s: Annotated[float, Meta(ge=0)] = 86_400.0
    retention_s: Seconds = 2_592_000.0
    trusted_proxies: tuple[str, ...] = ()
    decisions_days: Annotated[int, Meta(ge=1)] = 90

    @property
    def database(self) -> str:
        """The URL of the database that is used."""
        return self.database_url or f"sqlite:///{self.home / 'headgate.db'}"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = msgspec.structs.replace(self, database_url=hidden(self.database_url), redis_url=hidden(self.redis_url))
        return [(name, getattr(shown, name)) for name in self.__struct_fields__]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


class SettingsBlock(Struct, frozen=True):
    """The one part of the policy file that is read before anything else is known (the plugins decide which kinds of backend exist)."""

    settings: Settings = Settings()


def load_settings(environ: Mapping[str, str], text: str | None = None, source: str = "policy.yaml") -> Settings:
    """The settings of a policy file's text (or none), overridden by the environment.

    A relative plugin file of the `settings:` block is taken from the folder of `source`. Raises `YamlError` for the block, with line and
    column, and `SettingsError` for variables.
    """
    settings = Settings()
    if text is not None:
        document = read_yaml(parts_of(text)[0], SettingsBlock, schema=Schema(partial=frozenset({SettingsBlock})))
        if document.value is None:
            raise YamlError(document.problems, source)
        settings = document.value.settings
        base = Path(source).parent
        settings = msgspec.structs.replace(settings, plugins=tuple(str(base / name) if name.endswith(".py") else name for name in settings.plugins))
    settings = msgspec.structs.replace(settings, **load_env(environ))
    for url, name, problem_of in ((settings.database_url, "database_url", _database_problem), (settings.redis_url, "redis_url", _redis_problem)):
        problem = problem_of(url) if url else None
        if problem:
            raise SettingsError([f"{_url_variable(environ, name)}: {problem}"])
    try:
        parse_networks(settings.trusted_proxies)
    except ValueError as error:
        where = "HEADGATE_TRUSTED_PROXIES" if environ.get("HEADGATE_TRUSTED_PROXIES") else "settings.trusted_proxies"
        raise SettingsError([f"{where}: {error}"]) from error
    return settings


def load_env(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields that the environment sets. An empty variable counts as absent. Raises `SettingsError` naming every bad variable."""
    fields = {field.name.upper(): field for field in msgspec.structs.fields(Settings)}
    values: dict[str, Any] = {name.lower(): environ[name] for name in UNPREFIXED if environ.get(name)}
    problems = []
    for variable, text in environ.items():
        name = variable.removeprefix(PREFIX)
        if name == variable or not text:
            continue
        if name not in fields:
            near = nearest(name, [*fields, *NOT_SETTINGS])
            if name not in NOT_SETTINGS and near and _almost(name, near):
                problems.append(f"{variable}: no such setting; did you mean {PREFIX}{near}?")
            continue
        walk = Walk(PLAIN)
        value = walk.visit(_node(text, fields[name].type), fields[name].type, ())
        if walk.problems:
            hint = " (Kubernetes sets this for a service called headgate: use enableServiceLinks: false)" if text.startswith("tcp://") else ""
            problems.append(f"{variable}: {walk.problems[0].message}{hint}")
        else:
            values[fields[name].name] = value
    if problems:
        raise SettingsError(problems)
    return values


def _almost(name: str, near: str) -> bool:
    """Whether a variable is a slip of the pen: `HEADGATE_WORKER`, but not `HEADGATE_API_KEY`, which a client's script may well use."""
    return abs(len(name) - len(near)) <= 1 and sum(left != right for left, right in zip(sorted(name), sorted(near), strict=False)) <= len(near) // 3


def _node(text: str, wanted: Any) -> yaml.Node:
    """A variable's text as the YAML node that a file would have there; what is a string needs no quotes."""
    while get_origin(wanted) is Annotated:
        wanted = get_args(wanted)[0]
    if get_origin(wanted) is tuple:
        items = [item.strip() for item in text.split(",") if item.strip()]
        return yaml.SequenceNode("", [yaml.ScalarNode("", item, style='"') for item in items])
    is_text = wanted in (str, Path) or str in get_args(wanted)
    return yaml.ScalarNode("", text, style='"' if is_text else None)


def _url_variable(environ: Mapping[str, str], setting: str) -> str:
    plain = setting.upper()
    return next((name for name in (PREFIX + plain, plain) if environ.get(name)), f"settings.{setting}")


def _database_problem(url: str) -> str | None:
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme in ("sqlite", "postgresql"):
        return None
    hint = "; did you mean postgresql://?" if scheme == "postgres" else ""
    return f"{scheme[:20]!r} is not supported; use sqlite:///PATH or postgresql://USER@HOST/NAME{hint}"


def _redis_problem(url: str) -> str | None:
    scheme = url.partition(":")[0]
    if scheme not in ("redis", "rediss", "unix"):
        return f"{scheme[:20]!r} is not supported; use redis://HOST:PORT/NUMBER, rediss://HOST:PORT/NUMBER or unix://PATH"
    if importlib.util.find_spec("redis") is None:
        return "needs the extra 'redis': pip install 'headgate[redis]'"
    return None


def hidden(url: str | None) -> str | None:
    """A URL fit to be shown, where there is one."""
    return None if url is None else hide_password(url)


def hide_password(url: str) -> str:
    """A database URL fit to be shown."""
    shown = re.sub(r"(?<=://)([^/?#:@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(password=)[^&]*", r"\1***", shown)


def import_plugins(plugins: Iterable[str]) -> None:
    """Import each plugin once: a path that ends in `.py`, or a module's name. Raises `SettingsError` where one is missing; its own errors pass."""
    for plugin in plugins:
        if not plugin.endswith(".py"):
            if importlib.util.find_spec(plugin) is None:
                raise SettingsError([f"plugins: there is no module {plugin!r}"])
            importlib.import_module(plugin)
            continue
        path = Path(plugin).resolve()
        name = f"headgate_plugin_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
        spec = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise SettingsError([f"plugins: there is no file {plugin!r}"])
        if name not in sys.modules:
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
