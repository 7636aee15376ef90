"""What routing knows about a request: taken from its text by cheap, pure heuristics."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import cast

from msgspec import Struct

from adapters import backend
from adapters.backend import DATA_CLASSES, DataClass
from adapters.types import GenerateRequest, ProviderTool
from policies.access import Principal, Role
from policies.complexity import complexity_of
from policies.complexity.features import looked_at
from policies.language import language_of
from policies.schema import Need, Task
from policies.words import spaced, words_of

CHARACTERS_A_TOKEN = 4


RULES = "rules"


class Features(Struct, frozen=True, kw_only=True):
    """What a decision depends on, besides the policy and the state. It is logged with the decision and holds no text of the request.

    `opaque_parts` names the providers without whose own parts the request means nothing. `model` is the requested one (`auto`: the policy
    chooses). `complexity` is None where there is no text; `scorer` says what it is by:
    `rules`, `head:HASH`, or `rules:REASON` where a head serves the tenant and could not be asked. `output_tokens` is the output
    the client asked for at most, or None. `key` and `key_name` are the key's id and name. `user` and `conversation` are opaque ids, equal for the
    same one; empty where there is none. `language` is the last question's (ISO 639-1), empty where it is not known.
    `hits`, `context_tokens` and `top_score` (the best passage's similarity, None without one) are what the grounding search found.
    """

    tenant: str = ""
    role: Role = "member"
    key: str = ""
    key_name: str = ""
    user: str = ""
    conversation: str = ""
    tags: tuple[str, ...] = ()
    data_class: DataClass = "internal"
    task: Task = "chat"
    language: str = ""
    model: str = "auto"
    needs: tuple[Need, ...] = ()
    provider_tools: tuple[str, ...] = ()
    opaque_parts: tuple[str, ...] = ()
    grounded: bool = False
    top_score: float | None = None
    hits: int = 0
    context_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int | None = None
    turns: int = 1
    complexity: float | None = None
    max_cost_usd: float | None = None
    scorer: str = RULES


def extract(
    request: GenerateRequest,
    principal: Principal,
    *,
    data_class: DataClass = "internal",
    input_tokens: int,
    max_cost_usd: float | None = None,
    complexity: bool = True,
    tags: tuple[str, ...] = (),
    conversation: str = "",
    named_keys: Container[str] = (),
) -> Features:
    """The features of a request. `data_class` is the one already raised by tenant, documents and hints (`highest`).

    Without `complexity` that one is left unknown: for a policy that does not ask for it. A key's name, which somebody wrote, is kept only where the
    policy names that key (`named_keys`). The request's `context` is what the grounding search found.
    """
    passages = request.context
    question = last_question(request)
    return Features(
        tenant=principal.tenant,
        role=principal.role,
        key=principal.key_id,
        key_name=principal.key_name if principal.key_name in named_keys else "",
        user=principal.user or principal.key_id,
        conversation=conversation,
        tags=tags,
        data_class=data_class,
        task=task_of(question, grounded=request.grounded),
        language=language_of(question),
        model=request.model or "auto",
        needs=needs_of(request),
        provider_tools=tuple(dict.fromkeys(tool.qualified for tool in request.tools if isinstance(tool, ProviderTool))),
        opaque_parts=backend.required_parts(request),
        grounded=request.grounded,
        top_score=round(max(passage.similarity for passage in passages), 4) if passages else None,
        hits=len(passages),
        context_tokens=sum(len(passage.text) for passage in passages) // CHARACTERS_A_TOKEN,
        input_tokens=input_tokens,
        output_tokens=request.max_output_tokens,
        turns=_turns(request),
        complexity=complexity_of(question) if complexity and question.strip() else None,
        max_cost_usd=max_cost_usd,
    )


def highest(*classes: DataClass) -> DataClass:
    """The most sensitive of the classes; public for none."""
    return max(classes, key=DATA_CLASSES.index, default="public")


def needs_of(request: GenerateRequest) -> tuple[Need, ...]:
    """The features that a backend must have to answer this request."""
    return tuple(cast(Need, need) for need, _ in backend.needs_of(request))


def last_question(request: GenerateRequest) -> str:
    """The text of the last user message, its middle left out where it is long."""
    text = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
    return looked_at(text)


def _turns(request: GenerateRequest) -> int:
    return sum(message.role == "user" for message in request.messages)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LETTERS = spaced("+#")
_CODE_BLOCK = re.compile(
    r"```|^\s*(?:def \w+\(|class \w+[(:{]|import [\w.]+ *(?:$|,| as )|from [\w.]+ import|#include\b|public class |select .* from |function \w+\()", re.MULTILINE
)
_CODE_ASK = _words("write implement fix debug refactor optimize optimise review port create")
_CODE_THINGS = _words("function class script program method code query module endpoint regex regexp sql")
_CODE = _words(
    "python javascript typescript java c++ c# golang rust kotlin sql regex regexp bash traceback stacktrace refactor debug compile compiler"
    " segfault docker dockerfile kubernetes css html nullpointerexception git npm pip pytest"
)
_TRANSLATE = _words("translate translation übersetze übersetzen traduis traduire traduce traducir traduza traduzir")
_LANGUAGE_AT_END = re.compile(
    r"\b(?:in|into|to) (?:english|german|french|spanish|italian|portuguese|dutch|polish|chinese|japanese|korean|arabic|russian|turkish|hindi)\s*[.:?!]?\s*\Z"
)
_SUMMARISE = _words(
    "summarise summarize summary summarising summarizing summaries tldr takeaways zusammenfassen zusammenfassung résumé résumer resumen resumir"
)
_CLASSIFY = _words("classify classification categorise categorize sentiment")
_EITHER = re.compile(r"\b(?:is|are) (?:this|these|the following)\b.{0,80}\b(?:positive|negative|spam|toxic)\b")
_VERDICTS = _words("positive negative spam toxic")
_EXTRACT = _words("extract extraction parse")
_EXTRACT_ASK = re.compile(r"\bpull out\b|\blist (?:all|every|each)\b.{0,60}\b(?:in|from)\b|\b(?:as|into|in) (?:a )?(?:json|csv|table)\b")
_FORMS = _words("json csv table list pull")
_MATH = _words(
    "solve equation equations integral derivative differentiate probability theorem prove calculate compute percent percentage matrix"
    " polynomial factorial modulo remainder altogether"
)
_SUM = re.compile(r"\d ?[+*^×÷] ?\d|\d [-/] \d")
_EQUATION = re.compile(r"= ?-?\d")
_HOW_MANY = re.compile(r"\bhow (?:many|much)\b")
_WRITE = _words("write draft compose rewrite rephrase brainstorm")
_TEXTS = _words("email mail letter poem story essay article post blog speech text paragraph slogan message song tweet")
_QUESTION = _words("who what when where which why how is are does do did can wer was wann wo warum wie qui que quand où pourquoi quién qué cuándo dónde")


def task_of(text: str, *, grounded: bool = False) -> Task:
    """The kind of work a question asks for; the more specific kinds are looked for first."""
    lower = text.lower()
    listed = words_of(lower, _LETTERS)
    words = frozenset(listed)
    if _CODE_BLOCK.search(lower) or (words & _CODE_ASK and words & _CODE_THINGS):
        return "code"
    if words & _TRANSLATE or _LANGUAGE_AT_END.search(lower[-60:]):
        return "translate"
    if words & _SUMMARISE:
        return "summarise"
    if words & _CLASSIFY or (words & _VERDICTS and _EITHER.search(lower)):
        return "classification"
    if words & _WRITE and words & _TEXTS:
        return "write"
    if words & _CODE:
        return "code"
    if words & _EXTRACT or (words & _FORMS and _EXTRACT_ASK.search(lower)):
        return "extraction"
    numbers = sum(map(str.isdigit, listed))
    if words & _MATH or _SUM.search(lower) or _EQUATION.search(lower) or "\\frac" in lower or (numbers >= 2 and _HOW_MANY.search(lower)):
        return "math"
    return "qa" if grounded or lower.rstrip().endswith("?") or (listed and listed[0] in _QUESTION) else "chat"
