"""Loaded by Schemathesis into its own process: how often every operation answered with every status, written to `statuses.json` at the end."""

from __future__ import annotations

import atexit
import json
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis

FILE = Path("statuses.json")
seen: Counter[str] = Counter()


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    seen[f"{case.method.upper()} {case.operation.path} {response.status_code}"] += 1


@atexit.register
def write() -> None:
    FILE.write_text(json.dumps(seen))
