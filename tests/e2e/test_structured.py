"""Answers that must be JSON: 200 malformed ones are mended or refused, whole and streamed, and none that does not fit is delivered."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import openai
import pytest
from sqlalchemy import select

from router.tables import ledger
from tests.e2e.money_books import settled_books
from tests.fakes.provider import Exchange, FakeProvider, Reply
from tests.fakes.wire import Answer, answering
from tests.serving import Service, serving

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "size": {"enum": ["small", "large"]}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city", "size", "people"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
GOOD = '{"city": "Oslo", "size": "large", "people": 717710}'
KINDS = {
    "fenced": f"```json\n{GOOD}\n```",
    "words around it": f"Here is the place you asked for:\n\n{GOOD}\n\nTell me if you need more.",
    "trailing comma": GOOD[:-1] + ",}",
    "single quotes": GOOD.replace('"', "'"),
    "truncated": GOOD[:30],
    "wrong type": GOOD.replace("717710", '"717,710"'),
    "missing key": '{"city": "Oslo", "people": 717710}',
    "extra key and a word that is none": GOOD.replace("large", "huge")[:-1] + ', "country": "Norway"}',
}
MENDED_BY_ITSELF = ("fenced", "words around it")
CASES = [(kind, number) for kind in KINDS for number in range(25)]
BACKENDS = ("native", "other")
POLICY = """
version: 1
backends:
  native: {{kind: openai, model: a-model, base_url: "{url}/v1", price: {{input: 1.0, output: 2.0}}, max_output_tokens: 100}}
  other: {{kind: anthropic, model: another, base_url: "{url}", api_key_env: TEST_API_KEY, price: {{input: 1.0, output: 2.0}}, max_output_tokens: 100}}
  spare: {{kind: openai, model: a-third, base_url: "{url}/spare/v1", price: {{input: 1.0, output: 2.0}}, max_output_tokens: 100}}
rules:
  - {{name: with-spare, when: {{model: with-spare}}, use: [native, spare]}}
default: native
fallback: []
settings: {{commit_after_s: 30}}
"""


def upstream(exchange: Exchange) -> Reply:
    """Malforms as the first message says, for as many attempts as it says; then the answer is good. Remembers nothing: the conversation tells."""
    anthropic = exchange.path.endswith("/messages")
    messages = exchange.json["messages"]
    texts = [message["content"] if isinstance(message["content"], str) else "".join(part["text"] for part in message["content"]) for message in messages]
    kind, bad = re.findall(r"kind=(.*?); bad=(\d+)", "\n".join(texts))[0]
    attempt = sum("cannot be used" in text for text in texts)
    text = GOOD if attempt >= int(bad) or "/spare/" in exchange.path else KINDS[kind]
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    return answering("anthropic" if anthropic else "openai", Answer(texts=pieces, input_tokens=40, output_tokens=20))


def asking(kind: str, bad: int, number: int, *, stream: bool, model: str = "native") -> dict[str, Any]:
    question = f"Case {number}: kind={kind}; bad={bad}"
    return {"model": model, "messages": [{"role": "user", "content": question}], "response_format": FORMAT, "stream": stream}


async def ask(session: aiohttp.ClientSession, service: Service, body: dict[str, Any]) -> tuple[int, str, dict[str, Any]]:
    """Status, the text delivered, and the last thing said: the error or the `headgate` object."""
    async with session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as response:
        if not body["stream"] or response.status != 200:
            answer = await response.json()
            return response.status, "" if "error" in answer else answer["choices"][0]["message"]["content"], answer
        lines = [line[6:] async for line in response.content if line.startswith(b"data: ")]
    assert lines.pop() == b"[DONE]\n"
    chunks = [json.loads(line) for line in lines]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk.get("choices"))
    return response.status, text, chunks[-1]


def fits(text: str) -> bool:
    try:
        return jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text))
    except ValueError:
        return False


@pytest.mark.parametrize("stream", [False, True])
async def test_of_200_malformed_answers_each_is_mended_or_refused_and_none_delivered_as_it_is(tmp_path: Path, stream: bool) -> None:
    seen: Counter[str] = Counter()
    async with (
        FakeProvider(upstream) as provider,
        serving(POLICY.format(url=provider.url), tmp_path, environ={"TEST_API_KEY": "k"}) as service,
        aiohttp.ClientSession() as session,
    ):
        gate = asyncio.Semaphore(16)

        async def one(kind: str, number: int) -> None:
            bad = number % 5  # 0: good at once; 1, 2: after as many repairs; 3, 4: never
            async with gate:
                body = asking(kind, bad, number, stream=stream, model=BACKENDS[number % 2])
                status, text, last = await ask(session, service, body)
            if bad == 0 or kind in MENDED_BY_ITSELF or bad <= 2:
                assert (status, fits(text)) == (200, True), (kind, bad, text, last)
                seen["mended"] += bad > 0
                seen["good at once"] += bad == 0
            else:
                assert (status, text, last["error"]["code"]) == (502, "", "invalid_output"), (kind, bad, text)
                assert "place" not in last["error"]["message"]
                assert last["headgate"]["cost_usd"] == pytest.approx(3 * (40 + 2 * 20) / 1e6)
                seen["refused"] += 1

        await asyncio.gather(*(one(*case) for case in CASES))
        attempts = len(provider.exchanges)
        books = await settled_books(service.database)
    assert seen == {"good at once": 40, "mended": 100, "refused": 60}
    assert len(books.ledger) == attempts, "every attempt has a row of its own"
    assert Counter(row["error"] for row in books.ledger)["invalid_output"] == attempts - 140
    assert not books.reservations


async def test_the_official_sdk_parses_what_was_mended(tmp_path: Path) -> None:
    from pydantic import BaseModel

    class Place(BaseModel):
        city: str
        size: str
        people: int

    async with (
        FakeProvider(upstream) as provider,
        serving(POLICY.format(url=provider.url), tmp_path) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk,
    ):
        answer = await sdk.chat.completions.parse(model="native", messages=[{"role": "user", "content": "kind=single quotes; bad=1"}], response_format=Place)
        assert answer.choices[0].message.parsed == Place(city="Oslo", size="large", people=717710)
        assert "structured:repairs:1" in answer.model_extra["headgate"]["reasons"]  # type: ignore[index]
        repair = provider.exchanges[1].json["messages"]
        assert [message["role"] for message in repair] == ["user", "assistant", "user"]
        assert repair[1]["content"] == KINDS["single quotes"]
        with pytest.raises(openai.InternalServerError) as refused:
            await sdk.chat.completions.parse(model="native", messages=[{"role": "user", "content": "kind=missing key; bad=9"}], response_format=Place)
        assert refused.value.code == "invalid_output"
        assert "required" in refused.value.message
        assert refused.value.response.json()["headgate"]["cost_usd"] > 0


async def test_a_backend_that_never_gets_it_right_gives_way_to_the_next(tmp_path: Path) -> None:
    async with (
        FakeProvider(upstream) as provider,
        serving(POLICY.format(url=provider.url), tmp_path) as service,
        aiohttp.ClientSession() as session,
    ):
        status, text, last = await ask(session, service, asking("wrong type", 9, 0, stream=True, model="with-spare"))
        assert (status, text) == (200, GOOD)
        assert last["headgate"]["backend"] == "spare"
        assert "structured:held" in last["headgate"]["reasons"]
        assert [exchange.path for exchange in provider.exchanges] == ["/v1/chat/completions"] * 3 + ["/spare/v1/chat/completions"]


async def test_json_mode_is_mended_and_refused_alike(tmp_path: Path) -> None:
    async with (
        FakeProvider(upstream) as provider,
        serving(POLICY.format(url=provider.url), tmp_path) as service,
        aiohttp.ClientSession() as session,
    ):
        for kind, bad, expected in (("trailing comma", 1, 200), ("wrong type", 9, 200), ("single quotes", 9, 502)):
            body = {**asking(kind, bad, 0, stream=False), "response_format": {"type": "json_object"}}
            status, text, _ = await ask(session, service, body)
            assert status == expected
            if status == 200:
                assert isinstance(json.loads(text), dict)


SCRIPTED = """
version: 1
backends:
  sure:     {{kind: scripted, text: '{text}', capabilities: {{json_schema: guaranteed}}, price: {{input: 1, output: 1}}}}
  prompted: {{kind: scripted, text: '{text}', capabilities: {{json_schema: prompted}}, directives: true}}
  none:     {{kind: scripted, text: '{text}', capabilities: {{json_schema: none}}}}
default: [none, prompted]
fallback: []
moderation: {{output: [pii], on_match: redact}}
"""
ANY = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"mail": {"type": "string"}}}, "strict": True}}


def about(text: str, **extra: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], "response_format": ANY, "stream": True, **extra}


async def test_only_an_answer_that_is_guaranteed_to_fit_flows_while_it_is_written(tmp_path: Path) -> None:
    async with serving(SCRIPTED.format(text='{"a": 1}'), tmp_path) as service, aiohttp.ClientSession() as session:
        _, text, last = await ask(session, service, about("x", model="sure"))
        assert text == '{"a": 1}'
        assert "structured:held" not in last["headgate"]["reasons"]
        loose = {**ANY, "json_schema": {**ANY["json_schema"], "strict": False}}
        _, text, last = await ask(session, service, about("x", model="sure", response_format=loose))
        assert text == '{"a": 1}'
        assert "structured:held" in last["headgate"]["reasons"]


async def test_a_backend_without_json_is_passed_over(tmp_path: Path) -> None:
    async with serving(SCRIPTED.format(text='{"a": 1}'), tmp_path) as service, aiohttp.ClientSession() as session:
        _, _, last = await ask(session, service, about("x"))
        assert last["headgate"]["backend"] == "prompted"
        assert "excluded:none:feature" in last["headgate"]["reasons"]


async def test_a_guarantee_that_is_broken_ends_in_an_error_event(tmp_path: Path) -> None:
    async with serving(SCRIPTED.format(text='{"a": 1'), tmp_path) as service, aiohttp.ClientSession() as session:
        status, text, last = await ask(session, service, about("x", model="sure"))
        assert (status, text) == (200, '{"a": 1')
        assert last["error"]["code"] == "invalid_output"
        assert last["headgate"]["cost_usd"] > 0


async def test_a_truncated_answer_is_delivered_as_such(tmp_path: Path) -> None:
    async with serving(SCRIPTED.format(text='{"a": "a long text that does not end"}'), tmp_path) as service, aiohttp.ClientSession() as session:
        status, text, last = await ask(session, service, about("x", model="prompted", max_tokens=3))
        assert (status, text) == (200, '{"a": "a lon')
        assert last["choices"][0]["finish_reason"] == "length"


async def test_a_refusal_and_a_tool_call_are_no_malformed_answers(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    async with serving(SCRIPTED.format(text='{"a": 1}'), tmp_path) as service, aiohttp.ClientSession() as session:
        status, _, last = await ask(session, service, about('[[scripted refusal="I will not."]]', model="prompted"))
        assert (status, last["choices"][0]["finish_reason"]) == (200, "stop")
        status, _, last = await ask(session, service, about("[[scripted tool=look]]", model="prompted", tools=tools))
        assert (status, last["choices"][0]["finish_reason"]) == (200, "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
async def test_moderation_that_breaks_the_form_ends_in_content_filter_and_one_that_keeps_it_is_delivered(tmp_path: Path, stream: bool) -> None:
    only_mail = {**ANY, "json_schema": {"name": "x", "schema": {"properties": {"mail": {"format": "email"}}}}}
    async with serving(SCRIPTED.format(text='{"mail": "jane.doe@example.com"}'), tmp_path) as service, aiohttp.ClientSession() as session:
        _, text, _ = await ask(session, service, about("x", stream=stream))
        assert text == '{"mail": "[EMAIL]"}'
        _, text, last = await ask(session, service, about("x", stream=stream, response_format=only_mail))
        assert not text
        assert last["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"$ref": "https://example.com/x.json"}, {"$ref": "#/$defs/none"}])
async def test_a_schema_that_is_none_is_a_400_that_names_the_field_and_nothing_is_called(tmp_path: Path, schema: dict[str, Any]) -> None:
    async with serving(SCRIPTED.format(text="{}"), tmp_path) as service, aiohttp.ClientSession() as session:
        body = about("x", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        status, _, answer = await ask(session, service, body)
        assert (status, answer["error"]["param"]) == (400, "response_format")
        assert not (await settled_books(service.database)).ledger


DIALECTS: dict[str, Any] = {
    "/v1/responses": lambda text: {"input": text, "text": {"format": {"type": "json_schema", "name": "place", "schema": SCHEMA}}},
    "/v1/messages": lambda text: {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 100,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
}


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_other_dialects_mend_and_refuse_alike(tmp_path: Path, path: str, stream: bool) -> None:
    async with (
        FakeProvider(upstream) as provider,
        serving(POLICY.format(url=provider.url), tmp_path) as service,
        aiohttp.ClientSession() as session,
    ):

        async def post(text: str) -> tuple[int, str]:
            body = {"model": "native", "stream": stream, **DIALECTS[path](text)}
            async with session.post(service.url + path, json=body, headers=service.bearer()) as response:
                return response.status, await response.text()

        status, said = await post("kind=wrong type; bad=2")
        assert status == 200
        events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
        pieces = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]  # messages has the text in pieces only
        assert "".join(pieces) == GOOD if pieces else json.dumps(GOOD)[1:-1] in said
        assert "717,710" not in said
        status, said = await post("kind=wrong type; bad=9")
        assert status == 502
        assert "717,710" not in said
        answer = json.loads(said)
        assert answer["error"]["code"] == "invalid_output"
        assert answer["headgate"]["cost_usd"] > 0


async def test_a_repair_counts_in_the_requests_max_cost(tmp_path: Path) -> None:
    async with (
        FakeProvider(upstream) as provider,
        serving(POLICY.format(url=provider.url), tmp_path) as service,
        aiohttp.ClientSession() as session,
    ):
        await ask(session, service, asking("missing key", 0, 1, stream=False))
        (row,) = await service.database.read(lambda connection: connection.execute(select(ledger)).all())
        # As much as one attempt may cost, but not as much as one has cost and another may.
        most = {"headgate": {"max_cost_usd": row.reserved * 1.1 / 10**12}}
        status, _, last = await ask(session, service, {**asking("missing key", 1, 1, stream=False), **most})
    assert (status, last["error"]["code"]) == (502, "invalid_output")
    assert len(provider.exchanges) == 2
    assert 0 < last["headgate"]["cost_usd"] <= most["headgate"]["max_cost_usd"]
