from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.backend import BackendContext, BackendSpec, clearance_of, create_backend
from adapters.collect import collect
from adapters.errors import BackendUnavailable, ProviderFault, UnsupportedFeature
from adapters.llama import LlamaSpec
from adapters.llama_engine import LlamaEngine
from adapters.llama_engine.loading import load
from adapters.llama_engine.prompt import prompt_ids
from adapters.types import AttemptRecord, BackendHealth, Event, Finished, GenerateRequest, TextDelta, Tool, ToolCallDelta, ToolChoice
from tests.tiny_llama import build, teach


class InProcess:
    """`LocalCompute` without a socket: the engine in this process."""

    def __init__(self, engine: LlamaEngine) -> None:
        self.engine = engine
        self.seen: list[GenerateRequest] = []

    async def generate(self, spec: BackendSpec, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        self.seen.append(request)
        events = self.engine.generate(request, attempt)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def health(self, spec: BackendSpec, /) -> BackendHealth:
        return await self.engine.health()


def backend_of(engine: LlamaEngine, spec: LlamaSpec) -> tuple[Any, InProcess]:
    compute = InProcess(engine)
    return create_backend("local", spec, BackendContext(environ={}, compute=compute)), compute


async def test_a_request_without_a_limit_gets_the_backends_own(engine: LlamaEngine, spec: LlamaSpec, ask: Any, attempt: AttemptRecord) -> None:
    backend, _ = backend_of(engine, msgspec.structs.replace(spec, max_output_tokens=7))
    await collect(backend.generate(ask(max_output_tokens=None), attempt))
    assert attempt.usage is not None
    assert attempt.usage.output_tokens == 7


async def test_a_requests_own_lower_limit_stands(engine: LlamaEngine, spec: LlamaSpec, ask: Any, attempt: AttemptRecord) -> None:
    backend, _ = backend_of(engine, msgspec.structs.replace(spec, max_output_tokens=7))
    await collect(backend.generate(ask(max_output_tokens=3), attempt))
    assert attempt.usage is not None
    assert attempt.usage.output_tokens == 3


async def test_knobs_it_does_not_have_are_named_in_the_attempt(engine: LlamaEngine, spec: LlamaSpec, ask: Any, attempt: AttemptRecord) -> None:
    backend, compute = backend_of(engine, spec)
    await collect(backend.generate(ask(reasoning="high", extra={"logit_bias": {"1": 2**70}}), attempt))
    assert attempt.ignored == ("reasoning", "logit_bias")
    assert compute.seen[0].extra == {}


async def test_a_feature_it_lacks_is_refused_before_the_compute_process_hears_of_it(
    engine: LlamaEngine, spec: LlamaSpec, ask: Any, attempt: AttemptRecord
) -> None:
    backend, compute = backend_of(engine, spec)
    with pytest.raises(UnsupportedFeature):
        await collect(backend.generate(ask(n=2), attempt))
    assert compute.seen == []


async def test_without_a_compute_process_it_says_which_extra_brings_it(spec: LlamaSpec, ask: Any, attempt: AttemptRecord) -> None:
    backend = create_backend("local", spec, BackendContext(environ={}))
    assert not (await backend.health()).ready
    with pytest.raises(BackendUnavailable, match=r"headgate\[local\]"):
        await collect(backend.generate(ask(), attempt))


def test_it_runs_in_process_so_it_may_see_everything(spec: LlamaSpec) -> None:
    assert clearance_of(spec) == "restricted"


WEATHER = Tool(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})


@asynccontextmanager
async def taught(folder: Path, spec: LlamaSpec, request: GenerateRequest, answer: str) -> AsyncIterator[LlamaEngine]:
    """An engine on a tiny model that was trained to answer this request so."""
    spec = msgspec.structs.replace(spec, model=str(build(folder / "taught")))
    loaded = load(spec)
    prompt = loaded.tokenizer.decode(prompt_ids(loaded, request), clean_up_tokenization_spaces=False)
    teach(Path(spec.model), [(prompt, answer + "<|eot_id|>")])
    engine = LlamaEngine(spec)
    yield engine
    await asyncio.to_thread(engine.close)


@pytest.mark.parametrize(
    "written",
    [
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        '[get_weather(city="Paris")]',
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}',
    ],
)
async def test_a_model_that_writes_a_call_calls_the_tool(tmp_path: Path, spec: LlamaSpec, ask: Any, written: str) -> None:
    request = ask("Weather in Paris?", tools=(WEATHER,), max_output_tokens=60)
    async with taught(tmp_path, spec, request, written) as engine:
        events = [event async for event in engine.generate(request, AttemptRecord(backend="local"))]
        silent = [event async for event in engine.generate(msgspec.structs.replace(request, tools=()), AttemptRecord(backend="local"))]
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [(call.index, call.name, call.arguments) for call in calls] == [(0, "get_weather", '{"city": "Paris"}')]
    assert calls[0].id is not None
    assert not any(isinstance(event, TextDelta) for event in events)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "tool_calls"
    assert not any(isinstance(event, ToolCallDelta) for event in silent)


@pytest.mark.parametrize(
    ("choice", "goes_on"),
    [(ToolChoice(mode="required"), ' "get_weather", "parameters": {"city": "Rome"}}'), (ToolChoice(mode="function", name="get_weather"), ' {"city": "Rome"}}')],
)
async def test_a_required_call_is_begun_for_the_model_which_goes_on_from_there(
    tmp_path: Path, spec: LlamaSpec, ask: Any, choice: ToolChoice, goes_on: str
) -> None:
    request = ask("Hello", tools=(WEATHER,), tool_choice=choice, max_output_tokens=60)
    async with taught(tmp_path, spec, request, goes_on) as engine:
        answer = await collect(engine.generate(request, AttemptRecord(backend="local")))
    assert [(call.name, call.arguments) for call in answer.choices[0].tool_calls] == [("get_weather", '{"city": "Rome"}')]
    assert answer.choices[0].text == ""


async def test_a_required_call_that_cannot_be_read_is_a_fault(tmp_path: Path, spec: LlamaSpec, ask: Any) -> None:
    request = ask("Hello", tools=(WEATHER,), tool_choice=ToolChoice(mode="required"), max_output_tokens=60)
    async with taught(tmp_path, spec, request, " I would rather talk.") as engine:
        with pytest.raises(ProviderFault, match="wrote none"):
            await collect(engine.generate(request, AttemptRecord(backend="local")))
