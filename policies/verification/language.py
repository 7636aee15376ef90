"""Which language a text is in, roughly: by its script, and for Latin letters by the words that carry the grammar. Good from about ten words on."""

from __future__ import annotations

import re
from collections import Counter

from policies.verification.markers import excerpt

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)

_COMMON = {
    "en": "the and of to in is that it for was on are with as be this have from or by not but what all were when your can there which their will would you",
    "de": "der die das und ist nicht ein eine zu den von mit sich auf für dem im auch es an werden aus hat dass sie nach wird bei um am sind noch wie über",
    "fr": "le la les et des est un une du que dans qui pour pas sur au plus par ce il sont avec se ne ou cette être aux ont mais comme vous nous elle",
    "es": "el la los las de que y en un una es se del por con para su al lo como más pero sus le ha este está son entre cuando muy sin sobre también fue hay",
    "it": "il la le che di e è un una per in non del della si con sono da dei al nel come più anche lo gli alla ma delle suo questo ha essere i",
    "pt": "o a os as de que e é um uma em não para com do da no na se por mais dos como mas foi ao ele das tem seu sua ou quando muito nos já está são",
    "nl": "de het een en van is dat in te niet zijn op met voor aan er die ook als maar om bij dan nog naar wordt door over heeft ze deze uit worden",
    "pl": "i w nie się na z do to że jest o jak po co ale za od przez jego są dla tym być oraz tego może który tylko już jej",
    "tr": "ve bir bu için ile de da çok olarak daha olan gibi kadar ne var ancak sonra en ya her olduğu değil ise",
}
_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}
_SCRIPTS = {
    "ja": re.compile(r"[\u3040-\u30ff]"),
    "ko": re.compile(r"[\uac00-\ud7af\u1100-\u11ff]"),
    "zh": re.compile(r"[\u4e00-\u9fff]"),
    "ar": re.compile(r"[\u0600-\u06ff]"),
    "ru": re.compile(r"[\u0400-\u04ff]"),
    "hi": re.compile(r"[\u0900-\u097f]"),
    "el": re.compile(r"[\u0370-\u03ff]"),
    "he": re.compile(r"[\u0590-\u05ff]"),
    "th": re.compile(r"[\u0e00-\u0e7f]"),
}
LEAST_WORDS = 6
"""A text with fewer words that carry grammar is in no language that could be told."""


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language that most of the text is in; None where it cannot be told."""
    text = _CODE.sub(" ", excerpt(text))
    letters = sum(map(str.isalpha, text))
    if not letters:
        return None
    scripts = {language: len(pattern.findall(text)) for language, pattern in _SCRIPTS.items()}
    if scripts["ja"] * 10 > letters:  # Japanese is written with Chinese characters too
        return "ja"
    language, count = max(scripts.items(), key=lambda each: each[1])
    if 2 * count > letters:
        return language
    words = [word.lower() for word in _WORD.findall(text)]
    found = Counter({language: sum(word in common for word in words) for language, common in _WORDS.items()})
    (first, most), (_, next_most) = found.most_common(2)
    return first if most >= LEAST_WORDS and most > 1.2 * next_most else None
