"""Requests that are too long for a window: refused before anything is sent, routed to one that fits, trimmed, or summarised, and it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.money_books import settled_books
from tests.fakes.provider import FakeProvider
from tests.fakes.wire import Answer, answering
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  small:  {{kind: openai, model: small, base_url: "{url}/small/v1", context_window: 300, max_output_tokens: 50, price: {{input: 1.0, output: 2.0}}}}
  large:  {{kind: openai, model: large, base_url: "{url}/large/v1", context_window: 100000, max_output_tokens: 50, price: {{input: 1.0, output: 2.0}}}}
  writer: {{kind: openai, model: writer, base_url: "{url}/writer/v1", price: {{input: 1.0, output: 2.0}}, {writer}}}
rules:
  - {{name: either, when: {{model: either}}, use: [small, large]}}
default: small
fallback: []
history: {history}
"""
SYSTEM = {"role": "system", "content": "Be brief."}
LINE = "The quick brown fox jumps over the lazy dog again and again. "


def conversation(turns: int) -> list[dict[str, Any]]:
    messages = [SYSTEM]
    for number in range(turns):
        messages += [{"role": "user", "content": f"Question {number}: {LINE}"}, {"role": "assistant", "content": f"Answer {number}: {LINE}"}]
    return [*messages, {"role": "user", "content": "The last question?"}]


async def ask(service: Service, session: aiohttp.ClientSession, messages: list[dict[str, Any]], **fields: Any) -> tuple[int, dict[str, Any], Any]:
    body = {"model": "auto", "messages": messages, **fields}
    async with session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as response:
        return response.status, await response.json(), response.headers


def policy(url: str, history: str = "{}", writer: str = "clearance: internal") -> str:
    return POLICY.format(url=url, history=history, writer=writer)


async def test_what_cannot_fit_is_refused_with_the_numbers_before_anything_is_sent(tmp_path: Path) -> None:
    async with FakeProvider(answering("openai")) as provider, serving(policy(provider.url), tmp_path) as service, aiohttp.ClientSession() as session:
        status, answer, _ = await ask(service, session, conversation(40))
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "context_length_exceeded", "messages")
        assert "window of 300" in answer["error"]["message"]
        assert not provider.exchanges
        assert not (await settled_books(service.database)).ledger


async def test_it_goes_to_the_backend_that_it_fits(tmp_path: Path) -> None:
    async with FakeProvider(answering("openai")) as provider, serving(policy(provider.url), tmp_path) as service, aiohttp.ClientSession() as session:
        status, answer, headers = await ask(service, session, conversation(40), model="either")
        assert (status, answer["headgate"]["backend"]) == (200, "large")
        assert "excluded:small:context_window" in answer["headgate"]["reasons"]
        assert answer["headgate"]["history"] is None
        assert "x-headgate-history" not in headers


async def test_a_window_that_nobody_configured_is_known_from_the_price_book(tmp_path: Path) -> None:
    text = (
        "version: 1\nbackends: {old: {kind: openai, model: gpt-4, api_key_env: TEST_API_KEY}}\ndefault: old\nfallback: []\ninput: {max_characters: 2000000}\n"
    )
    async with serving(text, tmp_path, environ={"TEST_API_KEY": "k"}) as service, aiohttp.ClientSession() as session:
        status, answer, _ = await ask(service, session, [{"role": "user", "content": LINE * 1_000}])
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert "window of 8192" in answer["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_trimming_drops_the_oldest_turns_and_says_how_many(tmp_path: Path, stream: bool) -> None:
    history = "{on_overflow: trim, keep_last: 2, target_share: 0.5}"
    async with FakeProvider(answering("openai")) as provider, serving(policy(provider.url, history), tmp_path) as service, aiohttp.ClientSession() as session:
        messages = conversation(40)
        body = {"model": "auto", "messages": messages, "stream": stream}
        async with session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as response:
            text = await response.text()
            assert response.status == 200
            said = response.headers["x-headgate-history"]
        sent = provider.exchanges[0].json["messages"]
        dropped = len(messages) - len(sent)
        assert dropped > 0
        assert sent == [SYSTEM, *messages[1 + dropped :]]
        assert sent[1]["role"] == "user"
        assert said == f"dropped_messages={dropped}; kept_messages={len(sent)}; summarised=false"
        assert f'"history":{{"dropped_messages":{dropped},"kept_messages":{len(sent)},"summarised":false}}' in text


async def test_what_fits_is_left_as_it_is_and_what_trimming_cannot_mend_is_refused(tmp_path: Path) -> None:
    history = "{on_overflow: trim, keep_last: 0}"
    async with FakeProvider(answering("openai")) as provider, serving(policy(provider.url, history), tmp_path) as service, aiohttp.ClientSession() as session:
        status, answer, headers = await ask(service, session, conversation(2))
        assert (status, answer["headgate"]["history"]) == (200, None)
        assert "x-headgate-history" not in headers
        assert provider.exchanges[0].json["messages"] == conversation(2)
        status, answer, _ = await ask(service, session, [SYSTEM, {"role": "user", "content": LINE * 100}])
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert len(provider.exchanges) == 1


async def test_a_bound_of_the_policys_own_trims_where_the_window_would_not(tmp_path: Path) -> None:
    history = "{on_overflow: trim, keep_last: 2, max_tokens: 200}"
    async with FakeProvider(answering("openai")) as provider, serving(policy(provider.url, history), tmp_path) as service, aiohttp.ClientSession() as session:
        status, answer, _ = await ask(service, session, conversation(40), model="large")
        assert status == 200
        assert answer["headgate"]["history"]["dropped_messages"] > 60


SUMMARISE = "{on_overflow: summarise, keep_last: 2, target_share: 0.6, summarise_with: writer}"
SUMMARY = "They greeted foxes and dogs."


def with_writer(exchange: Any) -> Any:
    return answering("openai", Answer(texts=[SUMMARY if "/writer/" in exchange.path else "Hello."], input_tokens=30, output_tokens=9))


async def test_a_summary_takes_the_place_of_what_was_dropped_and_is_paid_like_any_call(tmp_path: Path) -> None:
    async with FakeProvider(with_writer) as provider, serving(policy(provider.url, SUMMARISE), tmp_path) as service, aiohttp.ClientSession() as session:
        messages = conversation(12)
        status, answer, headers = await ask(service, session, messages)
        assert status == 200
        asked, sent = (exchange.json["messages"] for exchange in provider.exchanges)
        said = answer["headgate"]["history"]
        assert said["summarised"] is True
        dropped = said["dropped_messages"]
        assert "Question 0" in asked[-1]["content"]
        assert f"Question {dropped // 2 - 1}" in asked[-1]["content"]
        assert sent[0] == SYSTEM
        assert SUMMARY in sent[1]["content"]
        assert sent[2:] == messages[1 + dropped :]
        assert headers["x-headgate-history"].endswith("summarised=true")
        rows = (await settled_books(service.database)).ledger
        assert [(row["purpose"], row["backend"], row["outcome"]) for row in sorted(rows, key=lambda row: row["started_at"])] == [
            ("history", "writer", "ok"),
            ("answer", "small", "ok"),
        ]
        assert answer["headgate"]["cost_usd"] == pytest.approx(sum(row["cost"] for row in rows) / 1e12)


async def test_a_summary_that_fails_is_done_without(tmp_path: Path) -> None:
    def broken(exchange: Any) -> Any:
        return answering("openai", Answer(texts=[])) if "/writer/" in exchange.path else answering("openai")

    async with FakeProvider(broken) as provider, serving(policy(provider.url, SUMMARISE), tmp_path) as service, aiohttp.ClientSession() as session:
        status, answer, _ = await ask(service, session, conversation(12))
        assert (status, answer["headgate"]["history"]["summarised"]) == (200, False)


async def test_what_the_writer_may_not_see_it_is_not_given(tmp_path: Path) -> None:
    async with (
        FakeProvider(with_writer) as provider,
        serving(policy(provider.url, SUMMARISE, "clearance: public"), tmp_path) as service,
        aiohttp.ClientSession() as session,
    ):
        status, answer, _ = await ask(service, session, conversation(12))
        assert (status, answer["headgate"]["history"]["summarised"]) == (200, False)
        assert [exchange.path for exchange in provider.exchanges] == ["/small/v1/chat/completions"]


async def test_a_tenant_may_have_a_history_of_its_own(tmp_path: Path) -> None:
    own = "tenants: {acme: {history: {on_overflow: trim, keep_last: 2}}}\n"
    async with (
        FakeProvider(answering("openai")) as provider,
        serving(policy(provider.url) + own, tmp_path) as service,
        aiohttp.ClientSession() as session,
    ):
        status, answer, _ = await ask(service, session, conversation(40))
        assert status == 200
        assert answer["headgate"]["history"]["dropped_messages"] > 0
