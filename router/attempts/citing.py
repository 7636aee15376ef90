"""Citations as a stage of the stream: each is checked against the passages, and marks in the text become citations."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from adapters.types import (
    Citation,
    CitationAdded,
    Event,
    Finished,
    Passage,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from retrieval.cite import cite


async def cited(events: AsyncIterator[Event], passages: tuple[Passage, ...]) -> AsyncGenerator[Event, None]:
    """Pass events on, without the citations that no passage bears out; where the model only marked its claims ([1]), with those made from the marks."""
    given = False
    answer = ""
    async for event in events:
        match event:
            case CitationAdded():
                given = True
                if any(verbatim(event.citation, passage) for passage in passages):
                    yield event
            case Finished():
                if passages and not given and event.choice == 0:
                    for citation in cite(answer, passages):
                        yield CitationAdded(citation)
                yield event
            case TextDelta():
                if passages and event.choice == 0:
                    answer += event.text
                yield event
            case ReasoningDelta() | RefusalDelta() | ToolCallDelta() | ProviderItem() | ResponseStarted() | UsageReported():
                yield event


def verbatim(citation: Citation, passage: Passage) -> bool:
    """Whether the quote is, character for character, what the passage says at that place."""
    if citation.file_id != passage.file_id or not passage.start <= citation.start < citation.end <= passage.end:
        return False
    return passage.text[citation.start - passage.start : citation.end - passage.start] == citation.quote
