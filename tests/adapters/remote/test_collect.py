from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from adapters.collect import Collector, collect
from adapters.types import (
    Citation,
    CitationAdded,
    Event,
    Finished,
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

CITATION = Citation("f", "a.pdf", 1, 0, 3, "abc", 0, 3)
EVENTS: list[Event] = [
    ResponseStarted("req-1", "model-1"),
    ReasoningDelta("let me "),
    ReasoningDelta("see"),
    ProviderItem("anthropic", {"signature": "s"}),
    TextDelta("Hel", logprobs=(TokenLogprob("Hel", -0.1),)),
    TextDelta("other", choice=1),
    TextDelta("lo", logprobs=(TokenLogprob("lo", -0.2),)),
    ToolCallDelta(0, id="c1", name="f", arguments=""),
    ToolCallDelta(1, id="c2", name="g", arguments="{}"),
    ToolCallDelta(0, arguments='{"a":'),
    ToolCallDelta(0, arguments=" 1}"),
    TextDelta("!"),
    CitationAdded(CITATION),
    RefusalDelta("no", choice=1),
    UsageReported(Usage(1, 1)),
    UsageReported(Usage(5, 9)),
    Finished("tool_calls"),
    Finished("stop", choice=1),
]


async def stream(events: list[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event


async def test_everything_a_stream_says_is_in_the_collected_answer() -> None:
    answer = await collect(stream(EVENTS))
    first, second = answer.choices
    assert (first.text, first.reasoning, first.finish) == ("Hello!", "let me see", Finished("tool_calls"))
    assert first.tool_calls == (ToolCallPart("c1", "f", '{"a": 1}'), ToolCallPart("c2", "g", "{}"))
    assert first.logprobs == (TokenLogprob("Hel", -0.1), TokenLogprob("lo", -0.2))
    assert first.citations == (CITATION,)
    assert first.items == (ProviderItem("anthropic", {"signature": "s"}),)
    assert (second.text, second.refusal, second.finish) == ("other", "no", Finished("stop", choice=1))
    assert (answer.usage, answer.model, answer.provider_request_id) == (Usage(5, 9), "model-1", "req-1")


async def test_the_turn_to_send_back_keeps_the_order_of_its_parts() -> None:
    first = (await collect(stream(EVENTS))).choices[0]
    assert first.message.role == "assistant"
    assert first.message.parts == (
        ProviderPart("anthropic", {"signature": "s"}), TextPart("Hello"), ToolCallPart("c1", "f", '{"a": 1}'), ToolCallPart("c2", "g", "{}"), TextPart("!"),
    )  # fmt: skip


async def test_an_empty_stream_is_an_answer_without_words() -> None:
    (only,) = (await collect(stream([]))).choices
    assert (only.index, only.text, only.finish) == (0, "", None)


def test_the_answer_so_far_may_be_asked_for_at_any_time() -> None:
    collector = Collector()
    texts = []
    for event in EVENTS[:7]:
        collector.add(event)
        texts.append(collector.result().choices[0].text)
    assert texts[-3:] == ["Hel", "Hel", "Hello"]


async def test_cancelling_the_collection_closes_the_stream() -> None:
    closed, begun = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncGenerator[Event, None]:
        try:
            yield TextDelta("x")
            begun.set()
            await asyncio.get_running_loop().create_future()
        finally:
            closed.set()

    task = asyncio.create_task(collect(endless()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
