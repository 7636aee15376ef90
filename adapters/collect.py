"""From a stream to a whole answer: the one way to a blocking answer, so that streaming and blocking cannot drift apart."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from msgspec import Struct

from adapters.types import (
    Citation,
    CitationAdded,
    Event,
    Finished,
    Message,
    Part,
    ProviderItem,
    ProviderPart,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    TextPart,
    TokenLogprob,
    ToolCallDelta,
    ToolCallPart,
    Usage,
    UsageReported,
)


class CollectedChoice(Struct, frozen=True, kw_only=True):
    """One choice of an answer. `parts` holds text, tool calls and provider items in the order in which they began."""

    index: int
    text: str
    reasoning: str
    refusal: str
    tool_calls: tuple[ToolCallPart, ...]
    parts: tuple[Part, ...]
    logprobs: tuple[TokenLogprob, ...]
    refusal_logprobs: tuple[TokenLogprob, ...] = ()
    citations: tuple[Citation, ...]
    items: tuple[ProviderItem, ...]
    finish: Finished | None

    @property
    def message(self) -> Message:
        """The assistant's turn, to be sent back in the next request."""
        return Message(role="assistant", parts=self.parts)


class Collected(Struct, frozen=True, kw_only=True):
    """A whole answer; `choices` by index. There is always at least one."""

    choices: tuple[CollectedChoice, ...]
    usage: Usage | None
    model: str | None
    provider_request_id: str | None


class _Call:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class _Choice:
    def __init__(self, index: int) -> None:
        self.index = index
        self.reasoning: list[str] = []
        self.refusal: list[str] = []
        self.order: list[list[str] | _Call | ProviderItem] = []
        self.calls: dict[int, _Call] = {}
        self.logprobs: list[TokenLogprob] = []
        self.refusal_logprobs: list[TokenLogprob] = []
        self.citations: list[Citation] = []
        self.finish: Finished | None = None

    def add_text(self, delta: TextDelta) -> None:
        self.logprobs += delta.logprobs
        last = self.order[-1] if self.order else None
        if isinstance(last, list):
            last.append(delta.text)
        else:
            self.order.append([delta.text])

    def add_call(self, delta: ToolCallDelta) -> None:
        call = self.calls.get(delta.index)
        if call is None:
            call = self.calls[delta.index] = _Call()
            self.order.append(call)
        call.id = delta.id or call.id
        call.name = delta.name or call.name
        call.arguments.append(delta.arguments)

    def result(self) -> CollectedChoice:
        parts = tuple(_part(piece) for piece in self.order)
        return CollectedChoice(
            index=self.index,
            text="".join(part.text for part in parts if isinstance(part, TextPart)),
            reasoning="".join(self.reasoning),
            refusal="".join(self.refusal),
            tool_calls=tuple(part for part in parts if isinstance(part, ToolCallPart)),
            parts=parts,
            logprobs=tuple(self.logprobs),
            refusal_logprobs=tuple(self.refusal_logprobs),
            citations=tuple(self.citations),
            items=tuple(piece for piece in self.order if isinstance(piece, ProviderItem)),
            finish=self.finish,
        )


def _part(piece: list[str] | _Call | ProviderItem) -> Part:
    match piece:
        case list():
            return TextPart("".join(piece))
        case _Call():
            return ToolCallPart(id=piece.id, name=piece.name, arguments="".join(piece.arguments))
        case ProviderItem():
            return ProviderPart(provider=piece.provider, item=piece.item)


class Collector:
    """Puts events together one by one. `result` may be asked for at any time: it is the answer so far."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None
        self._started = ResponseStarted()

    def add(self, event: Event) -> None:
        match event:
            case TextDelta():
                self._choice(event.choice).add_text(event)
            case ToolCallDelta():
                self._choice(event.choice).add_call(event)
            case ReasoningDelta():
                self._choice(event.choice).reasoning.append(event.text)
            case RefusalDelta():
                choice = self._choice(event.choice)
                choice.refusal.append(event.text)
                choice.refusal_logprobs += event.logprobs
            case ProviderItem():
                self._choice(event.choice).order.append(event)
            case CitationAdded():
                self._choice(event.choice).citations.append(event.citation)
            case UsageReported():
                self._usage = event.usage
            case Finished():
                self._choice(event.choice).finish = event
            case ResponseStarted():
                self._started = event

    def result(self) -> Collected:
        choices = self._choices or {0: _Choice(0)}
        return Collected(
            choices=tuple(choices[index].result() for index in sorted(choices)),
            usage=self._usage,
            model=self._started.model,
            provider_request_id=self._started.provider_request_id,
        )

    def _choice(self, index: int) -> _Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(index)
        return choice


async def collect(events: AsyncGenerator[Event, None]) -> Collected:
    """The whole answer. Closes the generator, also when this is cancelled. Raises what the generator raises."""
    collector = Collector()
    async with contextlib.aclosing(events):
        async for event in events:
            collector.add(event)
    return collector.result()
