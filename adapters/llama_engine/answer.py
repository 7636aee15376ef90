"""From generated tokens to events: characters, stop strings, tool calls. Pure: no model, no thread, no clock."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from adapters.errors import ProviderFault
from adapters.llama_engine.stops import StopMatcher
from adapters.llama_engine.tokens import TextDecoder, Vocabulary
from adapters.llama_engine.tool_calls import could_be_call, parse_calls
from adapters.types import Event, Finished, FinishReason, TextDelta, Tool, ToolCallDelta


class Answer:
    """What has been generated so far, as events.

    With tools, text that may still be a call is held back until it cannot be one or the answer ends. Every character of the answer that is
    neither part of a stop string nor of a call is delivered exactly once. `begun` is the beginning of a call the model was made to go on from.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        stops: Sequence[str] = (),
        tools: Sequence[Tool] = (),
        python_tag: int | None = None,
        one_call: bool = False,
        begun: str = "",
    ) -> None:
        self._decoder = TextDecoder(vocabulary)
        self._stops = StopMatcher(stops)
        self._tools = tuple(tools)
        self._names = tuple(tool.name for tool in tools)
        self._python_tag = python_tag
        self._one_call = one_call
        self._undecided = bool(tools)
        self._forced = bool(begun)
        self._tagged = self._forced
        self._held = begun

    @property
    def stop_found(self) -> str | None:
        """The stop string that ended the answer: nothing more should be generated."""
        return self._stops.found

    def token(self, token_id: int) -> list[Event]:
        """The events one more token completes: often one, often none."""
        if self._tools and token_id == self._python_tag:
            events = self._text(self._stops.feed(self._decoder.flush()) + self._stops.flush())
            self._undecided = self._tagged = True
            return events
        return self._text(self._stops.feed(self._decoder.feed(token_id)))

    def end(self, reason: FinishReason) -> list[Event]:
        """What was still held back, and `Finished`. `reason` is the engine's: a complete tool call and a stop string override it.

        Raises `ProviderFault` where a call was required and the model did not write one.
        """
        text = self._stops.feed(self._decoder.flush())
        if self._stops.found is None:
            text += self._stops.flush()
        events: list[Event] = self._text(text)
        calls, rest = parse_calls(self._held, self._tools) if self._held else ((), "")
        if self._forced and not calls and reason != "length":
            raise ProviderFault("a tool call was required, and the model wrote none that can be read")
        if rest:
            events.append(TextDelta(rest))
        for index, call in enumerate(calls[:1] if self._one_call else calls):
            events.append(ToolCallDelta(index=index, id=f"call_{uuid.uuid4().hex[:24]}", name=call.name, arguments=call.arguments))
        stop = self._stops.found
        final: FinishReason = "tool_calls" if calls and (reason == "stop" or stop is not None) else "stop" if stop is not None else reason
        return [*events, Finished(final, provider_reason=reason if stop is None else "stop_string", stop_sequence=stop)]

    def _text(self, text: str) -> list[Event]:
        if not self._undecided:
            return [TextDelta(text)] if text else []
        self._held += text
        if self._tagged or could_be_call(self._held, self._names):
            return []
        self._undecided = False
        text, self._held = self._held, ""
        return [TextDelta(text)]
