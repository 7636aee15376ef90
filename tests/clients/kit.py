"""What every client's script shares: where Headgate is, and how a check reports. Standard library only: it runs in the client's environment.

A script is a list of checks, `@check("plain")` and so on, and `run()` at its end. Each prints one line that the runner reads.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any

URL = os.environ["HEADGATE_URL"]
"""The service's root: OpenAI's clients take `V1`, Anthropic's take this."""
V1 = URL + "/v1"
KEY = os.environ["HEADGATE_KEY"]
WRONG_KEY = "hg-wrong"
MODEL = os.environ["HEADGATE_MODEL"]
CLAUDE = os.environ["HEADGATE_CLAUDE"]
ARGUMENTS_IN_PIECES = os.environ["HEADGATE_ANSWERED_BY"] != "gemini"
"""Gemini does not stream the arguments of a call."""
GREETING = "Hello from the upstream."
QUESTION = "What is the weather in Paris and in Oslo?"
PERSON = "Who is the person? Ada is 36."
WEATHER = {"Paris": "21 C, sunny", "Oslo": "4 C, rain"}

_checks: list[tuple[str, Callable[[], Any]]] = []


def check(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a check. It fails by raising; what it returns is shown."""

    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        _checks.append((name, function))
        return function

    return register


def run() -> None:
    wanted = os.environ.get("HEADGATE_CHECK")
    for name, function in _checks:
        if wanted and wanted not in name:
            continue
        try:
            shown = asyncio.run(function()) if inspect.iscoroutinefunction(function) else function()
            report(name, True, "" if shown is None else str(shown))
        except BaseException as error:
            where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            report(name, False, f"{type(error).__module__}.{type(error).__name__}: {error} [{', '.join(where[-6:])}]")


def report(name: str, ok: bool, detail: str) -> None:
    print("@@" + json.dumps({"check": name, "ok": ok, "detail": detail}), flush=True)


def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: The city's name.
    """
    return WEATHER[city]


def same(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise AssertionError(f"got {found!r}, wanted {wanted!r}")


def within(part: Any, whole: Any) -> None:
    if part not in whole:
        raise AssertionError(f"{part!r} is not in {whole!r}")


def answered_with_the_weather(text: str) -> None:
    """Both tools' results reached the model, and its answer came back."""
    for weather in WEATHER.values():
        within(weather, text)


def refused(error_class: type[BaseException], call: Callable[[], Any], mention: str = "") -> str:
    """The call raises exactly this error of the client's (or a subclass), which says what is wrong."""
    try:
        result = call()
    except error_class as error:
        within(mention, str(error))
        return f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}"
    raise AssertionError(f"no {error_class.__name__}, but {result!r}")


def ledger(rows: int = 1) -> list[dict[str, Any]]:
    """The newest ledger rows of this client's tenant, newest last, once nothing is being settled."""
    before: list[Any] | None = None
    for _ in range(50):
        request = urllib.request.Request(URL + "/admin/ledger?limit=50", headers={"authorization": "Bearer " + KEY})
        with urllib.request.urlopen(request, timeout=10) as response:
            found = sorted(json.load(response)["data"], key=lambda row: row["ended_at"])
        if before == found:
            return found[-rows:]
        before = found
        time.sleep(0.1)
    raise AssertionError("the ledger does not come to rest")


def same_usage(input_tokens: int | None, output_tokens: int | None, cached: int | None = None, rows: int = 1) -> str:
    """The client read what the ledger booked for the last so many requests. `input_tokens` includes cached ones."""
    booked = ledger(rows)
    found = {"input": input_tokens, "output": output_tokens}
    wanted = {"input": sum(row["input_tokens"] for row in booked), "output": sum(row["output_tokens"] for row in booked)}
    if cached is not None:
        found["cached"], wanted["cached"] = cached, sum(row["cache_read_input_tokens"] for row in booked)
    same(found, wanted)
    return f"{input_tokens} in, {output_tokens} out"
