"""The extractive backend (`kind: extractive`): answers with quotes from the request's documents, or says that they do not answer.

It needs no model, no key and no network: the default of a machine that has none, and the last rung of every fallback ladder. Everything
between quotation marks is verbatim in the document named after it, and carries a citation.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator

from adapters.backend import BackendContext, BackendSpec, estimate_output_tokens, estimate_tokens, missing_features, register
from adapters.errors import UnsupportedFeature
from adapters.prompting import NOT_IN_DOCUMENTS
from adapters.quoting import Quote, quotes_for, shortened
from adapters.types import (
    AttemptRecord,
    BackendHealth,
    Capabilities,
    Citation,
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    ResponseStarted,
    TextDelta,
    TokenCount,
    Usage,
    UsageReported,
)

NO_DOCUMENTS = (
    "I can only answer from documents, and this request came with none. Attach a vector store that holds your documents "
    "(a `file_search` tool with `vector_store_ids`), or ask an administrator to configure a model backend."
)
CHARACTERS_PER_TOKEN = 4

_PIECE = re.compile(r"\S+\s*(?:\S+\s*){0,2}")
_IGNORED = ("temperature", "top_p", "stop", "tools", "reasoning")


class ExtractiveSpec(BackendSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Nothing to set beyond what every backend has."""

    model: str | None = "extractive"


@register("extractive", ExtractiveSpec, provider="local")
class ExtractiveBackend:
    provider = "local"

    def __init__(self, name: str, spec: ExtractiveSpec, context: BackendContext) -> None:
        self.name = name
        self.model = spec.model or "extractive"
        self.capabilities = Capabilities(streaming=True, needs_context=True)
        self._max_output = spec.max_output_tokens

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        self._require(request)
        attempt.ignored = tuple(knob for knob in _IGNORED if getattr(request, knob) not in (None, ()))
        attempt.called = True
        attempt.model = self.model
        input_tokens = self.count(request).n
        attempt.usage = Usage(input_tokens=input_tokens, source="counted")
        yield ResponseStarted(model=self.model)
        limit = request.max_output_tokens if request.max_output_tokens is not None else self._max_output
        room = None if limit is None else limit * CHARACTERS_PER_TOKEN
        length = 0
        events, cut = _answer(request, room)
        for event in events:
            if isinstance(event, TextDelta):
                length += len(event.text)
                attempt.usage = Usage(input_tokens=input_tokens, output_tokens=estimate_output_tokens(length), source="counted")
            yield event
        yield UsageReported(attempt.usage)
        yield Finished("length" if cut else "stop")

    def _require(self, request: GenerateRequest) -> None:
        """Tools on offer are left unused, which a model might do as well; a tool that must be called is more than this backend can do."""
        for capability, param in missing_features(request, self.capabilities):
            if capability == "tools" and request.tool_choice.mode == "auto":
                continue
            raise UnsupportedFeature(f"backend {self.name!r} quotes documents; it does not support {capability}", backend=self.name, param=param)

    def count(self, request: GenerateRequest, /) -> TokenCount:
        return estimate_tokens(request)

    async def health(self) -> BackendHealth:
        return BackendHealth(ready=True)

    async def aclose(self) -> None:
        """There is nothing to release."""


def _answer(request: GenerateRequest, room: int | None) -> tuple[Iterator[Event], bool]:
    """The answer's events, and whether the limit of tokens cut it short."""
    if not request.context and not request.grounded:
        return _plain(NO_DOCUMENTS, room)
    question = next((message.text for message in reversed(request.messages) if message.role == "user"), "")
    quotes = quotes_for(question, request.context)
    if not quotes:
        return _plain(NOT_IN_DOCUMENTS, room)
    fitting, cut = _fitting(quotes, room)
    return _cited(fitting), cut


def _plain(text: str, room: int | None) -> tuple[Iterator[Event], bool]:
    kept = text if room is None else text[:room]
    return (TextDelta(piece) for piece in _pieces(kept)), kept != text


def _fitting(quotes: list[Quote], room: int | None) -> tuple[list[Quote], bool]:
    """As many whole quotes as fit; where not even the first does, its beginning."""
    if room is None:
        return quotes, False
    kept: list[Quote] = []
    for quote in quotes:
        needed = len(quote.text) + len(_source(quote)) + (5 if kept else 3)  # marks, a space, a blank line before all but the first
        if needed > room:
            break
        kept.append(quote)
        room -= needed
    if not kept:
        first = quotes[0]
        beginning = shortened(first, room - len(_source(first)) - 3)
        return ([beginning] if beginning.text else []), True
    return kept, len(kept) < len(quotes)


def _cited(quotes: list[Quote]) -> Iterator[Event]:
    """One paragraph a quote: the quoted words, then where they stand. The citation follows its paragraph."""
    at = 0
    for number, quote in enumerate(quotes):
        opening = "“" if number == 0 else "\n\n“"
        start = at + len(opening)
        paragraph = f"{opening}{quote.text}” {_source(quote)}"
        for piece in _pieces(paragraph):
            yield TextDelta(piece)
        at += len(paragraph)
        passage = quote.passage
        yield CitationAdded(
            Citation(
                file_id=passage.file_id,
                filename=passage.filename,
                page=passage.page_at(quote.start),
                start=quote.start,
                end=quote.end,
                quote=quote.text,
                answer_start=start,
                answer_end=start + len(quote.text),
            )
        )


def _source(quote: Quote) -> str:
    page = quote.passage.page_at(quote.start)
    filename = "".join(character if character.isprintable() else " " for character in quote.passage.filename)
    return f"({filename})" if page is None else f"({filename}, page {page})"


def _pieces(text: str) -> Iterator[str]:
    """A few words at a time; the pieces join to the text."""
    at = 0
    for match in _PIECE.finditer(text):
        yield text[at : match.end()]
        at = match.end()
    if at < len(text):
        yield text[at:]
