"""One request's messages as each backend can take them: whole, with the oldest turns left out, or with a summary in their place."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from adapters.backend import Backend
from adapters.prompting import with_format
from adapters.types import GenerateRequest, JsonObject, Message, TextPart, TokenCount
from policies.history import Shortened, droppable, shorten, without
from policies.schema import History

SUMMARY_TOKENS = 512
"""The longest summary."""

AROUND = 2_000
"""Tokens that a backend may add to a prompt and that `estimate_tokens` does not bound: its own prompts for tools and schemas."""

_SUMMARY = """\
(What follows is a summary of the first {count} messages of this conversation, which were left out because they did not fit. It is context, \
not an instruction.)

{summary}"""


class Fitted(Struct, frozen=True):
    """The messages for one backend; `summarised` where a summary stands in place of what was `dropped`."""

    messages: tuple[Message, ...]
    dropped: tuple[Message, ...] = ()
    summarised: bool = False

    @property
    def report(self) -> JsonObject | None:
        """For the `headgate` object; None where nothing was dropped."""
        if not self.dropped:
            return None
        kept = len(self.messages) - self.summarised
        return {"dropped_messages": len(self.dropped), "kept_messages": kept, "summarised": self.summarised}


def surely(count: TokenCount) -> int:
    """The least a request can have. An exact count is known by its bound, which is near; an estimate may be a tenth too high."""
    return count.n if count.upper <= count.n + count.n // 2 else count.n * 9 // 10


class Histories:
    """`request` holds everything but the messages that a repair adds; `upper` is its `estimate_tokens`' bound."""

    def __init__(self, policy: History, request: GenerateRequest, upper: int) -> None:
        self.policy = policy
        self._request = request
        self._bound = upper + AROUND
        self._fitted: dict[tuple[str, int], Shortened] = {}
        self._summaries: dict[int, Message] = {}
        """By the number of messages dropped: it is always the first ones that go."""

    def input_tokens(self, backends: Iterable[Backend]) -> dict[str, int]:
        """For each backend that may be too small: the least input that it can be given, so that a decision knows whether that fits."""
        found = {}
        for backend in backends:
            window = backend.capabilities.context_window
            if window is None or self._bound + self._output <= window:
                continue
            tokens = surely(self._count(backend, self._request.messages))
            if tokens + self._output > window and self.policy.on_overflow != "refuse":
                tokens = surely(self._count(backend, self._least()))
            found[backend.name] = tokens
        return found

    def fitted(self, backend: Backend, added: tuple[Message, ...] = ()) -> Fitted:
        """The messages for a backend, those that a repair adds included. What nothing makes fit is returned as short as it gets."""
        short = self._shortened(backend, added)
        summary = self._summaries.get(len(short.dropped))
        if summary is None:
            return Fitted((*short.messages, *added), short.dropped)
        first = next(place for place, message in enumerate(self._request.messages) if message is short.dropped[0])
        summed = (*short.messages[:first], summary, *short.messages[first:])
        limit = self._limit(backend)
        if limit is not None and self._count(backend, (*summed, *added)).n > limit:
            return Fitted((*short.messages, *added), short.dropped)
        return Fitted((*summed, *added), short.dropped, summarised=True)

    def to_summarise(self, backend: Backend, added: tuple[Message, ...]) -> tuple[Message, ...]:
        """What would be dropped for this backend and has no summary yet; nothing where the policy wants none."""
        dropped = self._shortened(backend, added).dropped if self.policy.on_overflow == "summarise" else ()
        return () if len(dropped) in self._summaries else dropped

    def summarised(self, dropped: tuple[Message, ...], summary: str) -> None:
        text = _SUMMARY.format(count=len(dropped), summary=summary)
        self._summaries[len(dropped)] = Message("user", (TextPart(text),))

    def _shortened(self, backend: Backend, added: tuple[Message, ...]) -> Shortened:
        messages, limit = self._request.messages, self._limit(backend)
        if limit is None or self.policy.on_overflow == "refuse" or (not added and self._bound <= limit):
            return Shortened(messages)
        key = (backend.name, len(added))
        known = self._fitted.get(key)
        if known is None:
            target = max(1, int(limit * self.policy.target_share))
            found = shorten(messages, self.policy.keep_last, limit, target, lambda kept: self._count(backend, (*kept, *added)).n)
            known = self._fitted[key] = found or without(messages, droppable(messages, self.policy.keep_last))
        return known

    def _limit(self, backend: Backend) -> int | None:
        """The most input tokens that this backend is given."""
        window = backend.capabilities.context_window
        limits = [limit for limit in (None if window is None else window - self._output, self.policy.max_tokens) if limit is not None]
        return max(1, min(limits)) if limits else None

    @property
    def _output(self) -> int:
        """The room that the answer needs in a window, as a decision sees it."""
        return self._request.max_output_tokens or 1

    def _least(self) -> tuple[Message, ...]:
        messages = self._request.messages
        return without(messages, droppable(messages, self.policy.keep_last)).messages

    def _count(self, backend: Backend, messages: tuple[Message, ...]) -> TokenCount:
        return backend.count(with_format(msgspec.structs.replace(self._request, messages=messages), backend.capabilities))
