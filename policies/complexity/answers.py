"""What an answer of the weak model gives away about itself, beside its question: pure, no model.

Looking at the answer before a stronger model is called beats predicting from the question alone. Sums that the answer states are worked out again.
"""

from __future__ import annotations

import math
import re

_WORD = re.compile(r"[a-z]+")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_LEFT = re.compile(r"[\d.,$ ()+*/x×÷%-]+\Z")
_RIGHT = re.compile(r"\s*[$€£]?\s*(-?\d[\d,]*(?:\.\d+)?)(?![\d/])")
_LONGEST_SUM = 80
_WORKED = re.compile(r"<<([^=<>]{1,80})=(-?[\d.,]{1,30})>>")
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|[()+*/-]")
_HEDGES = re.compile(
    r"\b(?:approximately|about|roughly|assum\w+|perhaps|maybe|might|seems?|likely|probably|rounded|however|cannot be|not possible|not enough"
    r"|unclear|closest)\b|≈"
)
_REFUSALS = re.compile(r"\b(?:sorry|as an ai|i (?:cannot|can't|am unable|don't know)|unable to|no information|not provided|not specified)\b")
_REPAIRS = re.compile(r"\b(?:wait|actually|mistake|correct(?:ion|ed)|let me|re-?check|but since|should be|must be|doesn't make sense)\b")
_UNKNOWNS = re.compile(r"\b(?:let|let's|equation|solve for|represent|denote|variable)\b|\b\d*[xyn]\b ?[=+*/-]")
_MARKED = re.compile(r"(?:####|\banswer(?: is)?:?|\\boxed\{|\*\*)\s*[$€£]?\s*(-?\d[\d,]*(?:\.\d+)?)", re.IGNORECASE)

ANSWER_FEATURES = (
    "answer_characters", "answer_lines", "answer_to_question", "cut_short", "unclosed", "marked", "sums", "wrong_sums", "wrong_share", "hedges", "refusals",
    "repairs", "unknowns", "given_unused", "given_used_share", "final_whole", "final_negative", "final_given", "final_size", "stated", "numbers_answered",
    "ends_early", "new_numbers", "small_over_large", "thirds",
)  # fmt: skip


def answer_features(question: str, answer: str) -> tuple[float, ...]:
    """The numbers in the order of `ANSWER_FEATURES`. Only the first 8,000 characters of each text are read."""
    question, answer = question[:8000], answer[:8000]
    text = answer.strip()
    lower = text.lower()
    log = math.log1p
    given = {_value(each) for each in _NUMBER.findall(question)}
    said = [_value(each) for each in _NUMBER.findall(text)]
    sums, wrong = _sums(text)
    marked = _MARKED.findall(text)
    final = _value(marked[-1]) if marked else (said[-1] if said else 0.0)
    used = given & set(said)
    return (
        log(len(text)),
        log(text.count("\n")),
        log(len(text)) - log(len(question)),
        float(bool(text) and text[-1] not in ".!?)]}\"'`*>" and not _whole_end(text, marked)),
        float(text.count("<<") != text.count(">>") or text.count("(") != text.count(")") or text.count("```") % 2 == 1),
        float(bool(marked)),
        log(sums),
        log(wrong),
        wrong / sums if sums else 0.0,
        log(len(_HEDGES.findall(lower))),
        log(len(_REFUSALS.findall(lower))),
        log(len(_REPAIRS.findall(lower))),
        log(len(_UNKNOWNS.findall(lower))),
        log(len(given - used)),
        len(used) / len(given) if given else 1.0,
        float(final == math.floor(final)),
        float("-" in (marked[-1] if marked else "")),
        float(final in given),
        log(final),
        float(len(said) > 0 and said.count(final) > 1),
        log(len(said)),
        float(not answer.endswith("\n")),
        log(len(set(said) - given)),
        float(final > 0 and bool(given) and final > 3 * max(given)),
        log(sum(1 for each in said if round(each, 2) != each)),
    )


def _whole_end(text: str, marked: list[str]) -> bool:
    """Whether the text ends with its result: a marked number, perhaps with its unit."""
    return bool(marked) and len(text.rsplit(marked[-1], 1)[-1]) < 24


def _value(text: str) -> float:
    return min(abs(float(text.replace(",", "") or "0")), 1e12)


def _sums(text: str) -> tuple[int, int]:
    """How many sums the answer states, and how many of them are wrong by more than a rounding."""
    found = wrong = 0
    for left, right in [*_WORKED.findall(text)[:40], *_written(_WORKED.sub("", text))]:
        worth = _worth(left)
        if worth is None:
            continue
        try:
            told = float(right.replace(",", "").rstrip("."))
        except ValueError:
            continue
        found += 1
        wrong += abs(worth - told) > 0.011 * max(1.0, abs(worth))
    return found, wrong


def _written(text: str) -> list[tuple[str, str]]:
    """What stands on both sides of the first 40 equals signs, where that may be a sum and its value."""
    found, at = [], -1
    for _ in range(40):
        at = text.find("=", at + 1)
        if at < 0:
            break
        left, right = _LEFT.search(text[max(0, at - _LONGEST_SUM) : at]), _RIGHT.match(text, at + 1)
        if left is not None and right is not None:
            found.append((left[0].strip(" ,.+*/x)"), right[1]))
    return found


def _worth(written: str) -> float | None:
    """The value of a sum of numbers with + - * / and brackets; None for what is no such sum. Reads a descent of at most so many brackets as it has signs."""
    for sign, plain in (("x", "*"), ("×", "*"), ("÷", "/"), ("$", ""), (",", ""), ("%", "/100")):
        written = written.replace(sign, plain)
    tokens = _TOKEN.findall(written)
    if not 3 <= len(tokens) <= 40 or "".join(tokens) != "".join(written.split()):
        return None
    try:
        value, rest = _added(tokens, 0)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return value if rest == len(tokens) and math.isfinite(value) else None


def _added(tokens: list[str], at: int) -> tuple[float, int]:
    value, at = _multiplied(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        right, after = _multiplied(tokens, at + 1)
        value, at = (value + right if tokens[at] == "+" else value - right), after
    return value, at


def _multiplied(tokens: list[str], at: int) -> tuple[float, int]:
    value, at = _single(tokens, at)
    while at < len(tokens) and tokens[at] in "*/":
        right, after = _single(tokens, at + 1)
        value, at = (value * right if tokens[at] == "*" else value / right), after
    return value, at


def _single(tokens: list[str], at: int) -> tuple[float, int]:
    if tokens[at] == "-":
        value, at = _single(tokens, at + 1)
        return -value, at
    if tokens[at] == "(":
        value, at = _added(tokens, at + 1)
        if tokens[at] != ")":
            raise ValueError(tokens[at])
        return value, at + 1
    return float(tokens[at]), at + 1
