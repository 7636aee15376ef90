"""What a request asks of its answer's form, as far as its words say so."""

from __future__ import annotations

import re

from adapters.structured import AnswerFormat
from adapters.types import GenerateRequest
from policies.features import last_question, task_of
from policies.verification.answer import Asked

_LANGUAGES = {
    "en": "english|englisch|auf englisch|anglais|inglés|inglese|inglês|engels",
    "de": "german|deutsch|allemand|alemán|tedesco|alemão|duits",
    "fr": "french|französisch|français|francés|francese|francês|frans",
    "es": "spanish|spanisch|espagnol|español|spagnolo|espanhol|spaans",
    "it": "italian|italienisch|italien|italiano|italiaans",
    "pt": "portuguese|portugiesisch|portugais|portugués|portoghese|português|portugees",
    "nl": "dutch|niederländisch|holländisch|néerlandais|neerlandés|olandese|holandês|nederlands",
    "pl": "polish|polnisch|polonais|polaco|polacco|polonês",
    "tr": "turkish|türkisch|turc|turco",
    "ja": "japanese|japanisch|japonais|japonés|giapponese|japonês",
    "ko": "korean|koreanisch|coréen|coreano",
    "zh": "chinese|mandarin|chinesisch|chinois|chino|cinese|chinês",
    "ar": "arabic|arabisch|arabe|árabe|arabo",
    "ru": "russian|russisch|russe|ruso|russo",
    "hi": "hindi",
    "el": "greek|griechisch|grec|griego|greco|grego",
    "he": "hebrew|hebräisch|hébreu|hebreo|ebraico|hebraico",
    "th": "thai",
}
_NAMED = {name: code for code, names in _LANGUAGES.items() for name in names.split("|")}
_ANSWER_IN = re.compile(
    r"\b(?:answers?|reply|replies|respond|responses?|write|explain|summari[sz]e|translat\w+|say|speak|antworte\w*|antwort|schreib\w*|übersetz\w*|erklär\w*"
    r"|réponds?|répondez|écri\w+|tradui\w+|responde\w*|contesta\w*|escrib\w+|traduc\w+|rispond\w+|scriv\w+|traduci|responda|escrev\w+|traduz\w*)\b"
    r"[^.!?\n]{0,60}?\b(?:in|into|to|auf|ins|en|au|al|in)\s+(?:\w+\s)?(" + "|".join(sorted(_NAMED, key=len, reverse=True)) + r")\b"
)
_WANTS_CODE = re.compile(r"\b(?:write|implement|create|give|show|provide|generate|refactor|rewrite|fix|complete)\b")
_CODE = re.compile(r"\b(?:function|class|script|program|method|code|query|regex|snippet|component|module|code block)\b")


def asked_of(request: GenerateRequest, form: AnswerFormat | None, passages: int = 0) -> Asked:
    """`form` is what the request's response format compiles to, `passages` how many it was given to cite."""
    question = last_question(request)
    lower = question.lower()
    named = _ANSWER_IN.findall(lower)
    code = form is None and task_of(question) == "code" and bool(_WANTS_CODE.search(lower)) and bool(_CODE.search(lower))
    return Asked(language=_NAMED[named[-1]] if named and form is None else None, code=code, form=form, tools=request.functions, passages=passages)
