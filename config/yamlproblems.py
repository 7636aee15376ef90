"""What can be wrong with a file, and where everything in it stands."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import TypeAlias

import yaml
from msgspec import Struct

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""


class Problem(Struct, frozen=True, order=True):
    """One thing wrong. Line and column count from 1; `path` reads like `rules[1].when.task`. `file` is the included file, empty for the file itself."""

    line: int
    column: int
    path: str
    message: str
    suggestion: str | None = None
    file: str = ""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        hint = f"; did you mean {self.suggestion!r}?" if self.suggestion is not None else ""
        return f"{where}{self.message}{hint}"


class YamlError(ValueError):
    """The file is wrong. `problems` are in the order of the file; `str()` gives one line `file:line:column: path: message` for each."""

    def __init__(self, problems: Iterable[Problem], source: str) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column)))
        self.source = source
        super().__init__(self.problems, source)

    def __str__(self) -> str:
        return "\n".join(f"{self._source_of(problem)}:{problem.line}:{problem.column}: {problem}" for problem in self.problems)

    def _source_of(self, problem: Problem) -> str:
        return str(PurePath(self.source).parent / problem.file) if problem.file else self.source


class Places:
    """Where everything of one file stands, so that checks made after decoding can still name line and column."""

    def __init__(self) -> None:
        self._values: dict[Path, tuple[int, int]] = {}
        self._keys: dict[Path, tuple[int, int]] = {}
        self._files: dict[Path, str] = {}
        self._shown: dict[Path, Path] = {}

    def note(self, path: Path, node: yaml.Node, key: yaml.Node | None = None) -> None:
        self._values[path] = mark_of(node)
        if key is not None:
            self._keys[path] = mark_of(key)

    def note_key(self, path: Path, key: yaml.Node) -> None:
        self._keys[path] = mark_of(key)

    def keys(self, path: Path) -> tuple[str, ...]:
        """The keys written in the mapping at `path`, whether their values are valid or not."""
        return tuple(str(found[-1]) for found in self._keys if found[:-1] == path)

    def adopt(self, other: Places, file: str, moved: Callable[[Path], Path]) -> None:
        """Take over the places of an included file, whose values stand elsewhere in the whole; what is there already stays."""
        for own, theirs in ((self._values, other._values), (self._keys, other._keys)):
            for path, place in theirs.items():
                if path and (target := moved(path)) not in own:
                    own[target], self._files[target] = place, file
                    self._shown[target[:2]] = path[:2]

    def problem(self, path: Path, message: str, suggestion: str | None = None, *, key: bool = False) -> Problem:
        """A problem at a value (or at its key). Where `path` itself was not written, its nearest written parent gives the place."""
        places = self._keys if key else self._values
        for length in range(len(path), -1, -1):
            place = places.get(path[:length]) or self._values.get(path[:length])
            if place is not None:
                shown = self._shown.get(path[:2], path[:2]) + path[2:]
                return Problem(*place, path=format_path(shown), message=message, suggestion=suggestion, file=self._files.get(path[:length], ""))
        return Problem(1, 1, path=format_path(path), message=message, suggestion=suggestion)


def mark_of(node: yaml.Node | yaml.Event) -> tuple[int, int]:
    """Line and column at which a node or an event starts, from 1."""
    mark = node.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def format_path(path: Path) -> str:
    """`("rules", 1, "when")` as `rules[1].when`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("-", "_").replace("/", "_").isidentifier():
            text += f".{step}" if text else step
        else:
            text += f"[{step!r}]"
    return text


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that a person who wrote `word` most likely meant, or None."""
    known = {known.lower(): known for known in words}
    near = difflib.get_close_matches(word.lower().replace(" ", "_"), known, n=1, cutoff=0.6)
    return known[near[0]] if near else None
