"""The extractive backend: verbatim quotes with citations, or a plain word that the documents do not answer."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backend import Backend, BackendContext, create_backend, kind_named
from adapters.errors import UnsupportedFeature
from adapters.extractive import NO_DOCUMENTS, ExtractiveSpec
from adapters.prompting import NOT_IN_DOCUMENTS
from adapters.sentences import sentences
from adapters.types import (
    AttemptRecord,
    Citation,
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    Highlight,
    ImagePart,
    Message,
    Passage,
    ResponseFormat,
    ResponseStarted,
    TextDelta,
    TextPart,
    Tool,
    ToolChoice,
    UsageReported,
)

HANDBOOK = """Staff handbook

2. Leave

Every employee has 28 days of paid vacation a year. Unused vacation days expire on 31 March of the following year.
Sick leave needs a doctor's note from the third day on.

How do I request vacation?
Enter the dates in the staff portal at least two weeks ahead. Your manager answers within three working days.

3. Equipment

Laptops are replaced every four years. A lost laptop must be reported to the service desk within 24 hours."""
BEFORE = "x" * 1000
"""What stands before the passage in its document: offsets are the document's, not the passage's."""


def passage(text: str = HANDBOOK, *, name: str = "handbook", similarity: float = 0.6, scores: dict[str, float] | None = None, page: int | None = 3) -> Passage:
    """A passage whose sentences that begin with a key of `scores` are highlighted with its value."""
    start = len(BEFORE)
    marks = tuple(
        Highlight(start + left, start + right, score)
        for left, right in sentences(text)
        for opening, score in (scores or {}).items()
        if text[left:right].startswith(opening)
    )
    breaks = ((start + text.index("3. Equipment"), page + 1),) if page is not None and "3. Equipment" in text else ()
    return Passage(
        f"chunk-{name}", f"file-{name}", f"{name}.pdf", text, start, start + len(text), page=page, pages=breaks, similarity=similarity, highlights=marks
    )


def ask(question: str, *context: Passage, **keys: object) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", (TextPart(question),)),), context=context, **keys)  # type: ignore[arg-type]


def backend() -> Backend:
    return create_backend("extractive", ExtractiveSpec(kind="extractive"), BackendContext(environ={}))


async def events_of(request: GenerateRequest, attempt: AttemptRecord | None = None) -> list[Event]:
    async with aclosing(backend().generate(request, attempt or AttemptRecord("extractive"))) as events:
        return [event async for event in events]


async def answer(request: GenerateRequest) -> tuple[str, list[Citation]]:
    events = await events_of(request)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return text, [event.citation for event in events if isinstance(event, CitationAdded)]


async def test_it_quotes_the_sentence_that_answers_and_cites_its_page() -> None:
    text, citations = await answer(ask("How many days of vacation do employees have?", passage(scores={"Every": 0.82, "Laptops": 0.05})))
    quote = "Every employee has 28 days of paid vacation a year."
    assert text.startswith(f"“{quote}")
    assert text.endswith("(handbook.pdf, page 3)")
    assert citations[0].quote.startswith(quote)
    assert citations[0].page == 3


async def test_a_citation_is_the_documents_text_at_its_offsets_and_the_answers_at_its_span() -> None:
    context = passage(scores={"Every": 0.8, "Unused": 0.7, "A lost": 0.75})
    document = BEFORE + HANDBOOK
    text, citations = await answer(ask("vacation and laptop rules", context))
    assert len(citations) == 2, "neighbouring sentences are one quote"
    for citation in citations:
        assert citation.quote == document[citation.start : citation.end]
        assert citation.quote == text[citation.answer_start : citation.answer_end]
    assert [citation.page for citation in citations] == [3, 4]
    outside = text
    for citation in reversed(citations):
        outside = outside[: citation.answer_start] + outside[citation.answer_end :]
    assert outside == "“” (handbook.pdf, page 3)\n\n“” (handbook.pdf, page 4)"


async def test_without_pages_the_file_alone_is_named() -> None:
    text, citations = await answer(ask("When are laptops replaced?", passage(scores={"Laptops": 0.7}, page=None)))
    assert text == "“Laptops are replaced every four years.” (handbook.pdf)"
    assert citations[0].page is None


async def test_words_decide_where_the_retriever_gave_no_highlights() -> None:
    text, _ = await answer(ask("Within how many hours must a lost laptop be reported?", passage(similarity=0.5)))
    assert text == "“A lost laptop must be reported to the service desk within 24 hours.” (handbook.pdf, page 4)"


async def test_words_alone_must_cover_most_of_the_question_where_no_cosine_was_measured() -> None:
    assert (await answer(ask("Must a lost laptop be reported?", passage(similarity=0.0))))[1]
    assert (await answer(ask("Must a lost company passport be reported?", passage(similarity=0.0)))) == (NOT_IN_DOCUMENTS, [])


async def test_a_question_in_a_document_is_answered_by_the_sentence_after_it() -> None:
    text, citations = await answer(ask("How do I request vacation?", passage(scores={"How do I": 0.99, "Enter": 0.3})))
    assert text == "“Enter the dates in the staff portal at least two weeks ahead.” (handbook.pdf, page 3)"
    assert len(citations) == 1


async def test_a_heading_is_never_the_answer() -> None:
    text, citations = await answer(ask("What about equipment?", passage(scores={"3. Equipment": 0.9})))
    assert text.startswith("“Laptops are replaced every four years. A lost laptop"), "a heading speaks for what stands under it"
    assert len(citations) == 1
    alone = passage("Equipment", name="toc", scores={"Equipment": 0.9})
    assert await answer(ask("What about equipment?", alone)) == (NOT_IN_DOCUMENTS, [])


async def test_a_heading_does_not_make_an_answer_of_a_sentence_about_something_else() -> None:
    manual = passage("Router manual\n\nThe device supports two frequency bands.", name="manual", similarity=0.33, scores={"The device": 0.2})
    assert await answer(ask("Does the router support VPN?", manual)) == (NOT_IN_DOCUMENTS, [])


async def test_the_same_words_in_two_documents_are_quoted_once() -> None:
    first, second = passage(scores={"Laptops": 0.8}), passage(name="copy", scores={"Laptops": 0.8})
    _, citations = await answer(ask("How often are laptops replaced?", first, second))
    assert [citation.file_id for citation in citations] == ["file-handbook"]


async def test_documents_that_complete_each_other_are_both_quoted_best_first() -> None:
    travel = passage("Trains are booked in second class. Flights under 600 km need approval by a director.", name="travel", scores={"Flights": 0.7})
    policy = passage("A director decides on flights within two days of the request.", name="policy", scores={"A director": 0.65})
    text, citations = await answer(ask("Who approves flights?", policy, travel))
    assert [citation.filename for citation in citations] == ["travel.pdf", "policy.pdf"]
    assert text.count("\n\n") == 1


@pytest.mark.parametrize(
    "context",
    [
        passage(similarity=0.12, scores={"Every": 0.1}),
        passage(similarity=0.1),
        passage("", similarity=0.9),
        passage("   \n ", similarity=0.9),
    ],
    ids=["weak highlights", "weak passage", "empty", "blank"],
)
async def test_what_does_not_answer_is_not_quoted(context: Passage) -> None:
    events = await events_of(ask("What is the capital of Mongolia?", context))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == NOT_IN_DOCUMENTS
    assert not [event for event in events if isinstance(event, CitationAdded)]
    assert events[-1] == Finished("stop")


async def test_a_search_that_found_nothing_differs_from_a_request_without_documents() -> None:
    assert await answer(ask("Anything?", grounded=True)) == (NOT_IN_DOCUMENTS, [])
    assert await answer(ask("Anything?")) == (NO_DOCUMENTS, [])


async def test_it_streams_in_pieces_and_counts_its_tokens_as_it_goes() -> None:
    attempt = AttemptRecord("extractive")
    request = ask("When are laptops replaced?", passage(scores={"Laptops": 0.7}))
    counted: list[int] = []
    async with aclosing(backend().generate(request, attempt)) as events:
        assert isinstance(await anext(events), ResponseStarted)
        async for event in events:
            assert attempt.usage is not None
            counted.append(attempt.usage.output_tokens)
            if isinstance(event, UsageReported):
                assert event.usage == attempt.usage
    assert attempt.usage is not None
    assert (attempt.usage.source, attempt.usage.input_tokens) == ("counted", backend().count(request).n)
    assert counted == sorted(counted)
    assert len(set(counted)) >= 3


async def test_an_answer_left_in_the_middle_has_its_usage_so_far() -> None:
    attempt = AttemptRecord("extractive")
    stream = backend().generate(ask("When are laptops replaced?", passage(scores={"Laptops": 0.7})), attempt)
    await anext(stream)
    first = await anext(stream)
    await stream.aclose()
    assert isinstance(first, TextDelta)
    assert attempt.usage is not None
    assert attempt.usage.output_tokens == -(-len(first.text) // 4)


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (ask("?", response_format=ResponseFormat("json_schema", schema={})), "response_format"),
        (ask("?", tools=(Tool("t"),), tool_choice=ToolChoice("required")), "tools"),
        (ask("?", tools=(Tool("t"),), tool_choice=ToolChoice("function", "t")), "tools"),
        (ask("?", logprobs=1), "logprobs"),
        (ask("?", n=2), "n"),
        (GenerateRequest(messages=(Message("user", (ImagePart("https://example.com/a.png"),)),)), "messages"),
    ],
)
async def test_what_it_cannot_do_is_refused_by_name(request_: GenerateRequest, param: str) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        await events_of(request_)
    assert caught.value.param == param


async def test_tools_on_offer_and_tuning_knobs_are_left_unused_and_named() -> None:
    attempt = AttemptRecord("extractive")
    await events_of(ask("?", tools=(Tool("t"),), temperature=0.7, stop=("x",)), attempt)
    assert attempt.ignored == ("temperature", "stop", "tools")


async def test_a_long_sentence_is_cut_between_words() -> None:
    table = "Prices in euros " + " ".join(f"article {number} costs {number * 3}" for number in range(100)) + "."
    _, citations = await answer(ask("What do the articles cost in euros?", passage(table, name="prices", scores={"Prices": 0.6})))
    assert len(citations[0].quote) <= 600
    assert table.startswith(citations[0].quote + " ")


@given(limit=st.integers(0, 120))
def test_the_limit_of_tokens_is_kept_and_quotes_stay_verbatim(limit: int) -> None:
    context = (passage(scores={"Every": 0.8, "A lost": 0.75}), passage("Vacation is paid in advance on request.", name="b", scores={"Vacation": 0.7}))

    async def run() -> tuple[list[Event], str]:
        events = await events_of(ask("vacation and laptops", *context, max_output_tokens=limit))
        return events, "".join(event.text for event in events if isinstance(event, TextDelta))

    events, text = asyncio.run(run())
    assert len(text) <= 4 * limit
    citations = [event.citation for event in events if isinstance(event, CitationAdded)]
    for citation in citations:
        assert citation.quote
        assert citation.quote == text[citation.answer_start : citation.answer_end]
    assert events[-1] == Finished("stop" if len(citations) == 3 else "length")


@given(text=st.text(alphabet=st.sampled_from('ab .?!\n"“”:-3é漢。😀'), max_size=200), data=st.data())
def test_whatever_the_document_holds_quotes_are_verbatim_and_spans_are_right(text: str, data: st.DataObject) -> None:
    document = BEFORE + text
    marks = tuple(Highlight(len(BEFORE) + a, len(BEFORE) + b, data.draw(st.floats(0, 1))) for a, b in sentences(text))
    context = Passage("c", "f", "a\nb.txt", text, len(BEFORE), len(document), similarity=0.5, highlights=marks)
    said, citations = asyncio.run(answer(ask("ab a é 漢", context)))
    assert citations or said == NOT_IN_DOCUMENTS
    for citation in citations:
        assert citation.quote == document[citation.start : citation.end] == said[citation.answer_start : citation.answer_end]
        assert citation.quote.strip() == citation.quote != ""


def test_it_is_local_and_needs_documents() -> None:
    assert (kind_named("extractive").provider, kind_named("extractive").remote) == ("local", False)
    assert backend().capabilities.needs_context
