"""A text's tokens: by OpenAI's byte-pair vocabularies, from the `bpe-openai` distribution (MIT), or estimated. No network.

A vocabulary takes 25 µs per 1,000 characters, about 65 MB once it is used (o200k; cl100k half of that), and 60 ms to load.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from importlib.machinery import PathFinder
from typing import Any, Literal, TypeAlias

from adapters.tokens.estimate import estimate_text

Encoding: TypeAlias = Literal["o200k_base", "cl100k_base", "estimated"]
"""A vocabulary, or `estimated`: about o200k's tokens, without it."""

_counted: ContextVar[dict[tuple[str, str], int] | None] = ContextVar("counted texts", default=None)
"""The texts that the request at hand has counted before. It goes with the request's task: no prompt is kept beyond it."""

SHORT = 16
"""Characters of a text that is counted again rather than looked up."""


def counting_once() -> None:
    """From here on in this task, a text is counted once, whichever backends ask."""
    _counted.set({})


@contextlib.contextmanager
def counting_always() -> Iterator[None]:
    """Inside, every text is counted whenever it is asked for: for measurements."""
    token = _counted.set(None)
    try:
        yield
    finally:
        _counted.reset(token)


def count_text(text: str, encoding: Encoding) -> int:
    """The text's tokens, none of them special: what looks like a control token is text."""
    known = _counted.get() if len(text) > SHORT else None
    if known is None:
        return _count(text, encoding)
    found = known.get((encoding, text))
    if found is None:
        found = known[encoding, text] = _count(text, encoding)
    return found


def _count(text: str, encoding: Encoding) -> int:
    if encoding == "estimated":
        return estimate_text(text)
    try:
        return int(load(encoding).count(text))
    except UnicodeEncodeError:  # a lone surrogate, which no provider takes either
        return int(load(encoding).count(text.encode("utf-8", "replace").decode()))


@cache
def load(encoding: Encoding) -> Any:
    """The vocabulary, loaded at its first use. There is none for `estimated`."""
    return _bindings().tokenizer_for_encoding(encoding)


@cache
def _bindings() -> Any:
    """The compiled half of `bpe_openai`, without its Python half, which reads all vocabularies a second time (a second and 60 MB)."""
    package = importlib.util.find_spec("bpe_openai")
    assert package is not None, "bpe-openai is a dependency of headgate"
    found = PathFinder.find_spec("_bindings", list(package.submodule_search_locations or ()))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
