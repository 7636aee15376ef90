"""OpenAI's `/v1/moderations`: texts in; what the rules say of them out, and never what they matched."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from adapters.types import JsonObject
from policies.moderation import Match, RuleSet, find
from router.http.errors import ApiError, decode_body

UNJUDGED = (
    "hate", "hate/threatening", "harassment", "harassment/threatening", "illicit", "illicit/violent", "self-harm", "self-harm/intent",
    "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
"""OpenAI's categories. Its shape wants them; Headgate's rules find none of this, so they are false, and apply to no input."""

_OPENAI_MODELS = ("omni-moderation", "text-moderation")


class _Text(Struct, tag_field="type", tag="text"):
    text: str


class _ImageUrl(Struct):
    url: str


class _Image(Struct, tag_field="type", tag="image_url"):
    image_url: _ImageUrl


class ModerationsBody(Struct):
    """`model`: `all` runs every shipped rule, `headgate`, nothing, or a moderation model of OpenAI's the tenant's own."""

    input: str | Annotated[list[str | _Text | _Image], Meta(min_length=1, max_length=2048)]
    model: str | None = None


class Inputs(Struct, frozen=True):
    """Each input is one text or more: OpenAI judges a list of parts as one."""

    inputs: tuple[tuple[str, ...], ...]
    parts: bool
    every_rule: bool

    @property
    def characters(self) -> int:
        return sum(len(text) for texts in self.inputs for text in texts)


class FoundMatch(Struct, omit_defaults=True):
    """Where a rule matched, in code points; `part` counts from 0 where the input was a list of parts."""

    rule: str
    category: str
    start: int
    end: int
    part: int | None = None


def decode_moderations(body: bytes) -> Inputs:
    """Raises `ApiError` 400 that names the field at fault, 404 for a model that is none of ours."""
    asked = decode_body(body, ModerationsBody)
    model = asked.model or "headgate"
    if model not in ("all", "headgate") and not model.startswith(_OPENAI_MODELS):
        raise ApiError(404, "model_not_found", f"No moderation model {model!r}. There are 'headgate' (your tenant's rules) and 'all'.", param="model")
    if isinstance(asked.input, str):
        return Inputs(((asked.input,),), parts=False, every_rule=model == "all")
    texts: list[str] = []
    kinds = set()
    for place, each in enumerate(asked.input):
        kinds.add(type(each))
        match each:
            case str():
                texts.append(each)
            case _Text():
                texts.append(each.text)
            case _Image():
                where = f"input[{place}]"
                raise ApiError(400, "unsupported_feature", f"{where}: pictures are not moderated here; send text only.", param=where)
    if kinds == {str}:
        return Inputs(tuple((text,) for text in texts), parts=False, every_rule=model == "all")
    if str in kinds:
        raise ApiError(400, "invalid_request", "input: a list holds either texts or parts.", param="input")
    return Inputs((tuple(texts),), parts=True, every_rule=model == "all")


Findings: TypeAlias = list[list[tuple[int, Match]]]
"""For each input its matches, each with the part it stands in."""


def judge(rules: RuleSet, given: Inputs) -> Findings:
    """What the rules find. About two seconds for a million characters: not for an event loop."""
    return [[(part, match) for part, text in enumerate(texts) for match in find(rules, text)] for texts in given.inputs]


def encode_moderations(request_id: str, rules: RuleSet, given: Inputs, found: Findings) -> bytes:
    judged = tuple(dict.fromkeys(rule.category for rule in rules.rules))
    results = [_result(matches, judged, parts=given.parts) for matches in found]
    return msgspec.json.encode(
        {"id": f"modr-{request_id}", "model": "all" if given.every_rule else "headgate", "results": results, "headgate": {"rules": rules.version}}
    )


def _result(matches: list[tuple[int, Match]], judged: tuple[str, ...], *, parts: bool) -> JsonObject:
    hit = {match.category for _, match in matches}
    text: list[Literal["text"]] = ["text"]
    return {
        "flagged": bool(hit),
        "categories": {**dict.fromkeys(UNJUDGED, False), **{name: name in hit for name in judged}},
        "category_scores": {**dict.fromkeys(UNJUDGED, 0.0), **{name: float(name in hit) for name in judged}},
        "category_applied_input_types": {**{name: [] for name in UNJUDGED}, **dict.fromkeys(judged, text)},
        "headgate": {
            "judged": judged,
            "matches": [FoundMatch(match.rule, match.category, match.start, match.end, part if parts else None) for part, match in matches],
        },
    }
