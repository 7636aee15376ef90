"""The policy file while the service runs: when it has changed, and whether what it holds now is in force.

Whoever watches the file writes down in the home folder what became of it, so that every worker of the host, and `headgate doctor`, can say so.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from config.yamlfile import Problem, YamlError

NAME = Path("run") / "policy_file.json"
STARTED = Path("run") / "started.yaml"
"""The text with which the service was started: processes that start again take their settings from it, whatever has become of the file."""


class FileStatus(Struct, frozen=True, kw_only=True):
    """What became of the policy file's present text. `version` is the one in force when that was decided; `problems` say why it is not the file's."""

    path: str
    hash: str
    valid: bool
    problems: tuple[Problem, ...]
    version: int | None
    at: float


class FileWatch:
    """Sees when the file's text is another one, whatever its times say, and only once it has stood still: half a file is not read.

    `read` gives the text; what it raises (`OSError`, `ValueError`) counts as a text of its own.
    """

    def __init__(self, read: Callable[[], str], taken: str) -> None:
        self._read = read
        self._taken = _mark(taken)
        self._before = self._taken

    def changed(self) -> bool:
        """Whether the text differs from the one that was taken, and is the same as at the last look."""
        now = self._look()
        still, self._before = now == self._before, now
        return still and now != self._taken

    def take(self) -> None:
        """What was seen last is dealt with."""
        self._taken = self._before

    def _look(self) -> str:
        try:
            return _mark(self._read())
        except (OSError, ValueError) as error:
            return f"unreadable: {error}"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def problems_of(error: Exception) -> tuple[Problem, ...]:
    """What is wrong with a file, with line and column where that has one."""
    if isinstance(error, YamlError):
        return tuple(error.problems)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (Problem(1, 1, "", f"the file cannot be read: {reason}"),)


def told(problems: Sequence[Problem], most: int = 5) -> str:
    """The first problems in one line."""
    shown = "; ".join(f"{problem.file and f'{problem.file}, '}line {problem.line}, column {problem.column}: {problem}" for problem in problems[:most])
    return shown if len(problems) <= most else f"{shown}; and {len(problems) - most} more"


def write_status(home: Path, status: FileStatus) -> None:
    """Put it down whole or not at all. Raises `OSError`."""
    put(home / NAME, msgspec.json.encode(status))


def read_status(home: Path) -> FileStatus | None:
    """What the watching process has put down; None where none has."""
    try:
        return msgspec.json.decode((home / NAME).read_bytes(), type=FileStatus)
    except (OSError, msgspec.MsgspecError):
        return None


def put(path: Path, content: bytes) -> None:
    """Write a file, for its owner only, in the place of what is there: readers see the one or the other."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
