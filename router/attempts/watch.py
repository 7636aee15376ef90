"""An attempt's answer as the model wrote it, put aside for a verifier while it passes: before moderation, with what clients do not get."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from adapters.backend import estimate_output_tokens
from adapters.collect import CollectedChoice, Collector
from adapters.types import Event, Finished, RefusalDelta, TextDelta, ToolCallDelta
from policies.verification.answer import Answer, Asked


class Watch:
    """`tap` stands behind the citations and before moderation. With `hide_logprobs`, which nobody but the verifier asked for, they end here."""

    def __init__(self, asked: Asked, *, hide_logprobs: bool) -> None:
        self.asked = asked
        self.hide_logprobs = hide_logprobs
        self._collector = Collector()
        self._characters = self._tokens = 0
        self._other = False
        self.ended = False
        """Whether a choice has finished."""

    async def tap(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        async for event in events:
            self._collector.add(event)
            match event:
                case TextDelta():
                    self._characters += len(event.text)
                    self._tokens += len(event.logprobs)
                case RefusalDelta() | ToolCallDelta():
                    self._other = True
                case Finished():
                    self.ended = True
                case _:
                    pass
            if self.hide_logprobs and isinstance(event, TextDelta | RefusalDelta) and event.logprobs:
                event = msgspec.structs.replace(event, logprobs=())
            yield event

    def answers(self) -> list[Answer]:
        """The choices so far, by index; at least one."""
        return [_answer(choice) for choice in self._collector.result().choices]

    def reached(self, tokens: int) -> bool:
        """Whether so many tokens of text have come: by the model's own count where its log probabilities tell, else by an estimate.

        Never of a refusal or a tool call: what such an answer is worth shows at its end.
        """
        return not self._other and (self._tokens or estimate_output_tokens(self._characters)) >= tokens


def _answer(choice: CollectedChoice) -> Answer:
    return Answer(
        text=choice.text,
        finish=None if choice.finish is None else choice.finish.reason,
        refused=bool(choice.refusal),
        logprobs=tuple(each.logprob for each in choice.logprobs),
        calls=choice.tool_calls,
        cited=tuple((citation.answer_start, citation.answer_end) for citation in choice.citations),
    )
