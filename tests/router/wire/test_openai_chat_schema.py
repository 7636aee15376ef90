"""Our chat answers, whole and streamed, against OpenAI's published schema: from a real socket, for answers of every kind.

`headgate` and `reasoning_content` are our additions; the schema allows further properties in the objects they stand in. Its chunks know no call of a
custom tool, although OpenAI streams them: that one is checked whole only.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.provider import FakeProvider, Reply
from tests.fakes.wire import failing, sse
from tests.openai_schema import ABSENT, complaints, present, require_valid
from tests.serving import serving

pytestmark = pytest.mark.skipif(not present(), reason=ABSENT)

POLICY = """
version: 1
backends:
  up: {{kind: openai, model: m, base_url: "{url}/v1", price: {{input: 1.0, output: 4.0}}, pass_through: [modalities, audio, web_search_options]}}
default: up
fallback: []
moderation: {{output: []}}
"""
HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 6,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 1, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0},
}
FUNCTION = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CUSTOM = {"type": "custom", "custom": {"name": "run"}}
TOKEN = {"token": "\\xf0\\x9f", "logprob": -0.5, "bytes": [240, 159], "top_logprobs": [{"token": "a", "logprob": -1.0, "bytes": [97]}]}
NOTE = {"type": "url_citation", "url_citation": {"url": "https://example.org/", "title": "Example", "start_index": 0, "end_index": 2}}
JUDGED = {"type": "moderation_results", "model": "omni-moderation-latest", "results": []}


def delta(said: dict[str, Any], index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": said, "finish_reason": None, **fields}


def call(index: int, **fields: Any) -> dict[str, Any]:
    return delta({"tool_calls": [{"index": index, **fields}]})


# By name: what the request adds, the chunks' choices (or a chunk's other fields) that the upstream sends, and its finish.
Case = tuple[dict[str, Any], list[dict[str, Any]], str]
CASES: dict[str, Case] = {
    "text": ({}, [delta({"content": "Hello"}), delta({"content": " you."})], "stop"),
    "length": ({"max_completion_tokens": 2}, [delta({"content": "Hello"})], "length"),
    "filtered": ({}, [delta({"content": "He"})], "content_filter"),
    "reasoning": ({"reasoning_effort": "low"}, [delta({"reasoning_content": "Hm."}), delta({"content": "Yes."})], "stop"),
    "refusal": ({}, [delta({"refusal": "I cannot"}), delta({"refusal": " do that."})], "stop"),
    "two choices": ({"n": 2}, [delta({"content": "A"}), delta({"content": "B"}, 1)], "stop"),
    "logprobs": ({"logprobs": True, "top_logprobs": 1}, [delta({"content": "?"}, logprobs={"content": [TOKEN], "refusal": None})], "stop"),
    "refusal logprobs": ({"logprobs": True}, [delta({"refusal": "No"}, logprobs={"content": None, "refusal": [TOKEN]})], "stop"),
    "parallel tools": (
        {"tools": [FUNCTION]},
        [
            call(0, id="a", type="function", function={"name": "look", "arguments": ""}),
            call(0, function={"arguments": '{"x":'}),
            call(0, function={"arguments": "1}"}),
            call(1, id="b", type="function", function={"name": "look", "arguments": "{}"}),
        ],
        "tool_calls",
    ),
    "text and a tool": (
        {"tools": [FUNCTION]},
        [delta({"content": "I look."}), call(0, id="a", type="function", function={"name": "look", "arguments": "{}"})],
        "tool_calls",
    ),
    "annotations": ({"web_search_options": {}}, [delta({"content": "Hi"}), delta({"annotations": [NOTE]})], "stop"),
    "nothing": ({}, [], "stop"),
    "spoken": (
        {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
        [delta({"audio": {"id": "audio_1", "transcript": "Hel"}}), delta({"audio": {"data": "AAAA", "transcript": "lo"}}), delta({"audio": {"expires_at": 5}})],
        "stop",
    ),
}
RUN: Case = (
    {"tools": [CUSTOM]},
    [call(0, id="a", type="custom", custom={"name": "run", "input": "pri"}), call(0, custom={"input": "nt()"})],
    "tool_calls",
)


def chunk(choice: dict[str, Any]) -> bytes:
    return sse({**HEAD, "choices": [choice]})


def upstream(body: dict[str, Any], choices: list[dict[str, Any]], finish: str) -> Reply:
    """What OpenAI would stream: these choices, a finish for each index, the usage."""
    ends = [{**delta({}, index), "finish_reason": finish} for index in range(body.get("n", 1))]
    last = sse({**HEAD, "choices": [], "usage": USAGE})
    return Reply([*map(chunk, [*choices, *ends]), last, b"data: [DONE]\n\n"], headers={"content-type": "text/event-stream"})


Ask = Callable[..., Awaitable[tuple[int, str]]]


@asynccontextmanager
async def asking(folder: Path, *replies: Reply) -> AsyncIterator[Ask]:
    """A service whose upstream gives these replies in turn; `ask` sends it a request and returns status and body."""
    async with FakeProvider(list(replies)) as provider, serving(POLICY.format(url=provider.url), folder) as service, aiohttp.ClientSession() as session:

        async def ask(**body: Any) -> tuple[int, str]:
            request = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], **body}
            async with session.post(f"{service.url}/v1/chat/completions", json=request, headers=service.bearer()) as answer:
                return answer.status, await answer.text()

        yield ask


def frames(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line.startswith("data: {")]


async def test_every_whole_answer_is_what_the_schema_says(tmp_path: Path) -> None:
    cases = [*CASES.values(), RUN]
    async with asking(tmp_path, *(upstream(*case) for case in cases)) as ask:
        for body, _, finish in cases:
            status, text = await ask(**body)
            assert status == 200, text
            answer = json.loads(text)
            require_valid("CreateChatCompletionResponse", answer)
            assert [choice["finish_reason"] for choice in answer["choices"]] == [finish] * body.get("n", 1)
            assert answer["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize("usage", [True, False])
async def test_every_chunk_of_every_stream_is_what_the_schema_says(usage: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if usage else {"stream": True}
    async with asking(tmp_path, *(upstream(*case) for case in CASES.values())) as ask:
        for body, _, finish in CASES.values():
            status, text = await ask(**body, **options)
            assert status == 200, text
            said = frames(text)
            for frame in said:
                require_valid("CreateChatCompletionStreamResponse", frame)
                assert all({"index", "delta", "logprobs", "finish_reason"} <= choice.keys() for choice in frame["choices"])
            reasons = [choice["finish_reason"] for frame in said for choice in frame["choices"] if choice["finish_reason"]]
            assert reasons == [finish] * body.get("n", 1)
            assert [frame.get("usage", "absent") for frame in said[:-1]] == [None if usage else "absent"] * (len(said) - 1)
            assert bool(said[-1].get("usage")) is usage
            assert text.endswith("data: [DONE]\n\n")


async def test_what_a_provider_says_beside_its_text_comes_out_where_its_own_clients_look_for_it(tmp_path: Path) -> None:
    noted, spoken, spelled = CASES["annotations"], CASES["spoken"], CASES["logprobs"]
    async with asking(tmp_path, *(upstream(*case) for case in (noted, spoken, spelled, RUN, RUN))) as ask:
        (choice,) = json.loads((await ask(**noted[0]))[1])["choices"]
        assert choice["message"]["annotations"] == [NOTE]
        (choice,) = json.loads((await ask(**spoken[0]))[1])["choices"]
        assert choice["message"]["audio"] == {"id": "audio_1", "data": "AAAA", "transcript": "Hello", "expires_at": 5}
        assert choice["message"]["content"] is None
        (choice,) = json.loads((await ask(**spelled[0]))[1])["choices"]
        assert choice["logprobs"] == {"content": [TOKEN], "refusal": None}
        (choice,) = json.loads((await ask(**RUN[0]))[1])["choices"]
        assert choice["message"]["tool_calls"] == [{"id": "a", "type": "custom", "custom": {"name": "run", "input": "print()"}}]
        _, text = await ask(**RUN[0], stream=True)
        pieces = [piece for frame in frames(text) for choice in frame["choices"] for piece in choice["delta"].get("tool_calls", ())]
        begun = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "run", "input": "pri"}}
        assert pieces == [begun, {"index": 0, "custom": {"input": "nt()"}}]


async def test_the_providers_own_moderation_comes_out_whole_and_streamed(tmp_path: Path) -> None:
    judged = {"input": JUDGED, "output": JUDGED}
    steps = [chunk(delta({"content": "Hi"})), sse({**HEAD, "choices": [], "moderation": judged}), chunk({**delta({}), "finish_reason": "stop"})]
    reply = Reply([*steps, sse({**HEAD, "choices": [], "usage": USAGE}), b"data: [DONE]\n\n"], headers={"content-type": "text/event-stream"})
    wanted = {"moderation": {"model": "omni-moderation-latest"}}
    async with asking(tmp_path, reply, reply) as ask:
        answer = json.loads((await ask(**wanted))[1])
        said = frames((await ask(**wanted, stream=True))[1])
    require_valid("CreateChatCompletionResponse", answer)
    assert answer["moderation"] == judged
    assert [frame["choices"] for frame in said if frame.get("moderation") == judged] == [[]]
    for frame in said:
        require_valid("CreateChatCompletionStreamResponse", frame)


async def test_a_refusal_and_an_error_within_a_stream_are_what_the_schema_says(tmp_path: Path) -> None:
    broken = Reply(
        [chunk(delta({"content": "Hi"})), sse({"error": {"message": "gone", "type": "server_error"}})], headers={"content-type": "text/event-stream"}
    )
    async with asking(tmp_path, failing("openai", 400, "invalid_value"), broken) as ask:
        for body in ({}, {"messages": []}):
            status, text = await ask(**body)
            assert status == 400
            require_valid("ErrorResponse", json.loads(text))
        status, text = await ask(stream=True)
    assert status == 200
    *said, error = frames(text)
    require_valid("ErrorResponse", error)
    for frame in said:
        require_valid("CreateChatCompletionStreamResponse", frame)


def test_the_judge_finds_what_is_wrong() -> None:
    good = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{**delta({}), "logprobs": None}]}
    assert complaints("CreateChatCompletionStreamResponse", good) == []
    assert complaints("CreateChatCompletionStreamResponse", {**good, "system_fingerprint": None})
    assert complaints("CreateChatCompletionStreamResponse", {**good, "choices": [{"index": 0, "delta": {}}]})
    assert complaints("CreateChatCompletionStreamResponse", {**good, "usage": {"prompt_tokens": 1}})
