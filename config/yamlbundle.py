"""A file and the files that it includes, as one text that stands alone: the file itself, then each included one behind a line that names it.

    include: [rules/legal.yaml]
    …
    --- # include: rules/legal.yaml
    rules: …

So what is stored of a policy needs no folder, and every part keeps its own lines and columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MARKER = "--- # include: "
_LINE = re.compile(rf"^{re.escape(MARKER)}(.+)$", re.MULTILINE)


def parts_of(text: str) -> tuple[str, dict[str, str]]:
    """The file's own text, and that of each included file by its name."""
    main, *rest = _LINE.split(text)
    return main, {name.strip(): part.removeprefix("\n") for name, part in zip(rest[::2], rest[1::2], strict=True)}


def bundled(text: str, names: Iterable[str], read: Callable[[str], str | None]) -> str:
    """The text with those files behind it that `read` finds and that are not in it already. Without any it is the text itself, to the letter."""
    _, there = parts_of(text)
    for name in dict.fromkeys(names):
        part = None if name in there or not _fit(name) else read(name)
        if part is not None:
            text = f"{text}{'' if text.endswith(chr(10)) else chr(10)}{MARKER}{name}\n{part}"
    return text


def _fit(name: str) -> bool:
    """Whether a name can stand in its line."""
    return name == name.strip() and name.isprintable() and bool(name)
