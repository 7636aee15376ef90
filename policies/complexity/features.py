"""Cheap numbers about a text: pure, no model, well under a millisecond for 2,000 characters."""

from __future__ import annotations

import math
import re

from policies.words import spaced, words_of

_LETTERS = spaced()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_QUANTITIES = _words("each every per total times twice half many much more less than left remaining altogether percent cost costs")
_NEGATIONS = _words("not except never no cannot without false incorrect least neither nor none")
_LOGIC = _words("if then therefore because whether either must all some only suppose given assume let following statement statements which")
_SUBJECTS = _words(
    "prove derive theorem integral function group ring field matrix probability equation polynomial algorithm constant velocity energy force"
    " molecular reaction law court plaintiff defendant statute liability moral theory"
)
_CODE = _words(
    "python javascript typescript java golang rust kotlin sql regex regexp bash function functions def return class method script code program"
    " string strings array arrays list lists tuple tuples dictionary integer integers boolean loop recursion iterate algorithm compile compiler"
    " debug refactor import assert json html css api int str float substring sorted implement bug exception stack queue linked binary tree"
)
_CODE_ASK = _words("write implement create complete fix debug refactor optimize optimise return")
_CODE_THINGS = _words("function program script code class method query algorithm python sql regex module")
_CODE_MARKS = ("```", "def ", "class ", ">>>", "#include", "assert ", "return ", "import ", "()", ";\n", "{\n", "):\n", "->", "==", "self.", "[i]", "print(")
_SCIENCE = _words(
    "molecule molecules molecular atom atoms atomic electron electrons proton neutron nucleus ion ions acid base bond bonds enzyme protein proteins"
    " gene genes genetic dna rna cell cells mutation allele chromosome receptor membrane bacteria virus species compound compounds reaction reactions"
    " catalyst oxidation isomer equilibrium entropy enthalpy quantum photon wavelength frequency spectrum velocity acceleration mass energy momentum"
    " field magnetic electric voltage current orbit star galaxy temperature pressure hydrogen oxygen carbon nitrogen synthesis product"
    " concentration solution mol nmr hamiltonian eigenvalue operator relativistic thermodynamic kinetic plasma tensor"
)
_MATHS = _words(
    "solve equation equations integral derivative probability theorem prove compute evaluate simplify polynomial matrix triangle circle angle radius"
    " area perimeter volume square root sum product remainder divisible prime factor factors integer integers positive real coordinates vertices"
    " parallel perpendicular expression value values degree degrees graph axis function log sin cos tan frac sqrt"
)
_REASONING = _words("explain why prove derive compare analyse analyze evaluate justify discuss design plan strategy steps step reason critique assess")
_PUZZLE = _words("clue clues clockwise immediately adjacent seated facing directly somewhere between next house houses position")
_FACTOID = _words("who when where whose whom")
_ASKING = _words("what which how why")
_OPTION = re.compile(r"(?:^|\n)[ \t]{0,4}\(?([A-H])[.):][ \t]{0,4}(\S[^\n]*)")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_MONEY = re.compile(r"[$€£]\s?\d")
_FRACTION = re.compile(r"\d ?/ ?\d")
_PARTS = _words("half third quarter percent")

LOOKED_AT = 2_000
"""Characters of a question that are read; the first half and the last."""


def looked_at(text: str) -> str:
    """The text, its middle left out where it is long."""
    return text if len(text) <= LOOKED_AT else text[: LOOKED_AT // 2] + "\n" + text[-LOOKED_AT // 2 :]


FEATURES = (
    "characters", "word_length", "long_words", "numbers_share", "numbers", "distinct_words", "questions", "full_stops", "commas", "formulas",
    "brackets", "quotes", "percent", "sentence_length", "quantities", "negations", "logic", "subjects",
    "code_words", "code_marks", "code_asked", "science", "maths", "reasoning", "puzzle", "factoid", "asking", "short", "blank", "options",
    "option_length", "option_numbers", "largest_number", "distinct_numbers", "money", "fractions", "latex", "capitals", "lines",
    "commas_share", "ends_asking", "ends_stopped", "very_long", "decimals",
)  # fmt: skip


def features_of(text: str) -> tuple[float, ...]:
    """The numbers that the estimate is made of, in the order of `FEATURES`."""
    lower = text.lower()
    listed = words_of(lower, _LETTERS)
    count = len(listed) or 1
    distinct = frozenset(listed)
    digits = sum(map(str.isdigit, listed))
    stops = text.count(".")
    questions = text.count("?")
    commas = text.count(",")
    log = math.log1p
    options = [found[1] for found in _OPTION.findall(text)[:10]]
    numbers = [_number(each) for each in _NUMBER.findall(text)[:60]]
    written = text.split()
    end = text.rstrip()[-1:]
    coded = len(distinct & _CODE)
    return (
        log(len(text)),
        sum(map(len, listed)) / count,
        sum(1 for word in distinct if len(word) >= 9) / count,
        digits / count,
        log(digits),
        len(distinct) / count,
        log(questions),
        log(stops),
        log(commas),
        log(text.count("$") + text.count("\\") + text.count("^") + text.count("=")),
        log(text.count("(")),
        float('"' in text),
        float("%" in text),
        min(count / (1 + stops + questions), 60) / 20,
        log(len(distinct & _QUANTITIES)),
        log(len(distinct & _NEGATIONS)),
        log(len(distinct & _LOGIC)),
        log(len(distinct & _SUBJECTS)),
        log(coded),
        log(min(sum(map(lower.count, _CODE_MARKS)), 20)),
        float(bool(distinct & _CODE_ASK and distinct & _CODE_THINGS)),
        log(len(distinct & _SCIENCE)),
        log(len(distinct & _MATHS)),
        log(len(distinct & _REASONING)),
        log(len(distinct & _PUZZLE)),
        float(bool(distinct & _FACTOID)),
        float(bool(distinct & _ASKING)),
        max(0.0, 1 - count / 20),
        float("__" in text or "fill in" in lower),
        log(len(options)),
        log(sum(map(len, options)) / len(options)) if options else 0.0,
        sum(any(map(str.isdigit, option)) for option in options) / len(options) if options else 0.0,
        log(max(numbers, default=0.0)),
        log(len(set(numbers))),
        log(len(_MONEY.findall(text))),
        log(len(_FRACTION.findall(text)) + text.count("%") + text.count("\\frac") + len(distinct & _PARTS)),
        log(min(text.count("\\") + text.count("^") + text.count("$") // 2, 30)),
        sum(1 for word in written if word[:1].isupper()) / (len(written) or 1),
        log(text.count("\n")),
        commas / count,
        float(end == "?"),
        float(end == "."),
        float(len(text) > 1000),
        log(sum(1 for each in numbers if each != int(each))),
    )


def _number(text: str) -> float:
    return min(float(text.replace(",", "")), 1e12)
