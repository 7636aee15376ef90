"""Pieces of an answer in Anthropic's dialect, the same whether it is streamed or whole. Pure, but for the sealing."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from adapters.anthropic.content import INVALID_JSON
from adapters.anthropic.messages_stream import FINISH, PROVIDER
from adapters.types import Citation, Finished, JsonObject, ProviderItem, ProviderPart, Usage, decode_json_object
from router.http.errors import nested_beyond
from router.kept.sealing import Seal

DEEPEST_INPUT = 512
"""Objects and lists inside each other in a call's arguments, as moderation has it too: deeper ones could be read and not written again."""

_STOP = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}


def stop_of(finished: Iterable[Finished], *, refused: bool) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`. Anthropic's own word stands, unless moderation ended the answer otherwise.

    `refused`: the answer is a refusal, which other providers end like any answer.
    """
    end = next(iter(finished), None)
    if end is None:
        return "end_turn", None
    if end.provider_reason is not None and FINISH.get(end.provider_reason) == end.reason:
        return end.provider_reason, end.stop_sequence
    if end.reason == "stop" and refused:
        return "refusal", None
    if end.reason == "stop" and end.stop_sequence is not None:
        return "stop_sequence", end.stop_sequence
    return _STOP[end.reason], None


def usage_object(usage: Usage, figures: JsonObject) -> JsonObject:
    """Usage as Anthropic counts: cached tokens stand beside the input. `figures` are what else the provider itself told."""
    cached = usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    told: JsonObject = {
        "input_tokens": max(0, usage.input_tokens - cached),
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_output_tokens:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning_output_tokens}
    return {**figures, **told}


def own(item: ProviderItem) -> bool:
    """Whether it is an item of Anthropic's, which this dialect can say itself."""
    return item.provider == PROVIDER


def shown_of(item: ProviderItem) -> JsonObject:
    """What a client may see of an item."""
    return item.item if item.shown is None else item.shown


def token_of(seal: Seal, *items: ProviderItem) -> str:
    """A signature that only this service reads: the items for their providers, maybe none."""
    return seal.close(*(ProviderPart(item.provider, item.item) for item in items))


def sealed_block(seal: Seal, told: str, *items: ProviderItem) -> JsonObject:
    """Opaque parts as a thinking block, the one block of the dialect that every client sends back unread."""
    return {"type": "thinking", "thinking": told, "signature": token_of(seal, *items)}


def tool_input(arguments: str) -> JsonObject:
    """A call's arguments as an object, as the dialect wants them."""
    try:
        said = decode_json_object(arguments.strip() or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {INVALID_JSON: arguments}
    return {INVALID_JSON: arguments} if nested_beyond(said, DEEPEST_INPUT) else said


def citation_objects(citations: Iterable[Citation]) -> list[JsonObject]:
    """Citations of Headgate's documents in the dialect's form: by page where the document has pages, else by characters of its text."""
    indexes: dict[str, int] = {}
    made: list[JsonObject] = []
    for citation in citations:
        place: JsonObject
        if citation.page is None:
            place = {"type": "char_location", "start_char_index": citation.start, "end_char_index": citation.end}
        else:
            place = {"type": "page_location", "start_page_number": citation.page, "end_page_number": citation.page + 1}
        index = indexes.setdefault(citation.file_id, len(indexes))
        told = {"cited_text": citation.quote, "document_index": index, "document_title": citation.filename, "file_id": citation.file_id}
        made.append({**place, **told})
    return made


class MessageEnd:
    """What Anthropic's own end of a message told beyond the common words."""

    def __init__(self) -> None:
        self.fields: JsonObject = {}
        self.figures: JsonObject = {}

    def take(self, shown: JsonObject) -> None:
        self.fields = {name: value for name, value in shown.items() if name not in ("type", "usage")}
        self.figures = shown.get("usage", {})

    @property
    def explained(self) -> bool:
        """Whether a refusal's explanation stands in it already."""
        details = self.fields.get("stop_details")
        return isinstance(details, dict) and bool(details.get("explanation"))
