"""Running a command in this process, as the installed `headgate` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from router.cli import main


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Command = Callable[..., Ran]


@pytest.fixture
def headgate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`headgate("tenants", "list", PORT="1")`: arguments, and variables by their names. The home and the current folder are this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADGATE_HOME", str(tmp_path / "var"))

    def run(*arguments: str, **variables: str) -> Ran:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["headgate", *arguments])
            for name, value in variables.items():
                patch.setenv(name, value)
            try:
                main()
                status = 0
            except SystemExit as stop:
                status = stop.code if isinstance(stop.code, int) else 1
        done = capfd.readouterr()
        return Ran(status, done.out, done.err)

    return run
