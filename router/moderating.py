"""Output moderation as a stage of the stream: one moderator for every text a client can see."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from adapters.types import (
    Citation,
    CitationAdded,
    Event,
    Finished,
    JsonObject,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from policies.moderation import ArgumentsModerator, Match, Moderator, Released, RuleSet, moderate
from router.moderating_items import Family, moderate_item

_Stream = tuple[str, int, int]


class Moderation:
    """Moderates one answer. Texts are separate streams: each choice's text, reasoning and refusal, and each tool call's arguments.

    A provider's own item comes whole and is moderated whole (`router.moderating_items`). So is a tool's name, and a match in it ends the answer, for
    a redacted name is none. Log probabilities spell the text a second time, in tokens that no rule could follow: where there are rules they are dropped.
    """

    def __init__(self, rules: RuleSet) -> None:
        self.rules = rules
        self._moderators: dict[_Stream, Moderator | ArgumentsModerator] = {}
        self.matches: list[Match] = []
        self.blocked = False
        self._in_reasoning: list[Match] = []
        self._in_items: list[Match] = []
        self._items: dict[tuple[int, str, str], dict[Family, str]] = {}
        """By choice, provider and type: how the items so far ended."""

    async def stage(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
        """Pass events on with their text moderated. At a blocking match: the choices' `Finished` with `content_filter`, and the end."""
        choices: set[int] = set()
        async for event in events:
            match event:
                case TextDelta():
                    choices.add(event.choice)
                    if text := self._feed(("text", event.choice, 0), event.text):
                        yield event if text == event.text and not (event.logprobs and self.active) else TextDelta(text, event.choice)
                case ReasoningDelta():
                    choices.add(event.choice)
                    if text := self._feed(("reasoning", event.choice, 0), event.text):
                        yield ReasoningDelta(text, event.choice)
                case RefusalDelta():
                    choices.add(event.choice)
                    if text := self._feed(("refusal", event.choice, 0), event.text):
                        yield event if text == event.text and not (event.logprobs and self.active) else RefusalDelta(text, event.choice)
                case ToolCallDelta():
                    choices.add(event.choice)
                    if event.name is None or self._name(event.name):
                        text = self._feed(("tool", event.choice, event.index), event.arguments)
                        if text or event.id is not None:
                            yield ToolCallDelta(event.index, event.id, event.name, text, event.choice)
                case Finished():
                    choices.discard(event.choice)
                    for held in self._finish(event.choice):
                        yield held
                    yield Finished("content_filter", event.choice, event.provider_reason) if self.blocked else event
                case ProviderItem():
                    choices.add(event.choice)
                    shown = self._item(event)
                    if not self.blocked:
                        yield shown
                case CitationAdded() | ResponseStarted() | UsageReported():
                    yield event
            if self.blocked:
                for choice in sorted(choices):
                    yield Finished("content_filter", choice)
                return

    @property
    def active(self) -> bool:
        """Whether there is any rule to moderate by."""
        return bool(self.rules.rules)

    def message(self, text: str) -> str:
        """A message of somebody else's (a provider's error), as it may be shown."""
        released = moderate(self.rules, text)
        return f"{released.text}(withheld by moderation)" if released.blocked else released.text

    def follow(self, citation: Citation, choice: int = 0) -> Citation:
        """The citation as it may be shown: quote and file name moderated like the answer, its place in the answer moved with the redactions."""
        quote = moderate(self.rules, citation.quote)
        moderator = self._moderators.get(("text", choice, 0))
        start, end = citation.answer_start, citation.answer_end
        if isinstance(moderator, Moderator):
            start, end = moderator.to_released(start), moderator.to_released(end, end=True)
        return Citation(
            file_id=citation.file_id,
            filename=self.message(citation.filename),
            page=citation.page,
            start=citation.start,
            end=citation.end,
            quote=quote.text,
            answer_start=start,
            answer_end=end,
            redacted=bool(quote.matches),
        )

    def report(self) -> JsonObject:
        """What was found, by rule: for the `headgate` object. Never the matched text."""
        return {"blocked": self.blocked, "matches": [{"rule": rule, "count": count} for rule, count in sorted(self.counts().items())]}

    def counts(self) -> dict[str, int]:
        """How often each rule matched. An item may repeat the reasoning before it: of the two, the one with more matches counts."""
        if not (self.matches or self._in_reasoning or self._in_items):
            return {}
        counts = Counter(match.rule for match in self.matches)
        counts.update(Counter(match.rule for match in self._in_reasoning) | Counter(match.rule for match in self._in_items))
        return dict(counts)

    def _feed(self, stream: _Stream, text: str) -> str:
        moderator = self._moderators.get(stream)
        if moderator is None:
            moderator = self._moderators[stream] = ArgumentsModerator(self.rules) if stream[0] == "tool" else Moderator(self.rules)
        return self._note(moderator.feed(text), stream[0])

    def _name(self, name: str) -> bool:
        """Whether a tool's name may be shown. Where it may not, the answer is blocked."""
        released = moderate(self.rules, name)
        self._note(released)
        self.blocked = self.blocked or released.text != name
        return not self.blocked

    def _item(self, event: ProviderItem) -> ProviderItem:
        """The item with what a client may see of it. A match to block in it blocks the answer."""
        if not self.active:
            return event
        kind = (event.choice, event.provider, str(event.item.get("type", "")))
        judged = moderate_item(self.rules, event.item, self._items.setdefault(kind, {}))
        self._in_items += judged.matches
        self.blocked = self.blocked or judged.blocked
        return event if judged.shown is None else msgspec.structs.replace(event, shown=judged.shown)

    def _note(self, released: Released, kind: str = "") -> str:
        (self._in_reasoning if kind == "reasoning" else self.matches).extend(released.matches)
        self.blocked = self.blocked or released.blocked
        return released.text

    def _finish(self, choice: int) -> list[Event]:
        """Release what the choice's streams still hold, now that nothing can follow."""
        held: list[Event] = []
        for (kind, owner, index), moderator in self._moderators.items():
            if owner != choice:
                continue
            text = self._note(moderator.finish(), kind)
            if not text:
                continue
            match kind:
                case "text":
                    held.append(TextDelta(text, choice))
                case "reasoning":
                    held.append(ReasoningDelta(text, choice))
                case "refusal":
                    held.append(RefusalDelta(text, choice))
                case _:
                    held.append(ToolCallDelta(index, arguments=text, choice=choice))
        return held
