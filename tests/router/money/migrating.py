"""A revision's module, by its name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def revision(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "router" / "migrations" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
