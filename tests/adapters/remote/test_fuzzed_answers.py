"""Answers that are not as they should be, at every provider: only errors of the tree leave a decoder, and no broken answer passes for a whole one.

The answers are the fakes' and, where this machine has them, recorded ones. One value after another is put in the place of what stands there, events
are lost, doubled, swapped and cut; the bytes come in pieces of any size.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.anthropic.messages_stream import MessageDecoder
from adapters.collect import Collector
from adapters.errors import BackendError, StreamBroken
from adapters.gemini.content_stream import ContentDecoder
from adapters.openai.chat_stream import ChatDecoder
from adapters.openai.responses_stream import ResponsesDecoder
from adapters.remote_answer import StreamDecoder, way_to_read
from adapters.types import Event, Finished, ProviderItem, ToolCallDelta, UsageReported
from tests.adapters.remote.recordings import interactions
from tests.fakes.responses_wire import responses_steps
from tests.fakes.wire import Answer, Call, anthropic_steps, gemini_steps, openai_steps

DECODERS: dict[str, Callable[[], StreamDecoder]] = {
    "openai": ChatDecoder,
    "responses": ResponsesDecoder,
    "anthropic": lambda: MessageDecoder(native=True),
    "gemini": ContentDecoder,
}
TOLD = Answer(reasoning=("Hm, ", "yes."), calls=(Call("call_1", "f", ('{"a"', ": 1}")), Call("call_2", "g", ("{}",))))
PLAYED = {"openai": openai_steps(TOLD), "responses": responses_steps(TOLD), "anthropic": anthropic_steps(TOLD), "gemini": gemini_steps(TOLD)}
ENDS = {"openai": "/chat/completions", "responses": "/responses", "anthropic": "/messages", "gemini": ":streamGenerateContent"}
SAMPLE = 12
"""Recordings of each provider that are played too."""

NEEDED = {
    "openai": (b'"finish_reason":"', b'"finish_reason": "'),
    "responses": (b'"type":"response.completed"', b'"type": "response.completed"', b'"type":"response.incomplete"'),
    "anthropic": (b"message_stop",),
    "gemini": (b'"finishReason"',),
}

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    7,
    10**30,
    1.5,
    "",
    "x",
    "\ud7ff\u0000",
    "{",
    [],
    [None],
    [[]],
    [7],
    ["x"],
    [{}],
    {},
    {"x": None},
    {"type": "x"},
    {"text": 7},
]


class Body:
    """A raw answer that comes in the given pieces."""

    def __init__(self, pieces: list[bytes], kind: str = "text/event-stream") -> None:
        self.status = 200
        self.headers = {"content-type": kind}
        self._pieces = pieces

    async def aiter_raw(self) -> AsyncGenerator[bytes, None]:
        for piece in self._pieces:
            yield piece

    async def read(self) -> bytes:
        return b"".join(self._pieces)

    async def aclose(self) -> None:
        return


async def _read(decoder: StreamDecoder, body: Body) -> list[Event]:
    events = [event async for batch in way_to_read(body)(body.aiter_raw(), decoder) for event in batch]
    return [*events, *decoder.finish()]


def read(provider: str, pieces: list[bytes], kind: str = "text/event-stream") -> list[Event] | BackendError:
    """The events of an answer, or the error that ended it. Anything else that is raised fails the test."""
    try:
        events = asyncio.run(_read(DECODERS[provider](), Body(pieces, kind)))
    except BackendError as error:
        return error
    collector = Collector()
    for event in events:
        collector.add(event)
        if isinstance(event, ToolCallDelta):
            assert event.index >= 0
        if isinstance(event, UsageReported):
            json.dumps(event.usage.total_tokens)
    finished = [event.choice for event in events if isinstance(event, Finished)]
    assert finished, "an answer that is over has an end"
    assert len(set(finished)) == len(finished)
    assert all(choice.finish is not None for choice in collector.result().choices)
    return events


def recorded(provider: str) -> list[list[bytes]]:
    """Some recorded streams, by their events."""
    name = {"responses": "openai"}.get(provider, provider)
    found = [
        each for each in interactions() if each["provider"] == name and each["path"].split("?")[0].endswith(ENDS[provider]) and "event-stream" in each["ct"]
    ]
    return [_steps(each) for each in found[:: max(1, len(found) // SAMPLE)]]


def _steps(recording: Any) -> list[bytes]:
    body = recording["body"].encode()
    return [event + b"\n\n" for event in body.replace(b"\r\n", b"\n").split(b"\n\n") if event.strip()]


@st.composite
def places(draw: st.DrawFn, value: Any) -> list[Any]:
    """A path into a JSON value."""
    path: list[Any] = []
    while isinstance(value, dict | list) and value and (not path or draw(st.integers(0, 4))):
        key = draw(st.sampled_from(sorted(value))) if isinstance(value, dict) else draw(st.integers(0, len(value) - 1))
        path.append(key)
        value = value[key]
    return path


def put(value: Any, path: list[Any], odd: Any) -> Any:
    if not path:
        return odd
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(copy[path[0]], path[1:], odd)
    return copy


def data_of(step: bytes) -> Any:
    line = next((line for line in step.split(b"\n") if line.startswith(b"data:")), b"")
    try:
        return json.loads(line[5:])
    except ValueError:
        return None


@st.composite
def mutated(draw: st.DrawFn, steps: list[bytes]) -> list[bytes]:
    made = list(steps)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(made) - 1))
        match draw(st.sampled_from(["value", "value", "value", "lose", "double", "swap", "insert"])):
            case "value" if isinstance(said := data_of(made[place]), dict):
                changed = put(said, draw(places(said)), draw(st.sampled_from(ODD)))
                made[place] = b"data: " + json.dumps(changed).encode() + b"\n\n"
            case "lose" if len(made) > 1:
                del made[place]
            case "double":
                made.insert(place, made[place])
            case "swap":
                other = draw(st.integers(0, len(made) - 1))
                made[place], made[other] = made[other], made[place]
            case _:
                made.insert(
                    place, draw(st.sampled_from([b": ping\n\n", b"data:\n\n", b"event: x\n\n", b"data: {\ndata: }\n\n", b"data: []\n\n", b"data: \xff\n\n"]))
                )
    return made


def whole_body(provider: str, steps: list[bytes]) -> Any:
    """The complete answer that a stream of the fakes adds up to."""
    match provider:
        case "openai":
            call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            said = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm", "refusal": None, "tool_calls": [call], "annotations": [{"type": "x"}]}
            logprobs = {"content": [{"token": "Hi", "logprob": -0.1, "top_logprobs": [{"token": "Hi", "logprob": -0.1}]}]}
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}}
            return {"id": "c", "model": "m", "choices": [{"index": 0, "message": said, "finish_reason": "stop", "logprobs": logprobs}], "usage": usage}
        case "responses":
            return data_of(steps[-1])["response"]
        case "anthropic":
            blocks = [{"type": "thinking", "thinking": "Hm", "signature": "c2ln"}, {"type": "text", "text": "Hi", "citations": [{"type": "x"}]}]
            blocks.append({"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}})
            usage = {"input_tokens": 3, "output_tokens": 2, "cache_creation": {"ephemeral_5m_input_tokens": 1}, "iterations": [{"type": "compaction"}]}
            return {"type": "message", "id": "m", "model": "m", "content": blocks, "stop_reason": "tool_use", "stop_sequence": None, "usage": usage}
        case _:
            parts = [{"text": "Hm", "thought": True}, {"text": "Hi", "thoughtSignature": "c2ln"}, {"functionCall": {"name": "f", "args": {"a": 1}}}]
            chosen = [{"token": "Hi", "logProbability": -0.1}]
            logprobs = {"chosenCandidates": chosen, "topCandidates": [{"candidates": chosen}]}
            candidate = {"content": {"parts": parts}, "finishReason": "STOP", "index": 0, "logprobsResult": logprobs, "groundingMetadata": {"a": 1}}
            usage = {"promptTokenCount": 3, "candidatesTokenCount": 2, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 3}]}
            return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m", "promptFeedback": {}}


STREAMS = {name: [PLAYED[name], *recorded(name)] for name in DECODERS}


@pytest.mark.parametrize("provider", DECODERS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_only_errors_of_the_tree_leave_a_decoder_whatever_it_is_fed(provider: str, data: st.DataObject) -> None:
    steps = data.draw(mutated(data.draw(st.sampled_from(STREAMS[provider]))))
    read(provider, steps)


@pytest.mark.parametrize("provider", DECODERS)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_only_errors_of_the_tree_leave_a_decoder_whatever_body_it_is_given(provider: str, data: st.DataObject) -> None:
    body = whole_body(provider, PLAYED[provider])
    assert not isinstance(read(provider, [json.dumps(body).encode()], "application/json"), BackendError)
    for _ in range(data.draw(st.integers(1, 3))):
        body = put(body, data.draw(places(body)), data.draw(st.sampled_from(ODD)))
    raw = json.dumps(body).encode()
    read(provider, [raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw], "application/json")


@pytest.mark.parametrize("provider", DECODERS)
def test_a_stream_that_ends_before_its_end_is_broken_wherever_it_ends(provider: str) -> None:
    """The last event that an answer cannot do without: OpenAI's finish reason, the response's or message's end, Gemini's finish reason."""
    for steps in STREAMS[provider]:
        if isinstance(read(provider, steps), BackendError):
            continue
        needed = max(place for place, step in enumerate(steps) if any(mark in step for mark in NEEDED[provider]))
        for cut in range(needed + 1):
            assert isinstance(read(provider, steps[:cut]), StreamBroken), steps[cut - 1 : cut]


@pytest.mark.parametrize("provider", DECODERS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_an_answer_is_the_same_however_its_bytes_are_cut_and_its_lines_end(provider: str, data: st.DataObject) -> None:
    steps = data.draw(st.sampled_from(STREAMS[provider]))
    body = b"".join(steps)
    line_end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    other = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + b": hello\n\n".replace(b"\n", line_end) + body.replace(b"\r\n", b"\n").replace(b"\n", line_end)
    size = data.draw(st.integers(1, 700))
    pieces = [other[at : at + size] for at in range(0, len(other), size)]
    assert told(read(provider, pieces)) == told(read(provider, [body]))


def told(events: list[Event] | BackendError) -> Any:
    """An answer without the ids that are made up for calls that have none."""
    if isinstance(events, BackendError):
        return type(events), str(events)
    return [msgspec.structs.replace(event, id=None) if isinstance(event, ToolCallDelta) else event for event in events if not isinstance(event, ProviderItem)]
