"""The contract of `adapters.backend.Backend`, held by every registered kind. `tests/contract/cases.py` says how to add one."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from contextlib import aclosing

import msgspec
import pytest

import adapters
from adapters.backend import kinds, missing_features
from adapters.collect import Collector, collect
from adapters.errors import BackendError, UnsupportedFeature
from adapters.types import (
    AttemptRecord,
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    ImagePart,
    Message,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseFormat,
    ResponseStarted,
    TextDelta,
    Tool,
    ToolCallDelta,
    ToolChoice,
    UsageReported,
)
from tests.contract.cases import CASES, Scene, Subject

DELTAS = (TextDelta, ReasoningDelta, RefusalDelta, ToolCallDelta)


def playing(*scenes: Scene) -> pytest.MarkDecorator:
    """Every kind that can play a scene, with each of the scenes it can play."""
    pairs = [(kind, scene) for kind, case in CASES.items() for scene in scenes if scene in case.scenes]
    return pytest.mark.parametrize(("kind", "scene"), pairs)


async def until_first_delta(subject: Subject, attempt: AttemptRecord) -> None:
    async with aclosing(subject.backend.generate(subject.asking("marker-1"), attempt)) as events:
        async for event in events:
            if isinstance(event, DELTAS):
                return


async def until_error(subject: Subject, attempt: AttemptRecord) -> tuple[list[Event], BackendError | None]:
    seen: list[Event] = []
    try:
        async with aclosing(subject.backend.generate(subject.asking("marker-1"), attempt)) as events:
            async for event in events:
                seen.append(event)  # noqa: PERF401 - what came before an error counts
    except BackendError as error:
        return seen, error
    return seen, None


def test_every_registered_kind_has_a_case() -> None:
    for module in pkgutil.iter_modules(adapters.__path__):
        importlib.import_module(f"adapters.{module.name}")
    assert set(kinds()) == set(CASES)


@playing("answers")
async def test_a_stream_starts_once_and_ends_with_a_finish_for_every_choice(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        request = subject.asking("marker-1")
        async with aclosing(subject.backend.generate(request, AttemptRecord(backend="subject"))) as stream:
            events: list[Event] = [event async for event in stream]
    assert isinstance(events[0], ResponseStarted)
    kinds_seen = [type(event) for event in events]
    assert kinds_seen.count(ResponseStarted) == 1
    assert any(isinstance(event, DELTAS) for event in events)
    assert kinds_seen.count(UsageReported) >= 1
    ends = [event for event in events if isinstance(event, Finished)]
    assert sorted(event.choice for event in ends) == list(range(request.n))
    assert events[-len(ends) :] == ends, "nothing follows a finish but other finishes"
    assert {type(event) for event in events} <= {ResponseStarted, *DELTAS, ProviderItem, CitationAdded, UsageReported, Finished}


@playing("answers")
async def test_the_collected_answer_says_what_the_stream_says(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        request = subject.asking("marker-7")
        collector = Collector()
        text = ""
        async with aclosing(subject.backend.generate(request, AttemptRecord(backend="subject"))) as stream:
            async for event in stream:
                collector.add(event)
                text += event.text if isinstance(event, TextDelta) else ""
        whole = await collect(subject.backend.generate(request, AttemptRecord(backend="subject")))
    assert "marker-7" in text
    assert whole.choices[0].text == text
    assert whole.choices == collector.result().choices
    assert whole.usage == collector.result().usage


@playing("answers")
async def test_after_a_finish_the_last_reported_usage_stands_in_the_attempt(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        attempt = AttemptRecord(backend="subject")
        answer = await collect(subject.backend.generate(subject.asking("marker-1"), attempt))
    assert attempt.called
    assert answer.usage is not None
    assert attempt.usage == answer.usage
    assert attempt.usage.input_tokens > 0
    assert attempt.usage.output_tokens > 0


@playing("breaks")
async def test_after_an_error_the_usage_so_far_stands_in_the_attempt(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        attempt = AttemptRecord(backend="subject")
        seen, error = await until_error(subject, attempt)
    assert isinstance(error, BackendError)
    assert any(isinstance(event, DELTAS) for event in seen)
    assert attempt.usage is not None
    assert attempt.usage.source != "provider"
    assert attempt.usage.input_tokens > 0
    assert attempt.usage.output_tokens > 0


@playing("stalls")
async def test_after_a_close_the_usage_so_far_stands_in_the_attempt(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        attempt = AttemptRecord(backend="subject")
        await until_first_delta(subject, attempt)
    assert attempt.usage is not None
    assert attempt.usage.source != "provider"
    assert attempt.usage.input_tokens > 0
    assert attempt.usage.output_tokens > 0


@playing("stalls")
async def test_closing_stops_the_work_at_once(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        assert subject.stopped is not None
        await until_first_delta(subject, AttemptRecord(backend="subject"))
        async with asyncio.timeout(0.1):
            await subject.stopped()


@playing("stalls")
async def test_cancelling_the_consumer_stops_the_work_at_once(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        assert subject.stopped is not None
        attempt = AttemptRecord(backend="subject")
        begun = asyncio.Event()

        async def consume() -> None:
            async with aclosing(subject.backend.generate(subject.asking("marker-1"), attempt)) as events:
                async for event in events:
                    if isinstance(event, DELTAS):
                        begun.set()

        task = asyncio.create_task(consume())
        async with asyncio.timeout(30):
            await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(0.1):
            await subject.stopped()
    assert attempt.usage is not None


@playing("refuses", "breaks")
async def test_only_backend_errors_leave_a_backend(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        with pytest.raises(BackendError) as caught:
            await collect(subject.backend.generate(subject.asking("marker-1"), AttemptRecord(backend="subject")))
    assert str(caught.value)


@playing("refuses")
async def test_an_error_before_any_output_yields_no_delta(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        seen, error = await until_error(subject, AttemptRecord(backend="subject"))
    assert isinstance(error, BackendError)
    assert not any(isinstance(event, DELTAS) for event in seen)


@playing("answers")
async def test_the_bound_of_the_count_holds(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        request = subject.asking("marker-1")
        count = subject.backend.count(request)
        answer = await collect(subject.backend.generate(request, AttemptRecord(backend="subject")))
    assert answer.usage is not None
    assert 0 < count.n <= count.upper
    assert answer.usage.input_tokens <= count.upper


@playing("answers")
async def test_twenty_streams_at_once_do_not_mix(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        markers = [f"marker-{number}" for number in range(100, 120)]
        answers = await asyncio.gather(*(collect(subject.backend.generate(subject.asking(marker), AttemptRecord(backend="subject"))) for marker in markers))
    for marker, answer in zip(markers, answers, strict=True):
        text = answer.choices[0].text
        assert [other for other in markers if other in text] == [marker]


NEEDY = {
    "tools": {"tools": (Tool("lookup"),), "tool_choice": ToolChoice("required")},
    "vision": {"messages": (Message("user", (ImagePart("data:image/png;base64,AAAA"),)),)},
    "json_schema": {"response_format": ResponseFormat(kind="json_schema", name="answer", schema={"type": "object"})},
    "logprobs": {"logprobs": 2},
    "multiple_choices": {"n": 2},
}


@playing("answers")
@pytest.mark.parametrize("feature", NEEDY)
async def test_an_unsupported_feature_is_refused_before_anything_is_called(kind: str, scene: Scene, feature: str) -> None:
    async with CASES[kind].enter(scene) as subject:
        request: GenerateRequest = msgspec.structs.replace(subject.asking("marker-1"), **NEEDY[feature])
        attempt = AttemptRecord(backend="subject")
        if not missing_features(request, subject.backend.capabilities):
            events = subject.backend.generate(request, attempt)
            async with aclosing(events):
                assert isinstance(await anext(events), ResponseStarted)
            return
        with pytest.raises(UnsupportedFeature) as caught:
            await collect(subject.backend.generate(request, attempt))
    assert caught.value.param is not None
    assert not attempt.called
    assert attempt.usage is None


@playing("answers")
async def test_a_generator_that_is_never_started_costs_nothing(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        attempt = AttemptRecord(backend="subject")
        await subject.backend.generate(subject.asking("marker-1"), attempt).aclose()
    assert not attempt.called
    assert attempt.usage is None


@playing("answers")
async def test_a_configured_backend_is_ready_and_has_a_name_a_provider_and_a_model(kind: str, scene: Scene) -> None:
    async with CASES[kind].enter(scene) as subject:
        health = await subject.backend.health()
        assert health.ready, health.reason
        assert subject.backend.name == "subject"
        assert subject.backend.provider
        assert subject.backend.model
