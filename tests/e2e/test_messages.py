"""Anthropic's dialect with the official SDK, on a real socket, whichever provider answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message, MessageParam
from pydantic import BaseModel

from adapters.backend import BackendSpec
from adapters.types import AttemptRecord, BackendHealth, Event, GenerateRequest, Passage
from retrieval.values import SearchRequest, SearchResult
from tests.fakes.provider import Exchange, FakeProvider, Reply
from tests.fakes.wire import Answer, Call, answering, failing
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello there, my friend.", price: {input: 1.0, output: 4.0}, directives: true}
default: mini
"""

TOOL: Any = {"name": "weather", "description": "The weather of a city.", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
HI: list[MessageParam] = [{"role": "user", "content": "Hi"}]


def client(service: Service, key: str | None = None) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=service.url, api_key=key or service.key, max_retries=0)


@asynccontextmanager
async def in_front_of(kind: str, script: Any, home: Path, **table: Any) -> AsyncIterator[tuple[Service, anthropic.AsyncAnthropic, FakeProvider]]:
    """A service whose one backend is a faked provider of that kind, and the SDK in front of it."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(FakeProvider(script))
        model = {"openai": "gpt-5-mini", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}[kind]
        backend = {"kind": kind, "model": model, "base_url": provider.url + ("/v1" if kind == "openai" else ""), "price": {"input": 1, "output": 1}, **table}
        policy = json.dumps({"version": 1, "backends": {"far": backend}, "default": "far", "fallback": []})
        service = await stack.enter_async_context(serving(policy, home))
        yield service, await stack.enter_async_context(client(service)), provider


async def streamed(sdk: anthropic.AsyncAnthropic, **request: Any) -> tuple[Message, list[Any]]:
    """The final message as the SDK's stream helper puts it together, and the events."""
    async with sdk.messages.stream(**request) as stream:
        events = [event async for event in stream]
        return await stream.get_final_message(), events


async def answered(sdk: anthropic.AsyncAnthropic, stream: bool, **request: Any) -> Message:
    if stream:
        message, _ = await streamed(sdk, **request)
        return message
    made: Message = await sdk.messages.create(**request)
    return made


KINDS = ["openai", "anthropic", "gemini"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_text_and_usage_are_the_same_from_every_provider(tmp_path: Path, kind: str, stream: bool) -> None:
    answer = Answer(input_tokens=12, cached=4, output_tokens=7)
    async with in_front_of(kind, answering(kind, answer), tmp_path) as (_, sdk, _provider):
        message = await answered(sdk, stream, model="auto", max_tokens=100, system="Be brief.", messages=HI)
        assert [(block.type, getattr(block, "text", "")) for block in message.content] == [("text", "Hello, world.")]
        assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
        usage = message.usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (8, 4, 7)
        assert message.model == "served-model"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_parallel_tool_calls_and_their_results_make_a_loop(tmp_path: Path, kind: str, stream: bool) -> None:
    calls = [Call("call_1", "weather", ['{"city":', ' "Oslo"}']), Call("call_2", "weather", ['{"city": "Rome"}'])]
    script = [answering(kind, Answer(texts=["Let me see."], calls=calls)), answering(kind)]
    async with in_front_of(kind, script, tmp_path) as (_, sdk, provider):
        asked: dict[str, Any] = {"model": "auto", "max_tokens": 100, "tools": [TOOL]}
        first = await answered(sdk, stream, messages=HI, **asked)
        assert first.stop_reason == "tool_use"
        uses = [block for block in first.content if block.type == "tool_use"]
        assert [(use.name, use.input) for use in uses] == [("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})]
        results: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": f"sunny {place}"} for place, use in enumerate(uses)]
        turns: Any = [*HI, {"role": "assistant", "content": [block.to_dict() for block in first.content]}, {"role": "user", "content": results}]
        second = await answered(sdk, stream, messages=turns, **asked)
        assert second.content[0].type == "text"
        sent = (await provider.exchange(1)).body.decode()
        assert "sunny 0" in sent
        assert "sunny 1" in sent
        assert "Oslo" in sent


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_goes_back_to_the_provider_that_thought_with_its_own_signature(tmp_path: Path, stream: bool) -> None:
    first = answering("anthropic", Answer(reasoning=["let me ", "see"], calls=[Call("t1", "weather", ["{}"])]))
    async with in_front_of("anthropic", [first, answering("anthropic")], tmp_path) as (_, sdk, provider):
        asked: dict[str, Any] = {"model": "auto", "max_tokens": 4000, "tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}}
        message = await answered(sdk, stream, messages=HI, **asked)
        thought = message.content[0]
        assert thought.type == "thinking"
        assert (thought.thinking, thought.signature) == ("let me see", "c2ln")
        result: Any = [{"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}]
        await answered(
            sdk,
            stream,
            messages=[*HI, {"role": "assistant", "content": [block.to_dict() for block in message.content]}, {"role": "user", "content": result}],
            **asked,
        )
        body = (await provider.exchange(1)).json
        assert body["thinking"] == {"type": "enabled", "budget_tokens": 1024}
        assert body["messages"][1]["content"][0] == {"type": "thinking", "thinking": "let me see", "signature": "c2ln"}


async def test_thoughts_that_moderation_changed_go_back_sealed_and_arrive_whole(tmp_path: Path) -> None:
    first = answering("anthropic", Answer(reasoning=["ask jane.doe@", "example.com"], texts=["Ask jane.doe@example.com"]))
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(FakeProvider([first, answering("anthropic")]))
        policy = f"""
version: 1
backends: {{claude: {{kind: anthropic, model: claude-sonnet-4-5, base_url: "{provider.url}", price: {{input: 1, output: 1}}}}}}
default: claude
moderation: {{output: [pii], on_match: redact}}
"""
        service = await stack.enter_async_context(serving(policy, tmp_path))
        sdk = await stack.enter_async_context(client(service))
        message, _ = await streamed(sdk, model="auto", max_tokens=100, messages=HI)
        assert "jane.doe" not in message.to_json()
        assert [block.type for block in message.content] == ["thinking", "text"]
        await sdk.messages.create(model="auto", max_tokens=100, messages=[*HI, message.to_param(), {"role": "user", "content": "Go on"}])
        (thought, _text) = (await provider.exchange(1)).json["messages"][1]["content"]
        assert thought == {"type": "thinking", "thinking": "ask jane.doe@example.com", "signature": "c2ln"}


@pytest.mark.parametrize("stream", [False, True])
async def test_another_providers_opaque_parts_come_back_to_it_alone(tmp_path: Path, stream: bool) -> None:
    parts = [{"text": "hm", "thought": True}, {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "c2ln"}]
    body = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2},
    }
    script = [Reply([f"data: {json.dumps(body)}\r\n\r\n".encode()]), answering("gemini")]
    async with in_front_of("gemini", script, tmp_path) as (_, sdk, provider):
        message = await answered(sdk, stream, model="auto", max_tokens=100, tools=[TOOL], messages=HI)
        assert sum(block.type == "thinking" and block.signature.startswith("hgs1.") for block in message.content) >= 1
        call = next(block for block in message.content if block.type == "tool_use")
        result: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]
        await answered(sdk, stream, model="auto", max_tokens=100, tools=[TOOL], messages=[*HI, message.to_param(), {"role": "user", "content": result}])
        assert '"thoughtSignature":"c2ln"' in (await provider.exchange(1)).body.decode().replace('": "', '":"')


class City(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize("kind", KINDS)
async def test_a_schema_is_kept_and_parsed_by_the_sdk(tmp_path: Path, kind: str) -> None:
    async with in_front_of(kind, answering(kind, Answer(texts=['{"name": "Oslo",', ' "people": 700000}'])), tmp_path) as (_, sdk, _provider):
        message = await sdk.messages.parse(model="auto", max_tokens=100, messages=HI, output_format=City)
        assert message.parsed_output == City(name="Oslo", people=700000)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_schema_under_its_name_of_the_beta_is_kept_too(tmp_path: Path, kind: str) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False}
    async with in_front_of(kind, answering(kind, Answer(texts=['{"name": "Oslo"}'])), tmp_path) as (_, sdk, provider):
        await sdk.messages.create(model="auto", max_tokens=100, messages=HI, extra_body={"output_format": {"type": "json_schema", "schema": schema}})
        assert '"required":["name"]' in (await provider.exchange()).body.decode().replace('": [', '":[')


async def test_the_stream_is_spoken_as_anthropic_speaks_it(tmp_path: Path) -> None:
    answer = Answer(reasoning=["hm"], texts=["a", "b"], calls=[Call("t1", "weather", ['{"city"', ': "Oslo"}'])])
    async with in_front_of("anthropic", answering("anthropic", answer), tmp_path) as (_, sdk, _provider):
        stream = await sdk.messages.create(model="auto", max_tokens=100, messages=HI, tools=[TOOL], stream=True)
        events = [event async for event in stream]
        kinds = [event.type + (f":{event.delta.type}" if event.type == "content_block_delta" else "") for event in events]
        assert kinds == [
            "message_start",
            *("content_block_start", "content_block_delta:thinking_delta", "content_block_delta:signature_delta", "content_block_stop"),
            *("content_block_start", "content_block_delta:text_delta", "content_block_delta:text_delta", "content_block_stop"),
            *("content_block_start", "content_block_delta:input_json_delta", "content_block_delta:input_json_delta", "content_block_stop"),
            *("message_delta", "message_stop"),
        ]
        about: Any = events[-2]
        assert about.headgate["backend"] == "far"
        assert about.usage.output_tokens == 7


class Weather:
    """What the tool runner's tool saw."""

    def __init__(self) -> None:
        self.cities: list[str] = []


async def test_the_sdks_tool_runner_sends_the_history_itself_once_it_is_told_to(tmp_path: Path) -> None:
    seen = Weather()

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """The weather of a city."""
        seen.cities.append(city)
        return f"sunny in {city}"

    def script(exchange: Exchange) -> Reply:
        done = b"sunny in Oslo" in exchange.body
        return answering("anthropic", Answer(texts=["Sunny."]) if done else Answer(calls=[Call("t1", "weather", ['{"city": "Oslo"}'])]))

    statuses: list[tuple[int, bool]] = []

    async def note(response: httpx2.Response) -> None:
        statuses.append((response.status_code, b'"thread"' in response.request.content))

    hooked = anthropic.DefaultAsyncHttpxClient(event_hooks={"response": [note]})
    async with hooked, in_front_of("anthropic", script, tmp_path) as (_, plain, provider):
        sdk = plain.with_options(http_client=hooked)
        runner = sdk.beta.messages.tool_runner(model="auto", max_tokens=100, tools=[weather], messages=[{"role": "user", "content": "Weather in Oslo?"}])
        final = await runner.until_done()
        assert final.content[0].type == "text"
        assert final.content[0].text == "Sunny."
        assert seen.cities == ["Oslo"]
        assert statuses == [(400, True), (200, False), (200, False)]
        last = (await provider.exchange(1)).json
        assert [turn["role"] for turn in last["messages"]] == ["user", "assistant", "user"]
        assert "thread" not in last


async def test_a_kept_thread_is_refused_in_the_words_that_the_sdk_understands(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service, client(service) as sdk:
        with pytest.raises(anthropic.BadRequestError) as raised:
            await sdk.messages.create(model="auto", max_tokens=10, messages=HI, extra_body={"thread": {"type": "create"}})
        body: Any = raised.value.body
        assert body["error"]["details"] == {"error_code": "thread_unsupported_request"}


async def test_tokens_are_counted_without_a_call_or_a_bill(tmp_path: Path) -> None:
    async with in_front_of("anthropic", [], tmp_path) as (_, sdk, provider):
        short = await sdk.messages.count_tokens(model="auto", messages=HI)
        long = await sdk.messages.count_tokens(model="auto", messages=[{"role": "user", "content": "many words " * 500}], system="Be brief.")
        assert 0 < short.input_tokens < 50 < long.input_tokens < 4_000
        assert provider.exchanges == []


ERRORS = [
    ({"messages": HI}, 400, "invalid_request_error", "max_tokens"),
    ({"max_tokens": 0, "messages": HI}, 400, "invalid_request_error", "max_tokens"),
    ({"max_tokens": 9, "messages": []}, 400, "invalid_request_error", "messages"),
    ({"max_tokens": 9, "messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_request_error", "messages[0].role"),
    ({"max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "invalid_request_error", "messages[0].content[0].text"),
    (
        {"max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "x"}}]}]},
        400,
        "invalid_request_error",
        "messages[0].content[0].source.media_type",
    ),
    ({"max_tokens": 9, "messages": HI, "tools": [{"name": "f"}]}, 400, "invalid_request_error", "tools[0].input_schema"),
    ({"max_tokens": 9, "messages": HI, "thinking": {"type": "enabled"}}, 400, "invalid_request_error", "thinking.budget_tokens"),
    ({"max_tokens": 9, "messages": HI, "headgate": {"colour": "red"}}, 400, "invalid_request_error", "headgate.colour"),
    ({"max_tokens": 9, "messages": HI, "model": "nobody"}, 404, "not_found_error", "model"),
]


@pytest.mark.parametrize(("fields", "status", "kind", "param"), ERRORS)
async def test_what_is_wrong_is_named_in_anthropics_shape(tmp_path: Path, fields: dict[str, Any], status: int, kind: str, param: str) -> None:
    async with serving(POLICY, tmp_path) as service, httpx2.AsyncClient(base_url=service.url, headers={"x-api-key": service.key}) as http:
        response = await http.post("/v1/messages", json={"model": "auto", **fields})
        assert response.status_code == status, response.text
        body = response.json()
        assert (body["type"], body["error"]["type"], body["error"]["param"]) == ("error", kind, param)
        assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]


async def test_errors_of_every_layer_have_anthropics_shape(tmp_path: Path) -> None:
    async with serving("settings: {max_body_mb: 1}\n" + POLICY, tmp_path) as service, httpx2.AsyncClient(base_url=service.url) as http:
        key = {"x-api-key": service.key}
        answers = [
            (await http.post("/v1/messages", json={}), 401, "authentication_error"),
            (await http.post("/v1/messages", json={}, headers={"x-api-key": "hg-nobody"}), 401, "authentication_error"),
            (await http.get("/v1/messages", headers=key), 405, "invalid_request_error"),
            (await http.post("/v1/messages/batches", headers=key), 404, "not_found_error"),
            (await http.post("/v1/messages", content=b"{", headers=key), 400, "invalid_request_error"),
            (await http.post("/v1/messages", content=b"x" * (2**20 + 1), headers=key), 413, "request_too_large"),
        ]
        for response, status, kind in answers:
            assert response.status_code == status, response.text
            body = response.json()
            assert (body["type"], body["error"]["type"]) == ("error", kind)
            assert body["request_id"]
        ours = (await http.post("/v1/chat/completions", json={})).json()
        assert set(ours) == {"error"}


@pytest.mark.parametrize(
    ("status", "code", "raised"),
    [
        (429, "rate_limit_error", anthropic.RateLimitError),
        (529, "overloaded_error", anthropic.APIStatusError),
        (500, "api_error", anthropic.InternalServerError),
        (400, "invalid_request_error", anthropic.BadRequestError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_providers_failure_is_the_sdks_own_exception(tmp_path: Path, status: int, code: str, raised: type[Exception], stream: bool) -> None:
    async with in_front_of("anthropic", lambda _: failing("anthropic", status, code), tmp_path) as (_, sdk, _provider):
        with pytest.raises(raised):
            await answered(sdk, stream, model="auto", max_tokens=10, messages=HI)


async def test_a_stream_that_breaks_ends_with_an_error_event(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service, client(service) as sdk:
        with pytest.raises(anthropic.APIStatusError) as raised:
            await streamed(sdk, model="auto", max_tokens=100, messages=[{"role": "user", "content": "[[scripted fault=provider_error@2]]"}])
        body: Any = raised.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "api_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_reasons_to_stop_have_anthropics_words(tmp_path: Path, stream: bool) -> None:
    words = {"length": "max_tokens", "content_filter": "refusal", "stop": "end_turn"}
    for openai_word, anthropic_word in words.items():
        async with in_front_of("openai", answering("openai", Answer(finish=openai_word)), tmp_path / openai_word) as (_, sdk, _provider):
            assert (await answered(sdk, stream, model="auto", max_tokens=10, messages=HI)).stop_reason == anthropic_word
    for word in ("pause_turn", "model_context_window_exceeded", "stop_sequence", "refusal", "max_tokens"):
        async with in_front_of("anthropic", answering("anthropic", Answer(finish=word)), tmp_path / word) as (_, sdk, _provider):
            assert (await answered(sdk, stream, model="auto", max_tokens=10, messages=HI)).stop_reason == word


class Finding:
    """A compute process that finds one passage, whatever is asked."""

    async def search(self, request: SearchRequest) -> SearchResult:
        text = "The battery is covered for three years."
        passage = Passage("c1", "file_1", "warranty.pdf", text, 100, 100 + len(text), page=2, score=1.0, similarity=0.9)
        return SearchResult(passages=(passage,), data_class="internal")

    def generate(self, spec: BackendSpec, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        raise NotImplementedError

    async def health(self, spec: BackendSpec, /) -> BackendHealth:
        return BackendHealth(ready=False)

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("stream", [False, True])
async def test_documents_are_cited_in_anthropics_form(tmp_path: Path, stream: bool) -> None:
    finding: Any = Finding()
    async with serving("version: 1\ndefault: extractive\n", tmp_path, compute=finding) as service, client(service) as sdk:
        async with httpx2.AsyncClient(base_url=service.url, headers=service.bearer()) as http:
            store = (await http.post("/v1/vector_stores", json={"name": "manuals"})).json()["id"]
        tools: Any = [{"type": "file_search", "vector_store_ids": [store], "max_num_results": 3}]
        asked: list[MessageParam] = [{"role": "user", "content": "How long is the battery covered?"}]
        message = await answered(sdk, stream, model="auto", max_tokens=200, messages=asked, tools=tools)
        (block,) = message.content
        assert block.type == "text"
        assert block.citations is not None
        (citation,) = block.citations
        assert citation.type == "page_location"
        assert (citation.cited_text, citation.document_title, citation.start_page_number, citation.end_page_number) == (
            "The battery is covered for three years.", "warranty.pdf", 2, 3,
        )  # fmt: skip
        with pytest.raises(anthropic.APIStatusError) as raised:
            await sdk.messages.create(model="auto", max_tokens=9, messages=asked, tools=[{"type": "file_search", "vector_store_ids": ["vs_none"]}])  # type: ignore[list-item]
        body: Any = raised.value.body
        assert (raised.value.status_code, body["error"]["param"]) == (404, "tools[0].vector_store_ids")


async def test_a_silent_stream_is_kept_alive_with_pings(tmp_path: Path) -> None:
    policy = "settings: {commit_after_s: 0.05, heartbeat_s: 0.05}\n" + POLICY.replace("directives: true", "first_delay_s: 0.3")
    async with serving(policy, tmp_path) as service, client(service) as sdk:
        async with httpx2.AsyncClient(base_url=service.url, headers=service.bearer()) as http:
            raw = (await http.post("/v1/messages", json={"model": "auto", "max_tokens": 9, "messages": HI, "stream": True})).text
        assert raw.startswith('event: ping\ndata: {"type":"ping"}\n\n')
        message, _ = await streamed(sdk, model="auto", max_tokens=100, messages=HI)
        assert message.content[0].type == "text"


async def test_images_and_pdfs_reach_the_provider_in_its_own_words(tmp_path: Path) -> None:
    content: Any = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}, "title": "a.pdf"},
        {"type": "text", "text": "What is this?"},
    ]
    for kind, words in (("anthropic", ['"media_type":"image/png"', '"title":"a.pdf"']), ("openai", ["data:image/png;base64,aGk="]), ("gemini", ["image/png"])):
        asked = content if kind == "anthropic" else [content[0], content[2]]
        async with in_front_of(kind, answering(kind), tmp_path / kind) as (_, sdk, provider):
            await sdk.messages.create(model="auto", max_tokens=100, messages=[{"role": "user", "content": asked}])
            sent = (await provider.exchange()).body.decode()
            assert all(word in sent for word in words)


async def test_hints_and_the_headgate_object_travel_in_the_dialect(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service, client(service) as sdk:
        message: Any = await sdk.messages.create(model="auto", max_tokens=100, messages=HI, extra_body={"headgate": {"explain": True}, "temperature": 0.5})
        assert message.headgate["backend"] == "mini"
        assert message.headgate["decision"]["candidates"] == ["mini"]
        with pytest.raises(anthropic.APIStatusError) as raised:
            await sdk.messages.create(model="auto", max_tokens=100, messages=HI, extra_body={"headgate": {"max_cost_usd": 0.0}})
        assert raised.value.status_code == 402
        body: Any = raised.value.body
        assert (body["error"]["type"], body["error"]["code"]) == ("billing_error", "budget_exceeded")
