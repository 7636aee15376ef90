"""How near counting comes to what providers reported, by interface: printed by `python -m tests.adapters.tokens.measure` for docs/accounting.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from adapters.backend import Backend, BackendContext, create_backend, kind_named
from config.settings import Settings
from router.backends import load_kinds
from tests.adapters.tokens.recorded_requests import Counted, counted

KINDS = {"openai chat": "openai", "openai responses": "openai", "anthropic": "anthropic", "gemini": "gemini"}
KEYS = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k"}


class Error(NamedTuple):
    """`n` and `learned` are relative errors of the estimate, before and after what was reported earlier; `exceeded`: reported more than `upper`."""

    of: Counted
    n: float
    learned: float
    exceeded: bool


def backend_for(each: Counted) -> Backend:
    kind = KINDS[each.api]
    table = {"kind": kind, "model": each.model, **({"api": "responses"} if each.api == "openai responses" else {})}
    return create_backend(each.api, msgspec.convert(table, kind_named(kind).spec), BackendContext(environ=KEYS))


def errors() -> list[Error]:
    """For every simple recorded request, in the order of the recording, as one worker would have counted them."""
    load_kinds(Settings())
    fresh: dict[tuple[str, str], Backend] = {}
    taught: dict[tuple[str, str], Backend] = {}
    found = []
    for each in counted():
        if not each.simple:
            continue
        key = (each.api, each.model)
        first = fresh.setdefault(key, backend_for(each))
        second = taught.setdefault(key, backend_for(each))
        plain, told = first.count(each.request), second.count(each.request)
        second.tokens.learn(told.n, each.reported, each.request)  # type: ignore[attr-defined]
        found.append(Error(each, abs(plain.n - each.reported) / each.reported, abs(told.n - each.reported) / each.reported, each.reported > plain.upper))
    return found


def quantiles(values: Iterable[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


if __name__ == "__main__":
    everything = errors()
    for api in KINDS:
        some = [error for error in everything if error.of.api == api]
        said = " ".join(f"{value:.3f}" for value in (*quantiles(e.n for e in some), *quantiles(e.learned for e in some)))
        print(api, len(some), said, [e.of.id for e in some if e.exceeded])  # noqa: T201
