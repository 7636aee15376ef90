"""Words by which an answer says that it is not sure, or that it will not answer. Phrases, not words: "may" alone says nothing.

Written as they stand after `plain`: lower case, straight apostrophes, single spaces. English first; German, French, Spanish, Italian, Portuguese and
Dutch have the common ones.
"""

from __future__ import annotations

import re
import unicodedata

_HEDGES = r"""
i(?:'m| am) (?:not|un) ?(?:really |entirely |completely |totally |quite |100% |absolutely )?(?:sure|certain|confident)
i (?:do not|don't|can't|cannot) (?:really |actually |currently )?(?:know|recall|remember|say for (?:sure|certain)|be (?:sure|certain))
i(?:'m| am) guessing
(?:just|only|merely) a guess
my best guess
i (?:might|may|could) be (?:wrong|mistaken|misremembering)
if i (?:remember|recall) correctly
to the best of my (?:knowledge|recollection)
as far as i (?:know|can tell|remember)
it(?:'s| is) (?:hard|difficult|impossible|not possible) (?:for me )?to (?:say|tell|know|determine|calculate)
it(?:'s| is) (?:unclear|not clear|uncertain)
(?:cannot|can't|could not|couldn't) (?:be determined|determine|verify|confirm)
(?:not enough|insufficient|without (?:more|further|additional)) (?:information|context|details|data)
i (?:do not|don't) have (?:enough |any |sufficient |access to )(?:information|context|data|details|knowledge)
(?:please )?(?:double[- ]check|verify) (?:this|that|it|these|my)
ich bin (?:mir )?(?:\w+ )?(?:nicht|un)(?: ganz| völlig)? ?sicher
(?:das )?wei(?:ß|ss) ich (?:\w+ )?nicht|ich wei(?:ß|ss) (?:\w+ )?nicht
soweit ich wei(?:ß|ss)|meines wissens
(?:es ist|das ist) (?:unklar|schwer zu sagen)
je ne suis pas (?:\w+ )?(?:sûre?|certaine?)
je ne sais pas|à ma connaissance|il est difficile de dire
no estoy (?:\w+ )?segur[oa]
no (?:lo )?sé\b|hasta donde sé|es difícil (?:de )?decir
non (?:ne )?sono (?:\w+ )?sicur[oa]|non (?:lo )?so\b|per quanto ne so
não (?:tenho|estou) (?:a )?(?:certeza|cert[oa])|não sei\b
ik weet (?:het )?niet(?: zeker)?|voor zover ik weet
"""

_REFUSALS = r"""
(?:i'm|i am) (?:very |so |really )?sorry,? (?:but )?(?:i|as an)\b
(?:i apologize|my apologies),? (?:but )?i\b
(?:unfortunately,? )?i (?:can't|cannot|can not|won't|will not|am not able to|am unable to|must decline to) (?:\w+ )?(?:help|assist|answer|provide|comply)
(?:unfortunately,? )?i (?:can't|cannot|can not|won't|will not) (?:\w+ )?(?:fulfil|create|write|discuss|continue|share|support|generate|complete|give|offer)
(?:unfortunately,? )?i (?:can't|cannot|can not) (?:\w+ )?(?:process|access|see|view|open)
(?:i'm|i am) (?:unable|not able) to\b
(?:i'm|i am) not (?:allowed|permitted|comfortable)\b
as an? (?:ai|artificial intelligence|large language model|language model)\b
i (?:do not|don't) (?:feel comfortable|engage)
es tut mir leid,? (?:aber )?|tut mir leid,? (?:aber )?ich|dabei kann ich (?:\w+ )?nicht helfen|als ki\b
ich kann (?:\w+ ){0,3}(?:nicht|leider) (?:\w+ )?(?:helfen|beantworten|weiterhelfen)
je (?:suis )?désolée?,? (?:mais )?|désolée?,? (?:mais )?je|je ne (?:peux|puis) pas (?:\w+ )?(?:aider|répondre|fournir)|en tant qu'(?:ia|intelligence)
lo siento,? (?:pero )?(?:no|como)|no puedo (?:\w+ )?(?:ayudar|responder|proporcionar)|como (?:una )?(?:ia|inteligencia|modelo de lenguaje)
mi dispiace,? (?:ma )?(?:non|in quanto)|non posso (?:\w+ )?(?:aiutar|rispondere|fornire)
(?:desculpe|sinto muito),? (?:mas )?(?:não|eu)|não posso (?:\w+ )?(?:ajudar|responder|fornecer)
(?:het )?spijt me,? (?:maar )?ik|ik kan (?:\w+ ){0,3}niet (?:\w+ )?(?:helpen|beantwoorden)
"""

OPENING = 240
"""Characters at the beginning of an answer in which a refusal is looked for: further on, the same words are about something else."""


def _any(phrases: str, before: str) -> re.Pattern[str]:
    return re.compile(before + "(?:" + "|".join(line for line in phrases.strip().splitlines()) + ")")


_HEDGING = _any(_HEDGES, r"(?<![\w'])")
_REFUSING = _any(_REFUSALS, r"(?:^|[.!?:\n] ?|(?<=\n))")
_SPACES = re.compile(r"[^\S\n]+")
_STRAIGHT = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "*": "", "_": "", "`": ""})


def plain(text: str) -> str:
    """The text as the phrases are written: without emphasis, in lower case, with straight apostrophes and single spaces."""
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", text).translate(_STRAIGHT).lower()).strip()


def hedges(text: str) -> int:
    """How often the text says that it is not sure. What stands in a block of code says nothing."""
    return sum(1 for _ in _HEDGING.finditer(plain(_without_code(excerpt(text)))))


def refuses(text: str) -> bool:
    """Whether the answer begins as refusals do."""
    return _REFUSING.search(plain(text[:OPENING])) is not None


LOOKED_AT = 20_000
"""Characters of an answer that are read for its words: the first half and the last."""


def excerpt(text: str) -> str:
    return text if len(text) <= LOOKED_AT else text[: LOOKED_AT // 2] + "\n" + text[-LOOKED_AT // 2 :]


_BLOCK = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


def _without_code(text: str) -> str:
    return _BLOCK.sub(" ", text)
