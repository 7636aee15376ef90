"""The responses endpoint with the official SDK, on a real socket, over every kind of provider."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.lib.streaming.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

from tests.fakes.provider import Cut, Exchange, FakeProvider, Reply
from tests.fakes.responses_wire import responding, responses_steps
from tests.fakes.wire import Answer, Call, answering
from tests.openai_schema import present, require_valid
from tests.serving import Service, serving

KINDS = ("responses", "openai", "anthropic", "gemini")
TOOL = {
    "type": "function",
    "name": "weather",
    "description": "Weather",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def reply(kind: str, answer: Answer) -> Reply:
    return responding(answer) if kind == "responses" else answering(kind, answer)


def table(kind: str, provider: FakeProvider, **more: Any) -> dict[str, Any]:
    named = "openai" if kind == "responses" else kind
    url = provider.url + ("/v1" if named == "openai" else "")
    return {
        "kind": named,
        "model": "some-model",
        "base_url": url,
        "price": {"input": 1.0, "output": 4.0},
        **({"api": "responses"} if kind == "responses" else {}),
        **more,
    }


@asynccontextmanager
async def served(home: Path, backends: dict[str, Any], **policy: Any) -> AsyncIterator[tuple[Service, openai.AsyncOpenAI]]:
    text = json.dumps({"version": 1, "backends": backends, "default": next(iter(backends)), "fallback": [], **policy})
    async with serving(text, home) as service, openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
        yield service, sdk


async def raw(service: Service, body: dict[str, Any]) -> bytes:
    """What stands on the wire, before any SDK has mended it."""
    import aiohttp

    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{service.url}/v1/responses", json={"model": "auto", **body}, headers=service.bearer()) as answer,
    ):
        return await answer.read()


def events(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream; each one's name is its type, and their numbers count up."""
    read = []
    for block in body.decode().strip().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines:
            name, data = lines
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            read.append(event)
    assert [event["sequence_number"] for event in read] == list(range(len(read)))
    return read


def require_valid_answers(whole: bytes, stream: bytes) -> None:
    if not present():
        pytest.skip("OpenAI's published schema is not on this machine")
    require_valid("Response", json.loads(whole))
    for event in events(stream):
        require_valid("ResponseStreamEvent", event)
        if "response" in event:
            require_valid("Response", event["response"])


CASES: dict[str, tuple[Answer, dict[str, Any]]] = {
    "text": (Answer(), {}),
    "reasoning": (Answer(reasoning=("Let me ", "think."), reasoning_tokens=3), {"reasoning": {"effort": "low", "summary": "auto"}}),
    "tools": (
        Answer(texts=(), calls=(Call("call_1", "weather", ('{"city":', '"Paris"}')), Call("call_2", "weather", ('{"city":"Rome"}',)))),
        {"tools": [TOOL]},
    ),
    "text and a call": (Answer(calls=(Call("call_1", "weather", ('{"city":"Paris"}',)),)), {"tools": [TOOL], "tool_choice": "required"}),
    "limit": (Answer(finish={}), {"max_output_tokens": 50}),  # type: ignore[arg-type]
}
LENGTH = {"responses": "max_output_tokens", "openai": "length", "anthropic": "max_tokens", "gemini": "MAX_TOKENS"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
async def test_whole_and_streamed_answers_say_the_same_and_fit_openais_schema(kind: str, case: str, tmp_path: Path) -> None:
    answer, asked = CASES[case]
    if case == "limit":
        answer = Answer(finish=LENGTH[kind])
    async with FakeProvider(lambda _: reply(kind, answer)) as provider, served(tmp_path, {"it": table(kind, provider)}) as (service, _):
        whole = await raw(service, {"input": "Hi", **asked})
        stream = await raw(service, {"input": "Hi", "stream": True, **asked})
    require_valid_answers(whole, stream)
    one, other = json.loads(whole), events(stream)[-1]["response"]
    assert one["status"] == ("incomplete" if case == "limit" else "completed")
    assert one["incomplete_details"] == ({"reason": "max_output_tokens"} if case == "limit" else None)
    assert [(item["type"], item.get("call_id"), item.get("arguments"), content(item)) for item in one["output"]] == [
        (item["type"], item.get("call_id"), item.get("arguments"), content(item)) for item in other["output"]
    ]
    assert "".join(content(item) for item in one["output"] if item["type"] == "message") == "".join(answer.texts)
    assert [json.loads(item["arguments"]) for item in one["output"] if item["type"] == "function_call"] == [
        json.loads("".join(call.pieces)) for call in answer.calls
    ]
    assert one["usage"] == other["usage"]
    assert (one["usage"]["input_tokens"], one["usage"]["output_tokens"]) == (answer.input_tokens, answer.output_tokens)
    if case == "reasoning":
        assert "".join(content(item) for item in one["output"] if item["type"] == "reasoning") == "".join(answer.reasoning)


def content(item: dict[str, Any]) -> str:
    return "".join(part.get("text") or part.get("refusal") or "" for part in [*item.get("content", []), *item.get("summary", [])])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_function_calling_loop_gives_every_provider_its_opaque_parts_back(kind: str, tmp_path: Path) -> None:
    asking = Answer(texts=(), reasoning=("Look it up.",), calls=(Call("call_1", "weather", ('{"city":"Paris"}',)),))
    replies = [reply(kind, asking), reply(kind, Answer(texts=("It is sunny.",)))]
    async with FakeProvider(replies) as provider, served(tmp_path, {"it": table(kind, provider)}) as (_, sdk):
        history: list[Any] = [{"role": "user", "content": "Weather?"}]
        first = await sdk.responses.create(model="auto", input=history, tools=[TOOL], store=False)  # type: ignore[list-item]
        history += [item.model_dump(mode="json", exclude_unset=True) for item in first.output]
        (call,) = [item for item in first.output if item.type == "function_call"]
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": "sunny"})
        second = await sdk.responses.create(model="auto", input=history, tools=[TOOL], store=False)  # type: ignore[list-item]
        assert second.output_text == "It is sunny."
        sent = provider.exchanges[1].json
    match kind:
        case "responses":
            kinds = [item.get("type") for item in sent["input"]]
            assert kinds[-3:] == ["reasoning", "function_call", "function_call_output"]
            assert sent["input"][-3]["encrypted_content"] == "gAAAA-opaque"
            assert sent["store"] is False
        case "anthropic":
            assert {"type": "thinking", "thinking": "Look it up.", "signature": "c2ln"} in sent["messages"][1]["content"]
        case "openai":
            assert sent["messages"][-2]["tool_calls"][0]["id"] == "call_1"
        case _:
            assert sent["contents"][-2]["parts"][-1]["functionCall"]["name"] == "weather"


async def test_streamed_reasoning_of_openais_comes_back_to_it_whole(tmp_path: Path) -> None:
    replies = [responding(Answer(reasoning=("Hm.",), texts=("Yes.",))), responding(Answer(texts=("Still yes.",)))]
    async with FakeProvider(replies) as provider, served(tmp_path, {"it": table("responses", provider)}) as (_, sdk):
        async with sdk.responses.stream(model="auto", input="Really?") as stream:
            pieces = [event.delta async for event in stream if isinstance(event, ResponseTextDeltaEvent)]
            first = await stream.get_final_response()
        assert "".join(pieces) == first.output_text == "Yes."
        assert (await provider.exchange(0)).json["stream"] is True
        given: list[Any] = [
            {"role": "user", "content": "Really?"},
            *[item.model_dump(mode="json", exclude_unset=True) for item in first.output],
            {"role": "user", "content": "Sure?"},
        ]
        again = await sdk.responses.create(model="auto", input=given)
        assert again.output_text == "Still yes."
        sent = provider.exchanges[1].json["input"]
    assert sent[1] == {"id": "rs_1", "type": "reasoning", "encrypted_content": "gAAAA-opaque", "summary": [{"type": "summary_text", "text": "Hm."}]}
    assert sent[2]["content"] == "Yes."


async def test_openais_own_items_are_passed_on_and_refusals_are_refusals(tmp_path: Path) -> None:
    search = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "weather", "queries": ["weather"]}}
    script: Callable[[Exchange], Reply] = lambda _: responding(Answer(texts=()), items=[search], refusal="I will not.")  # noqa: E731
    async with FakeProvider(script) as provider, served(tmp_path, {"it": table("responses", provider, provider_tools=["openai/web_search"])}) as (service, _):
        asked = {"input": "Hi", "tools": [{"type": "web_search"}]}
        whole, stream = await raw(service, asked), await raw(service, {**asked, "stream": True})
    require_valid_answers(whole, stream)
    for response in (json.loads(whole), events(stream)[-1]["response"]):
        assert response["output"][0] == search
        assert response["output"][1]["content"] == [{"type": "refusal", "refusal": "I will not."}]


async def test_a_providers_own_tool_needs_a_backend_that_takes_it(tmp_path: Path) -> None:
    async with FakeProvider(lambda _: responding()) as provider, served(tmp_path, {"it": table("responses", provider)}) as (_, sdk):
        with pytest.raises(openai.APIStatusError) as refused:
            await sdk.responses.create(model="auto", input="Hi", tools=[{"type": "web_search"}])
        assert (refused.value.status_code, refused.value.code, refused.value.param) == (400, "unsupported_feature", "tools")
        assert "openai/web_search" in refused.value.message
        assert provider.exchanges == []


class City(BaseModel):
    name: str
    people: int


async def test_a_parsed_answer_is_the_users_model(tmp_path: Path) -> None:
    told = Answer(texts=('{"name": "Paris", ', '"people": 2}'))
    async with FakeProvider(lambda _: responding(told)) as provider, served(tmp_path, {"it": table("responses", provider)}) as (_, sdk):
        answer = await sdk.responses.parse(model="auto", input="A city", text_format=City)
        assert answer.output_parsed == City(name="Paris", people=2)
        assert provider.exchanges[0].json["text"]["format"]["type"] == "json_schema"
        assert answer.text is not None
        assert answer.text.format is not None
        assert answer.text.format.type == "json_schema"


async def test_a_stream_that_breaks_ends_with_response_failed(tmp_path: Path) -> None:
    steps = responses_steps(Answer())[:4]
    async with FakeProvider(lambda _: Reply([*steps, Cut()])) as provider, served(tmp_path, {"it": table("responses", provider)}) as (service, sdk):
        last = events(await raw(service, {"input": "Hi", "stream": True}))[-1]
        assert last["type"] == "response.failed"
        assert last["response"]["status"] == "failed"
        assert last["response"]["error"]["headgate_code"] == "stream_broken"
        assert last["response"]["headgate"]["backend"] == "it"
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.responses.create(model="auto", input="Hi")
        assert caught.value.status_code == 502
    if present():
        require_valid("ResponseStreamEvent", last)


async def test_a_redacted_summary_hides_the_reasoning_and_still_brings_it_back(tmp_path: Path) -> None:
    thinking = Answer(reasoning=("Write to jane.doe@example.com",), texts=("Done.",))
    moderation = {"output": ["pii"], "on_match": "redact"}
    async with (
        FakeProvider(lambda _: responding(thinking)) as provider,
        served(tmp_path, {"it": table("responses", provider)}, moderation=moderation) as (service, sdk),
    ):
        whole, stream = await raw(service, {"input": "Hi"}), await raw(service, {"input": "Hi", "stream": True})
        assert b"jane.doe" not in whole + stream
        item = json.loads(whole)["output"][0]
        assert content(item) == "Write to [EMAIL]"
        streamed = events(stream)[-1]["response"]["output"]
        assert [(each["type"], content(each)) for each in streamed] == [("reasoning", "Write to [EMAIL]"), ("message", "Done.")]
        assert "gAAAA" not in item["encrypted_content"]
        await sdk.responses.create(model="auto", input=[{"role": "user", "content": "Hi"}, item, {"role": "user", "content": "Go on"}])
        assert provider.exchanges[2].json["input"][1]["encrypted_content"] == "gAAAA-opaque"


@pytest.mark.parametrize("kind", ["responses", "anthropic"])
async def test_thoughts_whose_end_moderation_holds_are_told_once(kind: str, tmp_path: Path) -> None:
    thinking = Answer(reasoning=("One ", "two ", "three"), texts=("Done",))
    moderation = {"output": ["pii"], "on_match": "redact"}
    async with (
        FakeProvider(lambda _: reply(kind, thinking)) as provider,
        served(tmp_path, {"it": table(kind, provider)}, moderation=moderation) as (service, _),
    ):
        streamed = events(await raw(service, {"input": "Hi", "stream": True}))[-1]["response"]["output"]
    assert [(each["type"], content(each)) for each in streamed] == [("reasoning", "One two three"), ("message", "Done")]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input[0].content[0].type"),
        ({"input": "Hi", "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": "Hi", "temperature": 3}, "temperature"),
        ({"input": "Hi", "prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ],
)
async def test_a_wrong_field_is_named(body: dict[str, Any], param: str, tmp_path: Path) -> None:
    async with served(tmp_path, {"it": {"kind": "scripted", "text": "Hi"}}) as (service, _):
        error = json.loads(await raw(service, body))["error"]
    assert (error["code"], error["param"]) == ("invalid_request", param)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_one_server_encrypted_goes_out_sealed_and_comes_back_to_it_alone(tmp_path: Path, stream: bool) -> None:
    thinking = Answer(reasoning=("Hm.",), texts=("Yes.",))
    async with FakeProvider(lambda _: responding(thinking)) as one, FakeProvider(lambda _: responding(thinking)) as other:
        async with served(tmp_path, {"it": table("responses", one), "other": table("responses", other)}) as (service, sdk):
            answer = await raw(service, {"model": "it", "input": "Hi", "stream": stream})
            assert b"gAAAA" not in answer
            output = (events(answer)[-1]["response"] if stream else json.loads(answer))["output"]
            assert [(each["type"], content(each)) for each in output] == [("reasoning", "Hm."), ("message", "Yes.")]
            given: Any = [{"role": "user", "content": "Hi"}, *output, {"role": "user", "content": "Go on"}]
            for model in ("other", "it"):
                await sdk.responses.create(model=model, input=given)
        assert "gAAAA" not in json.dumps(other.exchanges[0].json)
        assert one.exchanges[1].json["input"][1]["encrypted_content"] == "gAAAA-opaque"


async def test_numbers_larger_than_64_bits_are_kept_and_gone_on_with(tmp_path: Path) -> None:
    large = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q", "seed": 2**70}}
    async with FakeProvider(responding(Answer())) as provider, served(tmp_path, {"far": table("responses", provider)}) as (service, sdk):
        first = json.loads(await raw(service, {"model": "auto", "input": [{"role": "user", "content": "Hi"}, large], "store": True}))
        kept = await sdk.responses.input_items.list(first["id"], order="asc")
        second = await sdk.responses.create(model="auto", input="And?", previous_response_id=first["id"])
        assert kept.data[1].model_dump()["action"]["seed"] == 2**70
        assert second.status == "completed"
        assert provider.exchanges[-1].json["input"][1]["action"]["seed"] == 2**70


async def test_an_item_without_an_id_is_no_stumbling_block_for_references(tmp_path: Path) -> None:
    """Servers that speak the dialect leave ids out."""
    item = {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
    async with FakeProvider(Reply(responses_steps(Answer(), [item]))) as provider, served(tmp_path, {"far": table("responses", provider)}) as (_, sdk):
        first = await sdk.responses.create(model="auto", input="Hi")
        said = first.output[-1]
        assert (said.type, first.output[0].type) == ("message", "web_search_call")
        second = await sdk.responses.create(model="auto", input=[{"type": "item_reference", "id": said.id or ""}, {"role": "user", "content": "And?"}])
        assert second.status == "completed"
