"""How far two answers to one question agree: by what they come to where that can be read off, else by their words. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Any

import msgspec

from adapters.sentences import STOP_WORDS, sentences, stem, words

_STATED = (
    (re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}"), 1_000_000),
    (re.compile(r"^\s*#{3,}\s*(\S.*)$", re.MULTILINE), 1_000),
    (
        re.compile(
            r"(?:final answer|answer|result|total|antwort|ergebnis|réponse|résultat|respuesta|resultado|risposta|risultato|resposta)\b\s*(?:\w+\s)?"
            r"(?:is|are|ist|est|es|é|è|=|:)+\s*:?\s*([^\n]+)",
            re.IGNORECASE,
        ),
        300,
    ),
)
"""By which an answer states what it comes to, the plainest first (`\\boxed{…}`, `#### …`, "the answer is …"), each with how many of the last characters it
is looked for in. The last such place counts."""

SHORT_WORDS = 3
"""An answer with no more words is all answer."""

_NUMBER = re.compile(r"[-−]?\d[\d,' \u202f]*(?:\.\d+)?")
_OPTION = re.compile(r"\(?\b([A-J])\b\)?(?=[\s.):]|$)")
_SENTENCE = re.compile(r"(?<=[^\d\W])[.!?](?:\s|$)|\n")
_EMPHASIS = str.maketrans("", "", '*_`$\\{}"')


def agreement(first: str, second: str) -> float:
    """From 0 (nothing in common) to 1 (they say the same). Symmetric.

    Where both state a final answer it is 1 or 0 by that alone; and where both end in a sentence with numbers, or one states a number and the other ends
    in such a sentence, by whether the number that one comes to is among the other's. Two JSON values are the share of their leaves that are equal.
    Everything else is the Dice coefficient of their content words, as often as they occur.
    """
    values = _json(first), _json(second)
    if values[0] is not None and values[1] is not None:
        return _share(_leaves(values[0]), _leaves(values[1]))
    stated = final_answer(first), final_answer(second)
    if stated[0] is not None and stated[1] is not None:
        return 1.0 if stated[0] == stated[1] else 0.0
    numbers = _concluding(first, stated[0]), _concluding(second, stated[1])
    if numbers[0] and numbers[1]:
        return 1.0 if numbers[0][-1] in numbers[1] and numbers[1][-1] in numbers[0] else 0.0
    return _share(Counter(_content(first)), Counter(_content(second)))


def final_answer(text: str) -> str | None:
    """What the answer states that it comes to, normalised: a number, a letter of a choice, or a few words. None where it does not say."""
    for pattern, last in _STATED:
        if found := pattern.findall(text[-last:]):
            return _normal(found[-1])
    return _normal(text) if 0 < len(text.split()) <= SHORT_WORDS else None


def _concluding(text: str, stated: str | None) -> list[str]:
    """The numbers of the last sentence that has words, the last of them being what it comes to; or the one number that is stated."""
    if stated is not None:
        return [stated] if _NUMBER.fullmatch(stated) else []
    last = next((text[start:end] for start, end in reversed(sentences(text)) if any(map(str.isalnum, text[start:end]))), "")
    return [_plain(number) for number in _NUMBER.findall(last.translate(_EMPHASIS))]


def _plain(number: str) -> str:
    plain = re.sub(r"[,' \u202f]", "", number.replace("−", "-"))
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _normal(said: str) -> str:
    said = unicodedata.normalize("NFKC", said).translate(_EMPHASIS).strip()
    said = _SENTENCE.split(said)[0].strip(" .!,;:")
    if numbers := _NUMBER.findall(said):
        return _plain(numbers[-1])
    if option := _OPTION.match(said):
        return option[1]
    return " ".join(word for word in words(said) if word not in STOP_WORDS) or said.casefold()


def _content(text: str) -> list[str]:
    return [stem(word) for word in words(text) if word not in STOP_WORDS]


def _share(first: Counter[Any], second: Counter[Any]) -> float:
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 1.0


def _json(text: str) -> Any:
    """The object or list that the text is; None where it is none."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _leaves(value: Any) -> Counter[tuple[str, str]]:
    """Every scalar with its path, list items without their index."""
    found: Counter[tuple[str, str]] = Counter()
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, each = waiting.pop()
        if isinstance(each, dict) and each:
            waiting += [(f"{path}/{key}", inner) for key, inner in each.items()]
        elif isinstance(each, list) and each:
            waiting += [(f"{path}/-", inner) for inner in each]
        else:
            found[path, str(msgspec.json.encode(each))] += 1
    return found
