"""The verifier: each signal of the policy's `verify`, in its order, over one answer. Pure, and linear in the answer's length."""

from __future__ import annotations

from collections.abc import Callable

from adapters.sentences import content_words, sentences
from adapters.structured import AnswerFormat, InvalidSchema, Problem, answer_format
from adapters.types import ResponseFormat, Tool, ToolCallPart
from policies.language import language_of
from policies.verification.agreement import agreement
from policies.verification.answer import Answer, Asked, Finding, Verdict
from policies.verification.markers import hedges, refuses
from policies.verification.spec import PARTIAL, Cascade, Signal

CLAIM_WORDS = 3
"""A sentence with fewer words that carry a subject claims nothing that a document could bear out."""


def verify(spec: Cascade, asked: Asked, answer: Answer) -> Verdict:
    """The verdict on an answer, or on its beginning where its `finish` is None: then only on what a beginning can show.

    An answer that calls tools is verified for its format only. Agreement needs a second answer: see `agreed`.
    """
    wanted = [signal for signal in spec.verify if signal != "agreement" and (answer.finish is not None or signal in PARTIAL)]
    if answer.calls:
        wanted = [signal for signal in wanted if signal == "format"]
    return Verdict(tuple(_SIGNALS[signal](spec, asked, answer) for signal in wanted))


def agreed(spec: Cascade, answer: Answer, second: Answer) -> Finding:
    """Whether another answer to the same question comes to the same."""
    if second.calls or second.refused:
        return Finding("agreement", False, 0.0, "agreement")
    share = agreement(answer.text, second.text)
    return Finding("agreement", share >= spec.min_agreement, share, "" if share >= spec.min_agreement else "agreement")


def _logprob(spec: Cascade, _: Asked, answer: Answer) -> Finding:
    if not answer.logprobs:
        return Finding("logprob", None)
    mean = sum(answer.logprobs) / len(answer.logprobs)
    if mean < spec.min_mean_logprob:
        return Finding("logprob", False, mean, "logprob")
    if spec.min_token_logprob is not None and min(answer.logprobs) < spec.min_token_logprob:
        return Finding("logprob", False, mean, "logprob:token")
    return Finding("logprob", True, mean)


def _length(spec: Cascade, _: Asked, answer: Answer) -> Finding:
    length = len(answer.text.strip())
    code = ""
    if answer.finish == "length":
        code = "length:cut"
    elif length < spec.min_characters and not answer.refused:
        code = "length:short"
    elif spec.max_characters is not None and length > spec.max_characters:
        code = "length:long"
    return Finding("length", not code, float(length), code)


def _hedging(spec: Cascade, _: Asked, answer: Answer) -> Finding:
    count = hedges(answer.text)
    return Finding("hedging", count <= spec.max_hedges, float(count), "" if count <= spec.max_hedges else "hedging")


def _refusal(_: Cascade, __: Asked, answer: Answer) -> Finding:
    refused = answer.refused or answer.finish == "content_filter" or refuses(answer.text)
    return Finding("refusal", not refused, float(refused), "refusal" if refused else "")


def _citations(spec: Cascade, asked: Asked, answer: Answer) -> Finding:
    """The share of sentences with a claim that a citation bears out. A request for which nothing was found has nothing to cite."""
    if not asked.passages:
        return Finding("citations", None)
    spans = [(start, end) for start, end in sentences(answer.text) if len(content_words(answer.text[start:end])) >= CLAIM_WORDS]
    if not spans:
        return Finding("citations", None)
    covered = sum(any(start < right and left < end for left, right in answer.cited) for start, end in spans)
    share = covered / len(spans)
    return Finding("citations", share >= spec.min_citations, share, "" if share >= spec.min_citations else "citations")


def _format(_: Cascade, asked: Asked, answer: Answer) -> Finding:
    """Calls that name a tool and fit its parameters; else the JSON, the language and the code that were asked for, as far as they were."""
    code = ""
    if answer.calls:
        code = "" if all(_call_fits(call, asked.tools) for call in answer.calls) else "format:tool_call"
        return Finding("format", not code, None, code)
    whole, known = answer.finish is not None, False
    if asked.form is not None and whole:
        known, code = True, "format:json" if isinstance(asked.form.check(answer.text), Problem) else ""
    if whole and not code and answer.text.count("```") % 2:
        known, code = True, "format:code"
    if asked.code and whole and not code:
        known, code = True, "" if "```" in answer.text else "format:code"
    if asked.language is not None and not code and (found := language_of(answer.text)):
        known, code = True, "" if found == asked.language else "format:language"
    return Finding("format", not code if known else None, None, code)


def _call_fits(call: ToolCallPart, tools: tuple[Tool, ...]) -> bool:
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return False
    form = _object()
    if tool.parameters:
        try:
            form = answer_format(ResponseFormat(kind="json_schema", schema=tool.parameters)) or form
        except InvalidSchema:  # the client's own schema is none: an object is all that can be asked
            form = _object()
    return not isinstance(form.check(call.arguments or "{}"), Problem)


def _object() -> AnswerFormat:
    form = answer_format(ResponseFormat(kind="json_object"))
    assert form is not None
    return form


_SIGNALS: dict[Signal, Callable[[Cascade, Asked, Answer], Finding]] = {
    "logprob": _logprob,
    "length": _length,
    "hedging": _hedging,
    "refusal": _refusal,
    "citations": _citations,
    "format": _format,
}
