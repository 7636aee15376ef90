"""What the scripted backend says: its YAML table, the directives inside a message, and the deltas that follow from both. All pure."""

from __future__ import annotations

import difflib
import re
import shlex
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from adapters.backend import BackendSpec
from adapters.errors import ERRORS, InvalidRequest
from adapters.types import Capabilities, Delta, FinishReason, GenerateRequest, ReasoningDelta, RefusalDelta, TextDelta, TokenLogprob, ToolCallDelta

DEFAULT_TEXT = "Hello! This is a scripted answer; it says the same every time, and that is what it is for."
CHARACTERS_PER_TOKEN = 4

_DIRECTIVES = re.compile(r"\[\[scripted\b(.*?)\]\]", re.DOTALL)

Seconds: TypeAlias = Annotated[float, Meta(ge=0)]
Number: TypeAlias = Annotated[int, Meta(ge=0)]
Moment: TypeAlias = Literal["start", "first"] | Number


class ScriptedToolCall(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any] | str = {}


class ScriptedUsage(Struct, frozen=True, forbid_unknown_fields=True):
    """What the script's provider says it used; what is not given is counted."""

    input: Number | None = None
    output: Number | None = None
    cache_read: Number = 0


class Fault(Struct, frozen=True, forbid_unknown_fields=True):
    """Fail `at` the start (before any event, nothing billed), before the first delta, or after so many deltas
    (at the end, where there are fewer).

    `error` is a code of `adapters.errors`. `times` requests fail, then all succeed; without it every request fails.
    """

    error: str = "provider_error"
    at: Moment = "start"
    retry_after: Seconds | None = None
    times: Number | None = None

    def __post_init__(self) -> None:
        if self.error not in ERRORS:
            raise ValueError(f"unknown error code {self.error!r}{hint(self.error, ERRORS)}")


class ScriptedSpec(BackendSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`text` is the answer (with `echo` the last user message is), cut into deltas of `chunk` characters.

    `first_delay_s` passes before the first event and `delay_s` between deltas. `tool_calls` are made where the request offers tools and does
    not bring a tool's result. After `hang_after` deltas (or all, where there are fewer) nothing
    comes until the stream is closed. `no_usage` plays a provider that
    reports none. Each delta of text has the log probability `logprob`, where
    the request asks for them. `capabilities` overrides what the backend says it can do. `bill_to` names the file that gets one JSON line a request.
    """

    model: str | None = "scripted"
    text: str | None = None
    echo: bool = False
    chunk: int = 4
    first_delay_s: Seconds = 0.0
    delay_s: Seconds = 0.0
    tool_calls: tuple[ScriptedToolCall, ...] = ()
    reasoning: str = ""
    refusal: str = ""
    usage: ScriptedUsage | None = None
    finish: FinishReason | None = None
    fault: Fault | None = None
    hang_after: Number | None = None
    no_usage: bool = False
    logprob: Annotated[float, Meta(le=0)] | None = None
    capabilities: dict[str, bool | int | str | None] = {}
    directives: bool = False
    bill_to: str | None = None

    def files(self) -> Mapping[str, str]:
        return {} if self.bill_to is None else {"bill_to": self.bill_to}

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError("chunk must be at least 1 character")
        for name in self.capabilities:
            if name not in Capabilities.__struct_fields__:
                raise ValueError(f"unknown capability {name!r}{hint(name, Capabilities.__struct_fields__)}")


class Directives(Struct, frozen=True, forbid_unknown_fields=True):
    """What a request may change. `deltas` repeats the text to that many deltas; `fault` is `CODE@MOMENT` or `CODE` (at the start)."""

    text: str | None = None
    deltas: Number | None = None
    chunk: int | None = None
    first_delay: Seconds | None = None
    delay: Seconds | None = None
    tool: str | None = None
    arguments: str = "{}"
    reasoning: str | None = None
    refusal: str | None = None
    input: Number | None = None
    output: Number | None = None
    cache_read: Number | None = None
    finish: FinishReason | None = None
    fault: str | None = None
    retry_after: Seconds | None = None
    hang: Number | None = None
    no_usage: bool | None = None
    logprob: Annotated[float, Meta(le=0)] | None = None


class Turn(Struct, frozen=True):
    """One choice of an answer: its deltas, why it ends, and the stop sequence that ended it."""

    deltas: tuple[Delta, ...]
    reason: FinishReason
    stop_sequence: str | None = None


def directed(spec: ScriptedSpec, request: GenerateRequest, backend: str) -> ScriptedSpec:
    """The script for this request. Raises `InvalidRequest` for a directive that cannot be read."""
    if not spec.directives or (found := _DIRECTIVES.search(_last_user_text(request))) is None:
        return spec
    try:
        words = [word.partition("=") for word in shlex.split(found[1])]
        given = msgspec.convert({key: value if sign else "true" for key, sign, value in words}, Directives, strict=False)
        return _apply(spec, given)
    except ValueError as error:
        raise InvalidRequest(f"scripted directive: {error}", backend=backend) from error


def _apply(spec: ScriptedSpec, given: Directives) -> ScriptedSpec:
    changes: dict[str, Any] = {
        "text": given.text,
        "chunk": given.chunk,
        "first_delay_s": given.first_delay,
        "delay_s": given.delay,
        "reasoning": given.reasoning,
        "refusal": given.refusal,
        "finish": given.finish,
        "hang_after": given.hang,
        "no_usage": given.no_usage,
        "logprob": given.logprob,
        "echo": False if given.text is not None or given.deltas is not None else None,
        "tool_calls": None if given.tool is None else (ScriptedToolCall(given.tool, given.arguments),),
        "fault": None if given.fault is None else _fault(given.fault, given.retry_after),
    }
    if (given.input, given.output, given.cache_read) != (None, None, None):
        changes["usage"] = ScriptedUsage(given.input, given.output, given.cache_read or 0)
    script = msgspec.structs.replace(spec, **{key: value for key, value in changes.items() if value is not None})
    if given.deltas is None:
        return script
    text = script.text or DEFAULT_TEXT + " "
    length = given.deltas * script.chunk
    return msgspec.structs.replace(script, text=(text * (length // len(text) + 1))[:length])


def _fault(directive: str, retry_after: float | None) -> Fault:
    code, _, moment = directive.partition("@")
    if moment.isdecimal():
        return Fault(code, int(moment), retry_after)
    return Fault(code, msgspec.convert(moment or "start", Literal["start", "first"]), retry_after)


def _last_user_text(request: GenerateRequest) -> str:
    return next((message.text for message in reversed(request.messages) if message.role == "user"), "")


def turn(script: ScriptedSpec, request: GenerateRequest, choice: int = 0) -> Turn:
    """What the script says as this choice, within the request's stop sequences and limit of tokens.

    Tools are called only where the request offers them, and not right after a tool's result, so that an agent's loop ends.
    """
    calls = bool(script.tool_calls and request.tools and request.tool_choice.mode != "none" and request.messages[-1].role != "tool")
    text, stop_sequence = ("", None) if script.refusal else _text(script, request, calls)
    reason: FinishReason = "tool_calls" if calls and stop_sequence is None else "stop"
    deltas: list[Delta] = [ReasoningDelta(piece, choice) for piece in _pieces(script.reasoning, script.chunk)]
    deltas += [RefusalDelta(piece, choice) for piece in _pieces(script.refusal, script.chunk)]
    told = script.logprob if request.logprobs is not None else None
    deltas += [TextDelta(piece, choice, () if told is None else (TokenLogprob(piece, told),)) for piece in _pieces(text, script.chunk)]
    if reason == "tool_calls":
        deltas += _tool_calls(script, choice)
    limit = request.max_output_tokens if request.max_output_tokens is not None else script.max_output_tokens
    if limit is not None and sum(map(length_of, deltas)) > limit * CHARACTERS_PER_TOKEN:
        deltas, reason, stop_sequence = list(_cut(deltas, limit * CHARACTERS_PER_TOKEN)), "length", None
    return Turn(tuple(deltas), script.finish or reason, stop_sequence)


def _text(script: ScriptedSpec, request: GenerateRequest, calls: bool) -> tuple[str, str | None]:
    if script.echo:
        text = _last_user_text(request)
        text = _DIRECTIVES.sub("", text).strip() if script.directives else text
    else:
        text = script.text if script.text is not None else "" if calls else DEFAULT_TEXT
    found = min(((text.find(stop), stop) for stop in request.stop if stop and stop in text), default=None)
    return (text, None) if found is None else (text[: found[0]], found[1])


def _tool_calls(script: ScriptedSpec, choice: int) -> Iterator[Delta]:
    for index, call in enumerate(script.tool_calls):
        arguments = call.arguments if isinstance(call.arguments, str) else msgspec.json.encode(call.arguments).decode()
        yield ToolCallDelta(index, id=f"call_{uuid.uuid4().hex[:24]}", name=call.name, choice=choice)
        for piece in _pieces(arguments, script.chunk):
            yield ToolCallDelta(index, arguments=piece, choice=choice)


def _pieces(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def length_of(delta: Delta) -> int:
    """The characters that count towards output tokens."""
    match delta:
        case TextDelta() | RefusalDelta() | ReasoningDelta():
            return len(delta.text)
        case ToolCallDelta():
            return len(delta.name or "") + len(delta.arguments)


def _cut(deltas: Iterable[Delta], characters: int) -> Iterator[Delta]:
    """The deltas up to that many characters, the last one shortened."""
    for delta in deltas:
        length = length_of(delta)
        if length <= characters:
            characters -= length
            yield delta
            continue
        if isinstance(delta, ToolCallDelta):
            if characters and not delta.name:
                yield msgspec.structs.replace(delta, arguments=delta.arguments[:characters])
        elif characters:
            yield msgspec.structs.replace(delta, text=delta.text[:characters])
        return


def hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
