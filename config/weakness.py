"""Whether a secret that a person chose can be guessed: what documentation shows, what people type, and what is left after both."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

MIN_LENGTH = 16
MIN_DISTINCT = 6
MIN_BITS = 50.0
"""What must be left to guess. Sixteen random characters of any alphabet are worth more; words, runs and repetitions next to nothing."""

WORD_BITS = 7.0
RUN_BITS = 4.0
_KNOWN = re.compile(
    r"(?:change|me|this|now|please|pass|word|passwd|secret|super|admin|administrator|default|example|let|in|master|replace|your|my|insert|here|headgate|root|token"
    r"|api|key|not|so|a|is|the|placeholder|qwertyuiopasdfgh)+[0-9]*"
)
"""What documentation, and people in a hurry, put where a secret belongs."""


def _listed(name: str) -> frozenset[str]:
    return frozenset((Path(__file__).parent / "defaults" / name).read_text(encoding="utf-8").split())


@cache
def famous() -> frozenset[str]:
    """Secrets that stand in documentation, tutorials and lists of leaked ones, and the digests of the empty string, `password`, `admin` and `test`:
    their letters and digits."""
    return frozenset(re.sub(r"[^a-z0-9]", "", each) for each in _listed("famous_secrets.txt"))


@cache
def _words() -> frozenset[str]:
    return _listed("common_words.txt")


_ROWS = (
    "0123456789",
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
    "qwertzuiop",
    "azertyuiop",
    "1234567890",
    "!@#$%^&*()",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm",
)
_RUNS = tuple(line * 3 for row in _ROWS for line in (row, row[::-1]))
_YEAR = re.compile(r"(?:19|20)\d\d")
_LEET = str.maketrans("0134579@$!", "oleastgasi")


def weakness(value: str, names: Iterable[str] = ()) -> str | None:
    """Why a secret must not be used, or None. Never repeats the value. `names` are words of this installation: its tenants, say."""
    if len(value) < MIN_LENGTH:
        return f"it has {len(value)} characters; at least {MIN_LENGTH} are needed"
    if not value.isprintable() or value != value.strip():
        return "it has spaces around it or characters that cannot be printed"
    bare = re.sub(r"[^a-z0-9]", "", value.lower())
    core = bare.removeprefix("sk").removeprefix("hg")
    if any(_KNOWN.fullmatch(each) or each in famous() for each in (bare, core, core.translate(_LEET))):
        return "it is well known"
    if len(set(value)) < MIN_DISTINCT or re.fullmatch(r"(.{1,8}?)\1+.{0,7}", value):
        return "it repeats the same few characters"
    if any(core in run for run in (*_RUNS, "0123456789abcdef" * 3)):
        return "it is a plain sequence"
    if bits(value, names) < MIN_BITS:
        return "it is made of words, names, runs or repetitions; make one with: openssl rand -hex 24"
    return None


def bits(value: str, names: Iterable[str] = ()) -> float:
    """About how many bits a guesser who knows people's habits has to find. An upper estimate for what no list knows, such as rare words."""
    words = _words() | {name.lower() for name in names if len(name) >= 3}
    low = value.lower()
    plain = low.translate(_LEET)
    longest = max(map(len, words))
    total, at = 0.0, 0
    while at < len(value):
        length, cost = max(_steps(low, plain, at, words, longest), default=(1, _character(value[at])))
        total += cost
        at += length
    return total


def _steps(low: str, plain: str, at: int, words: frozenset[str], longest: int) -> Iterator[tuple[int, float]]:
    """What could be guessed as one from here: `(characters, bits)`."""
    if year := _YEAR.match(low, at):
        yield len(year[0]), WORD_BITS
    same = len(low[at:]) - len(low[at:].lstrip(low[at]))
    if same >= 3:
        yield same, RUN_BITS
    for length in range(len(low) - at, 3, -1):
        if any(low[at : at + length] in run for run in _RUNS):
            yield length, RUN_BITS
            break
    for length in range(min(longest, len(low) - at), 2, -1):
        # A shorter word than four letters is as often chance.
        if length >= 4 and (low[at : at + length] in words or plain[at : at + length] in words):
            yield length, WORD_BITS
            break
    for length in range(min(at, len(low) - at), 3, -1):
        if low[at : at + length] in low[:at]:
            yield length, RUN_BITS
            break


def _character(character: str) -> float:
    return math.log2(10 if character.isdigit() else 26 if character.isalpha() else 8)
