from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from adapters.collect import collect
from adapters.errors import (
    BackendTimeout,
    BackendUnavailable,
    ContextTooLong,
    InvalidRequest,
    Overloaded,
    ProviderFault,
    RateLimited,
    StreamBroken,
    UnsupportedFeature,
)
from adapters.llama_engine.prompt import prompt_ids
from adapters.types import (
    AttemptRecord,
    Event,
    Finished,
    GenerateRequest,
    ImagePart,
    Message,
    ResponseFormat,
    ResponseStarted,
    TextDelta,
    Tool,
    ToolChoice,
    UsageReported,
)


def reference(loaded: Any, request: GenerateRequest, tokens: int) -> tuple[str, int, str]:
    """What transformers' own `generate` answers, greedily: text, tokens drawn, finish reason."""
    import torch

    ids = torch.tensor([prompt_ids(loaded, request)])
    output = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, temperature=None, top_p=None, max_new_tokens=tokens)
    drawn = output[0, ids.shape[1] :].tolist()
    text = loaded.tokenizer.decode(drawn, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text, len(drawn), "stop" if drawn[-1] in loaded.end_ids else "length"


def record() -> AttemptRecord:
    return AttemptRecord(backend="local")


async def until(condition: Any, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.002)


async def forever(engine: Any, ask: Any, attempt: AttemptRecord | None = None) -> AsyncGenerator[Event, None]:
    """A long answer: this model, asked this, greedily, does not end before its context does."""
    async with aclosing(engine.generate(ask("Hello", max_output_tokens=None), attempt or record())) as events:
        async for event in events:
            yield event


async def test_greedy_answers_are_those_of_generate_token_for_token_when_requests_are_staggered(engine: Any, loaded: Any, ask: Any) -> None:
    requests = [ask(f"Question {n}: " + "why? " * (7 * n), max_output_tokens=20 + 5 * n) for n in range(8)]
    running = []
    for request in requests:
        attempt = record()
        running.append((attempt, asyncio.create_task(collect(engine.generate(request, attempt)))))
        seen = engine.state().forwards
        await until(lambda seen=seen: engine.state().forwards > seen + 3)
    for request, (attempt, task) in zip(requests, running, strict=True):
        text, drawn, reason = reference(loaded, request, request.max_output_tokens or 0)
        answer = await task
        assert answer.choices[0].text.rstrip("\ufffd") == text.rstrip("\ufffd")
        assert answer.choices[0].finish is not None
        assert answer.choices[0].finish.reason == reason
        assert attempt.usage is not None
        assert (attempt.usage.input_tokens, attempt.usage.output_tokens, attempt.usage.source) == (len(prompt_ids(loaded, request)), drawn, "counted")
        assert answer.usage == attempt.usage


async def test_a_prompt_read_in_pieces_gives_the_same_answer(make_engine: Any, loaded: Any, ask: Any) -> None:
    request = ask("tell me " * 60, max_output_tokens=30)
    answer = await collect(make_engine(prefill_chunk=7).generate(request, record()))
    assert answer.choices[0].text.rstrip("\ufffd") == reference(loaded, request, 30)[0].rstrip("\ufffd")


async def test_events_come_in_the_order_of_the_contract(engine: Any, ask: Any, attempt: AttemptRecord) -> None:
    events = [event async for event in engine.generate(ask(), attempt)]
    assert isinstance(events[0], ResponseStarted)
    assert isinstance(events[1], UsageReported)
    assert events[1].usage.output_tokens == 0
    assert all(isinstance(event, TextDelta) for event in events[2:-2])
    assert isinstance(events[-2], UsageReported)
    assert isinstance(events[-1], Finished)
    assert attempt.provider_request_id == events[0].provider_request_id


async def test_no_delta_holds_half_a_character(engine: Any, ask: Any, loaded: Any) -> None:
    request = ask("東京 👋🏽", max_output_tokens=200, temperature=1.2, seed=5)
    events = [event async for event in engine.generate(request, record()) if isinstance(event, TextDelta)]
    for event in events:
        event.text.encode()  # no lone surrogate
    again = await collect(engine.generate(request, record()))
    assert "".join(event.text for event in events) == again.choices[0].text


async def test_sampling_with_a_seed_is_reproducible_whatever_else_runs(engine: Any, ask: Any) -> None:
    request = ask("Say something", temperature=1.0, top_p=0.95, seed=42, max_output_tokens=40)
    alone = await collect(engine.generate(request, record()))
    others = [collect(engine.generate(ask("Say something", temperature=1.0, seed=n, max_output_tokens=40), record())) for n in range(3)]
    together, *rest = await asyncio.gather(collect(engine.generate(request, record())), *others)
    assert together.choices == alone.choices
    assert len({alone.choices[0].text, *(answer.choices[0].text for answer in rest)}) == 4


async def test_without_a_seed_answers_differ(engine: Any, ask: Any) -> None:
    answers = await asyncio.gather(*(collect(engine.generate(ask(temperature=1.5, max_output_tokens=30), record())) for _ in range(3)))
    assert len({answer.choices[0].text for answer in answers}) == 3


@pytest.mark.parametrize("length", [1, 3, 9])
async def test_a_stop_string_ends_the_answer_and_none_of_it_is_delivered(engine: Any, ask: Any, length: int) -> None:
    whole = (await collect(engine.generate(ask(max_output_tokens=60), record()))).choices[0].text
    stop = whole[20 : 20 + length]
    attempt = record()
    answer = await collect(engine.generate(ask(max_output_tokens=60, stop=("never said", stop)), attempt))
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish is not None
    assert (answer.choices[0].finish.reason, answer.choices[0].finish.stop_sequence) == ("stop", stop)
    assert attempt.usage is not None
    assert attempt.usage.output_tokens < 60


async def test_an_answer_without_a_limit_ends_where_the_context_does(make_engine: Any, loaded: Any, ask: Any) -> None:
    engine = make_engine(context_window=100)
    request = ask("Hello", max_output_tokens=None)
    attempt = record()
    answer = await collect(engine.generate(request, attempt))
    assert answer.choices[0].finish is not None
    assert answer.choices[0].finish.reason == "length"
    assert attempt.usage is not None
    assert attempt.usage.total_tokens == 100


async def test_a_prompt_longer_than_the_context_is_refused_before_any_work(make_engine: Any, ask: Any, attempt: AttemptRecord) -> None:
    engine = make_engine(context_window=100)
    with pytest.raises(ContextTooLong, match=r"\d+ tokens"):
        await collect(engine.generate(ask("too long " * 100), attempt))
    assert engine.state().forwards == 0
    assert not attempt.called


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"temperature": -0.1}, InvalidRequest, "temperature"),
        ({"temperature": float("nan")}, InvalidRequest, "temperature"),
        ({"top_p": 0.0}, InvalidRequest, "top_p"),
        ({"top_p": 1.1}, InvalidRequest, "top_p"),
        ({"max_output_tokens": 0}, InvalidRequest, "max_tokens"),
        ({"stop": ("",)}, InvalidRequest, "stop"),
        ({"n": 2}, UnsupportedFeature, "n"),
        ({"logprobs": 1}, UnsupportedFeature, "logprobs"),
        ({"adapter": "mine"}, UnsupportedFeature, "adapter"),
        ({"response_format": ResponseFormat(kind="json_schema", schema={})}, UnsupportedFeature, "response_format"),
        ({"tools": (Tool(name="f"),), "tool_choice": ToolChoice(mode="function", name="g")}, InvalidRequest, "tool_choice"),
        ({"messages": (Message(role="user", parts=(ImagePart(url="data:,"),)),)}, UnsupportedFeature, "messages"),
    ],
)
async def test_what_it_cannot_do_is_refused_and_hurts_nobody_else(engine: Any, ask: Any, fields: dict[str, Any], error: Any, param: str) -> None:
    import msgspec

    other = asyncio.create_task(collect(engine.generate(ask(), record())))
    with pytest.raises(error) as raised:
        await collect(engine.generate(msgspec.structs.replace(ask(), **fields), record()))
    assert raised.value.param == param
    assert (await other).choices[0].finish is not None


async def test_closing_the_stream_stops_the_model_within_one_step(engine: Any, ask: Any, attempt: AttemptRecord) -> None:
    stream = forever(engine, ask, attempt)
    for _ in range(20):
        await anext(stream)
    await stream.aclose()
    at_close = engine.state().forwards
    await until(lambda: engine.state().active == 0)
    assert engine.state().forwards <= at_close + 1
    assert attempt.usage is not None
    assert 0 < attempt.usage.output_tokens <= engine.state().tokens <= attempt.usage.output_tokens + 1


async def test_cancelling_while_the_prompt_is_read_stops_within_one_piece(make_engine: Any, ask: Any, attempt: AttemptRecord) -> None:
    engine = make_engine(prefill_chunk=4)
    task = asyncio.create_task(collect(engine.generate(ask("long " * 300), attempt)))
    await until(lambda: engine.state().forwards > 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at_close = engine.state().forwards
    await until(lambda: engine.state().active == 0)
    assert engine.state().forwards <= at_close + 1
    assert engine.state().tokens == 0
    assert attempt.usage is not None
    assert 0 < attempt.usage.input_tokens < 1200
    assert attempt.usage.output_tokens == 0


async def test_a_consumer_that_stops_reading_pauses_its_request_and_no_other(engine: Any, ask: Any) -> None:
    from adapters.llama_engine.outbox import LIMIT

    async with aclosing(forever(engine, ask)) as slow:
        assert isinstance(await anext(slow), ResponseStarted)
        await until(lambda: engine.state().tokens >= LIMIT - 1)
        other = await collect(engine.generate(ask("Hi", max_output_tokens=300), record()))
        assert other.usage is not None
        assert engine.state().tokens - other.usage.output_tokens < 2 * LIMIT
        before = engine.state().tokens
        for _ in range(3 * LIMIT):
            await anext(slow)
        assert engine.state().tokens > before


async def test_a_short_request_overtakes_a_long_one(engine: Any, ask: Any) -> None:
    async with aclosing(forever(engine, ask)) as long:
        reader = asyncio.create_task(_count(long))
        await until(lambda: engine.state().tokens > 10)
        answer = await collect(engine.generate(ask("Hi", max_output_tokens=5), record()))
        assert answer.usage is not None
        assert not reader.done()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader


async def _count(events: AsyncGenerator[Event, None]) -> int:
    return len([event async for event in events])


async def test_a_full_queue_is_a_rate_limit_with_a_time_to_come_back(make_engine: Any, ask: Any) -> None:
    engine = make_engine(max_concurrency=1, max_queue=1)
    await engine.warm()
    first = forever(engine, ask)
    await anext(first)
    second = asyncio.create_task(collect(engine.generate(ask(), record())))
    await until(lambda: engine.state().queued == 1)
    assert (await engine.health()).queue_depth == 1
    with pytest.raises(RateLimited) as raised:
        await collect(engine.generate(ask(), record()))
    assert raised.value.retry_after is not None
    await first.aclose()
    assert (await second).choices[0].finish is not None


async def test_a_request_whose_step_fails_gets_its_own_error_and_the_others_live_on(engine: Any, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.llama_engine.sequence import Sequence

    await engine.warm()
    good = asyncio.create_task(collect(engine.generate(ask(max_output_tokens=200), record())))
    real = Sequence.step

    def step(self: Any, chunk: int) -> None:
        if len(self.prompt) > 200:
            raise RuntimeError("a bad request")
        real(self, chunk)

    monkeypatch.setattr(Sequence, "step", step)
    with pytest.raises(ProviderFault, match="a bad request") as raised:
        await collect(engine.generate(ask("bad " * 200), record()))
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert (await good).usage is not None
    assert (await collect(engine.generate(ask(), record()))).choices[0].finish is not None


async def test_requests_that_outgrow_the_memory_together_cost_the_youngest_its_place_and_not_the_oldest(engine: Any, ask: Any) -> None:
    await engine.warm()
    engine._loaded.result().kv_tokens = 200
    first, second = (asyncio.create_task(collect(engine.generate(ask("Hello", max_output_tokens=120), record()))) for _ in range(2))
    with pytest.raises(Overloaded, match="memory"):
        await second
    assert (await first).usage is not None


async def test_a_request_waits_while_there_is_no_memory_for_its_prompt(engine: Any, ask: Any) -> None:
    await engine.warm()
    engine._loaded.result().kv_tokens = 80
    async with aclosing(forever(engine, ask)) as first:
        await anext(first)
        second = asyncio.create_task(collect(engine.generate(ask(), record())))
        await until(lambda: engine.state().queued == 1)
        assert engine.state().active == 1
    assert (await second).usage is not None


async def test_a_fault_of_the_engine_itself_leaves_nobody_waiting(engine: Any, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.llama_engine import LlamaEngine

    await engine.warm()

    def admit(self: Any, loaded: Any) -> None:
        if self._waiting:
            raise RuntimeError("a bug")

    monkeypatch.setattr(LlamaEngine, "_admit", admit)
    with pytest.raises(ProviderFault, match="a bug"):
        await collect(engine.generate(ask(), record()))
    assert not (await engine.health()).ready


async def test_a_deadline_ends_a_request_in_the_middle(engine: Any, ask: Any, attempt: AttemptRecord) -> None:
    await engine.warm()
    with pytest.raises(BackendTimeout):
        await collect(engine.generate(ask(max_output_tokens=None, deadline=time.time() + 0.1), attempt))
    await until(lambda: engine.state().active == 0)
    assert attempt.usage is not None
    assert attempt.usage.output_tokens > 0


async def test_closing_the_engine_ends_what_runs_with_an_error(make_engine: Any, ask: Any) -> None:
    engine = make_engine()
    stream = forever(engine, ask)
    await anext(stream)
    await asyncio.to_thread(engine.close)
    with pytest.raises(StreamBroken):
        await _count(stream)
    with pytest.raises(BackendUnavailable):
        await collect(engine.generate(ask(), record()))


async def test_a_lazy_model_is_ready_before_it_is_loaded_and_a_warm_one_loads_when_asked_about(make_engine: Any) -> None:
    lazy, warm = make_engine(), make_engine(start="warm")
    assert (await lazy.health()).ready
    assert lazy.state().state == "idle"
    assert not (await warm.health()).ready
    await until(lambda: warm.state().state == "ready")
    assert (await warm.health()).ready


async def test_a_folder_that_is_not_there_is_named_in_health_and_in_the_error(make_engine: Any, ask: Any, tmp_path: Path) -> None:
    engine = make_engine(model=str(tmp_path / "nothing"))
    health = await engine.health()
    assert not health.ready
    assert str(tmp_path / "nothing") in health.reason
    with pytest.raises(BackendUnavailable, match="no model folder"):
        await collect(engine.generate(ask(), record()))
