"""Answers that must be JSON, as a stage of an attempt: held until they fit, or watched while they flow; never passed on when they do not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from adapters.errors import InvalidOutput
from adapters.prompting import json_support
from adapters.structured import AnswerFormat, Fit, InvalidSchema, Problem, answer_format
from adapters.types import (
    Capabilities,
    Citation,
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from router.http.errors import ApiError

PARAMS = {"openai.chat": "response_format", "openai.responses": "text.format", "anthropic.messages": "output_config.format"}
"""By dialect: the field of a request that says what form the answer must have."""


def required_format(request: GenerateRequest) -> AnswerFormat | None:
    """What the request demands of its answer's form. Raises `ApiError` 400 where its schema is none."""
    try:
        return answer_format(request.response_format)
    except InvalidSchema as error:
        param = PARAMS[request.dialect]
        raise ApiError(400, "invalid_request", f"{param}: {error}.", param=param) from error


def may_stream(request: GenerateRequest, capabilities: Capabilities) -> bool:
    """Whether an answer can be passed on while it comes: it will fit, because the provider builds it so.

    Providers guarantee that for a strict schema, and for JSON mode.
    """
    wanted = request.response_format
    return wanted.kind == "text" or (json_support(wanted, capabilities) == "guaranteed" and (wanted.kind == "json_object" or wanted.strict is True))


class _Said:
    """One choice, as the backend said it and as moderation let it through."""

    def __init__(self) -> None:
        self.raw: list[str] = []
        self.shown: list[str] = []
        self.other = False
        """It refused, or called a tool: then its text is no answer in the form."""


class StructuredAnswer:
    """One attempt's answer. `tap` stands before moderation, `stage` after it.

    Every choice that finishes with `stop`, and is neither a refusal nor a tool call, is checked twice: as the model wrote it, where a failure
    raises `InvalidOutput`, and as moderation left it, where a failure ends the choice with `content_filter` and, while it is held, without
    text. With `hold`, nothing passes `stage` before all choices were checked, and what stood around an answer (a code fence, words) is left out.
    """

    def __init__(self, form: AnswerFormat, backend: str, *, hold: bool) -> None:
        self._form = form
        self._backend = backend
        self.hold = hold
        self._said: dict[int, _Said] = {}
        self._cuts: dict[int, tuple[int, int | None]] = {}
        self.unwrapped = False

    async def tap(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        """Pass events on, and remember each choice's text as it came."""
        async for event in events:
            match event:
                case TextDelta():
                    self._of(event.choice).raw.append(event.text)
                case RefusalDelta() | ToolCallDelta():
                    self._of(event.choice).other = True
                case ReasoningDelta() | ProviderItem() | CitationAdded() | Finished() | ResponseStarted() | UsageReported():
                    pass
            yield event

    async def stage(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        """Moderated events, checked. Raises `InvalidOutput` once the stream has ended, so that its usage is known."""
        held: list[Event] = []
        failure: InvalidOutput | None = None
        cuts: dict[int, Fit | None] = {}
        async for event in events:
            match event:
                case ResponseStarted() | UsageReported():
                    yield event
                    continue
                case TextDelta():
                    self._of(event.choice).shown.append(event.text)
                case Finished():
                    verdict = self._verdict(event)
                    if isinstance(verdict, InvalidOutput):
                        failure = failure or verdict
                        continue
                    cuts[event.choice] = verdict
                    if verdict is None:
                        event = Finished("content_filter", event.choice, event.provider_reason)
                case ReasoningDelta() | RefusalDelta() | ToolCallDelta() | ProviderItem() | CitationAdded():
                    pass
            if self.hold:
                held.append(event)
            else:
                yield event
        if failure is not None:
            raise failure
        for event in self._released(held, cuts):
            yield event

    def placed(self, citations: list[Citation]) -> list[Citation]:
        """The first choice's citations where their claims stand now that words around the answer are left out, without those that stood there."""
        start, end = self._cuts.get(0, (0, None))
        return [
            msgspec.structs.replace(citation, answer_start=citation.answer_start - start, answer_end=citation.answer_end - start)
            for citation in citations
            if citation.answer_start >= start and (end is None or citation.answer_end <= end)
        ]

    def _of(self, choice: int) -> _Said:
        said = self._said.get(choice)
        if said is None:
            said = self._said[choice] = _Said()
        return said

    def _verdict(self, finish: Finished) -> Fit | InvalidOutput | None:
        """The part of the choice's shown text that is the answer; None where moderation left none that fits."""
        said = self._of(finish.choice)
        raw, shown = "".join(said.raw), "".join(said.shown)
        everything = Fit(0, len(shown))
        if finish.reason != "stop" or said.other:
            return everything
        found = self._checked(raw)
        if isinstance(found, Problem):
            where = f" (at {found.where} of the schema)" if found.where else " (it is not JSON)"
            message = f"the answer of backend {self._backend!r} does not have the form that was asked for{where}"
            failure = InvalidOutput(message, backend=self._backend)
            failure.answer, failure.problem = raw, found.message
            return failure
        if shown != raw:
            found = self._checked(shown)
        return None if isinstance(found, Problem) else found

    def _checked(self, text: str) -> Fit | Problem:
        found = self._form.check(text)
        if isinstance(found, Fit) and not self.hold and (found.start, found.end) != (0, len(text)):
            return Problem("", "it is not JSON as a whole")
        return found

    def _released(self, held: list[Event], cuts: dict[int, Fit | None]) -> list[Event]:
        """What was held, each choice's text cut to its answer."""
        released: list[Event] = []
        for event in held:
            if not isinstance(event, TextDelta):
                released.append(event)
                continue
            cut, text = cuts.get(event.choice), "".join(self._of(event.choice).shown)
            if cut == Fit(0, len(text)):
                released.append(event)
            elif cut is not None and event.choice not in self._cuts:
                self._cuts[event.choice] = (cut.start, cut.end)
                self.unwrapped = True
                released.append(TextDelta(text[cut.start : cut.end], event.choice))
        return released
