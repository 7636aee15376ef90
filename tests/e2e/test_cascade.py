"""A cheap answer is verified before anybody sees it, and a stronger backend answers in place of one that will not do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from tests.dialects import BROKEN, FINISHED, Seen, ask
from tests.e2e.money_books import Books, check_sums, settled_books
from tests.e2e.test_messages import Finding
from tests.e2e.test_retries import get
from tests.fakes.provider import Cut, Exchange, FakeProvider, Hang, Mark, Reply, Wait
from tests.fakes.wire import Answer, Call, answering, failing, openai_chunk, openai_steps
from tests.serving import Service, serving

GOOD = "The harbour was built in 1887, and the lighthouse followed two years later."
HEDGED = "I'm not sure, but the harbour may have been built in the nineteenth century."
STRONG = "It was built in 1887; the archive of the town has the contract of that year."
DIALECTS = ("chat", "responses", "messages")


def policy(cheap: str = HEDGED, *, cascade: str = "on: [cheap]", cheap_keys: str = "", strong_keys: str = "", more: str = "") -> str:
    return f"""
version: 1
backends:
  cheap: {{kind: scripted, text: "{cheap}", price: {{input: 1.0, output: 2.0}}, max_output_tokens: 60, breaker: null, retry: {{attempts: 1}}, {cheap_keys}}}
  strong: {{kind: scripted, text: "{STRONG}", price: {{input: 10, output: 20}}, max_output_tokens: 60, breaker: null, retry: {{attempts: 1}}, {strong_keys}}}
default: [cheap, strong]
fallback: []
cascade: {{{cascade}}}
{more}
"""


def rows_of(found: Books) -> dict[str, tuple[str, str]]:
    """By purpose: the backend and how it ended. Fails where one has two rows."""
    assert len({row["purpose"] for row in found.ledger}) == len(found.ledger)
    return {row["purpose"]: (row["backend"], row["outcome"]) for row in found.ledger}


async def said(service: Service, dialect: str = "chat", *, stream: bool, **fields: Any) -> tuple[Seen, dict[str, Any]]:
    """What a client saw, and the `headgate` object of the same question asked for as a whole."""
    seen = await ask(service.url, service.key, dialect, stream=stream, **fields)
    return seen, (seen.body or {}).get("headgate", {})


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_an_answer_that_hedges_is_replaced_by_the_stronger_ones(tmp_path: Path, dialect: str, stream: bool) -> None:
    async with serving(policy(), tmp_path) as service:
        seen, about = await said(service, dialect, stream=stream)
        found = await settled_books(service.database)
        metrics = await get(service, "/metrics", service.admin_key)
    assert (seen.status, seen.text) == (200, STRONG)
    assert not stream or seen.terminals == FINISHED[dialect]
    assert seen.headers["x-headgate-backend"] == "strong"
    assert rows_of(found) == {"answer": ("cheap", "ok"), "escalated": ("strong", "ok")}
    assert all(row["list_cost"] == row["cost"] for row in found.ledger), "an answer that was thrown away avoided nothing"
    assert 'headgate_cascade_total{backend="cheap",verdict="escalated"} 1.0' in metrics
    if not stream:
        assert "cascade:escalated:hedging" in about["reasons"]
        assert (about["cascade"]["verdict"], about["cascade"]["escalated_to"], about["cascade"]["failed"]) == ("escalated", "strong", ["hedging"])
        assert about["cost_usd"] == pytest.approx(sum(row["cost"] for row in found.ledger) / 1e12)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_an_answer_that_passes_is_delivered_and_nothing_else_is_called(tmp_path: Path, stream: bool) -> None:
    async with serving(policy(GOOD), tmp_path) as service:
        seen, about = await said(service, stream=stream)
        found = await settled_books(service.database)
    assert (seen.status, seen.text) == (200, GOOD)
    assert rows_of(found) == {"answer": ("cheap", "ok")}
    (row,) = found.ledger
    assert row["list_cost"] > 5 * row["cost"], "that it did not take the stronger one is what was avoided"
    if not stream:
        assert "cascade:verified" in about["reasons"]
        assert about["cascade"]["signals"]["length"] == len(GOOD)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("fault", ["provider_error@start", "backend_overloaded@first"])
async def test_where_the_stronger_one_fails_the_cheap_answer_is_delivered_and_says_so(tmp_path: Path, stream: bool, fault: str) -> None:
    code, _, at = fault.partition("@")
    async with serving(policy(strong_keys=f"fault: {{error: {code}, at: {at}}}"), tmp_path) as service:
        seen, about = await said(service, stream=stream)
        found = await settled_books(service.database)
    assert (seen.status, seen.text) == (200, HEDGED)
    assert rows_of(found) == {"answer": ("cheap", "ok"), "escalated": ("strong", "error")}
    if not stream:
        assert f"cascade:kept:{code}" in about["reasons"]
        assert about["backend"] == "cheap"


# --- the first tokens only ----------------------------------------------------------------------------------------------------------


def pieces(text: str) -> list[str]:
    return [word + " " for word in text.split()]


def upstreams(url: str, *, cascade: str = "on: [cheap]", more: str = "", cheap_keys: str = "") -> str:
    """Both backends are one fake provider's, told apart by the path."""
    return f"""
version: 1
settings: {{commit_after_s: 30}}
backends:
  cheap: {{kind: openai, model: small, base_url: "{url}/cheap/v1", price: {{input: 1, output: 2}}, max_output_tokens: 60, retry: {{attempts: 1}}, {cheap_keys}}}
  strong: {{kind: openai, model: large, base_url: "{url}/strong/v1", price: {{input: 10, output: 20}}, max_output_tokens: 60, retry: {{attempts: 1}}}}
default: [cheap, strong]
fallback: []
cascade: {{{cascade}}}
{more}
"""


def by_path(cheap: Callable[[], Reply], strong: Callable[[], Reply]) -> Callable[[Exchange], Reply]:
    return lambda exchange: cheap() if "/cheap/" in exchange.path else strong()


async def test_after_the_first_tokens_an_answer_flows_while_its_end_is_still_to_come(tmp_path: Path) -> None:
    read = asyncio.Event()
    steps = openai_steps(Answer(texts=pieces(GOOD)))
    cheap = Reply([*steps[:9], Wait(read), *steps[9:]])
    async with (
        FakeProvider(by_path(lambda: cheap, lambda: pytest.fail("the stronger one was called"))) as provider,
        serving(upstreams(provider.url, cascade="on: [cheap], stream: {first_tokens: 6}"), tmp_path) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk,
        asyncio.timeout(30),
    ):
        stream = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "When?"}], stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            if text and not read.is_set():
                assert len(text) < len(GOOD) - 20
                read.set()
    assert text.strip() == GOOD


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_first_tokens_that_fail_are_never_seen_and_their_stream_is_stopped(tmp_path: Path, dialect: str) -> None:
    cheap = Reply([*openai_steps(Answer(texts=pieces(HEDGED)))[:-3], Hang()])
    async with (
        FakeProvider(by_path(lambda: cheap, lambda: answering("openai", Answer(texts=pieces(STRONG))))) as provider,
        serving(upstreams(provider.url, cascade="on: [cheap], stream: {first_tokens: 5}"), tmp_path) as service,
        asyncio.timeout(30),
    ):
        seen = await ask(service.url, service.key, dialect, stream=True)
        await (await provider.exchange(0)).gone.wait()
        found = await settled_books(service.database)
    assert (seen.text.strip(), seen.terminals) == (STRONG, FINISHED[dialect])
    assert rows_of(found) == {"answer": ("cheap", "cancelled"), "escalated": ("strong", "ok")}
    check_sums(found, "acme", {})


async def test_where_nothing_comes_of_the_stronger_one_the_stream_that_waited_goes_on_to_its_end(tmp_path: Path) -> None:
    async with (
        FakeProvider(by_path(lambda: answering("openai", Answer(texts=pieces(HEDGED))), lambda: failing("openai", 500, "server_error"))) as provider,
        serving(upstreams(provider.url, cascade="on: [cheap], stream: {first_tokens: 5}"), tmp_path) as service,
    ):
        seen = await ask(service.url, service.key, "chat", stream=True)
        found = await settled_books(service.database)
    assert (seen.text.strip(), seen.terminals) == (HEDGED, FINISHED["chat"])
    assert rows_of(found) == {"answer": ("cheap", "ok"), "escalated": ("strong", "error")}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_stronger_answer_that_breaks_off_is_an_error_in_a_stream_and_no_answer_in_a_whole_one(tmp_path: Path, dialect: str, stream: bool) -> None:
    strong = Reply([*openai_steps(Answer(texts=pieces(STRONG)))[:5], Cut()])
    async with (
        FakeProvider(by_path(lambda: answering("openai", Answer(texts=pieces(HEDGED))), lambda: strong)) as provider,
        serving(upstreams(provider.url), tmp_path) as service,
    ):
        seen = await ask(service.url, service.key, dialect, stream=stream)
        found = await settled_books(service.database)
    assert rows_of(found) == {"answer": ("cheap", "ok"), "escalated": ("strong", "error")}
    if stream:
        assert seen.terminals == BROKEN[dialect]
        assert STRONG.startswith(seen.text.strip())
    else:
        assert (seen.status, seen.text.strip()) == (200, HEDGED)


async def test_heartbeats_flow_while_an_answer_is_held(tmp_path: Path) -> None:
    go = asyncio.Event()
    steps = openai_steps(Answer(texts=pieces(GOOD)))
    more = "settings: {commit_after_s: 0.05, heartbeat_s: 0.05}"
    async with (
        FakeProvider(by_path(lambda: Reply([*steps[:6], Wait(go), *steps[6:]]), lambda: failing("openai", 500, "x"))) as provider,
        serving(upstreams(provider.url).replace("settings: {commit_after_s: 30}", more), tmp_path) as service,
        aiohttp.ClientSession(headers=service.bearer()) as session,
        asyncio.timeout(30),
        session.post(f"{service.url}/v1/chat/completions", json={"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}) as response,
    ):
        beats = 0
        while beats < 3:
            line = await response.content.readline()
            assert not line.startswith(b"data"), "a word of it was seen before it was verified"
            beats += line.startswith(b":")
        go.set()
        rest = (await response.content.read()).decode()
    assert '"finish_reason":"stop"' in rest
    assert "cascade:verified" in rest


# --- signals over real backends ------------------------------------------------------------------------------------------------------


async def test_log_probabilities_are_asked_for_and_kept_from_the_client_who_did_not_ask(tmp_path: Path) -> None:
    cheap = "logprob: -1.5, capabilities: {logprobs: true}"
    async with serving(policy(GOOD, cascade="on: [cheap], verify: [logprob]", cheap_keys=cheap), tmp_path) as service:
        seen, about = await said(service, stream=False)
    assert (seen.text, about["reasons"][-1]) == (STRONG, "cascade:escalated:logprob")
    assert about["cascade"]["signals"] == {"logprob": -1.5}
    sure = cheap.replace("-1.5", "-0.1")
    async with serving(policy(GOOD, cascade="on: [cheap], verify: [logprob]", cheap_keys=sure), tmp_path) as service:
        seen, about = await said(service, stream=False)
        asked, _ = await said(service, stream=False, logprobs=True, model="cheap")
    assert (seen.text, about["reasons"][-1]) == (GOOD, "cascade:verified")
    assert seen.body["choices"][0]["logprobs"] is None
    assert asked.body["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.1


async def test_a_backend_that_refuses_log_probabilities_answers_without_and_is_not_asked_again(tmp_path: Path) -> None:
    def cheap(exchange: Exchange) -> Reply:
        return failing("openai", 400, "unsupported_parameter") if exchange.json.get("logprobs") else answering("openai", Answer(texts=pieces(GOOD)))

    async with FakeProvider(cheap) as provider, serving(upstreams(provider.url, cascade="on: [cheap], verify: [logprob, refusal]"), tmp_path) as service:
        for stream in (True, False):
            seen = await ask(service.url, service.key, "chat", stream=stream)
            assert (seen.status, seen.text.strip()) == (200, GOOD)
        found = await settled_books(service.database)
    assert [exchange.json.get("logprobs") for exchange in provider.exchanges] == [True, None, None]
    assert sorted((row["attempt"], row["outcome"], row["cost"] > 0) for row in found.ledger) == [(1, "error", False), (1, "ok", True), (2, "ok", True)]


async def test_a_request_that_is_malformed_either_way_is_refused_and_says_nothing_of_log_probabilities(tmp_path: Path) -> None:
    def cheap(exchange: Exchange) -> Reply:
        bad = "malformed" in exchange.body.decode()
        return failing("openai", 400, "invalid_request_error") if bad else answering("openai", Answer(texts=pieces(GOOD)))

    async with FakeProvider(cheap) as provider, serving(upstreams(provider.url, cascade="on: [cheap], verify: [logprob, refusal]"), tmp_path) as service:
        refused = await ask(service.url, service.key, "chat", "It is malformed.", stream=False)
        assert (refused.status, refused.codes) == (400, ["invalid_request"])
        await ask(service.url, service.key, "chat", stream=False)
    assert [exchange.json.get("logprobs") for exchange in provider.exchanges] == [True, None, True]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("second", "escalates"), [("After a while: the answer is 12.", False), ("The answer is 13.", True), (None, False)])
async def test_two_samples_of_the_cheap_model_must_agree(tmp_path: Path, stream: bool, second: str | None, escalates: bool) -> None:
    first = "Let me see. The answer is 12."

    def script(exchange: Exchange) -> Reply:
        if "/strong/" in exchange.path:
            return answering("openai", Answer(texts=pieces(STRONG)))
        number = sum("/cheap/" in each.path for each in provider.exchanges)
        if number == 1:
            return answering("openai", Answer(texts=pieces(first)), request_id="r1")
        return failing("openai", 503, "overloaded") if second is None else answering("openai", Answer(texts=pieces(second)), request_id="r2")

    fields = {"temperature": 0.0, "seed": 7, "stream": stream}
    async with FakeProvider(script) as provider, serving(upstreams(provider.url, cascade="on: [cheap], verify: [refusal, agreement]"), tmp_path) as service:
        seen = await ask(service.url, service.key, "chat", **fields)  # type: ignore[arg-type]
        found = await settled_books(service.database)
    assert seen.text.strip() == (STRONG if escalates else first)
    purposes = {"answer": ("cheap", "ok"), "sample": ("cheap", "ok" if second else "error")} | ({"escalated": ("strong", "ok")} if escalates else {})
    assert rows_of(found) == purposes
    sample = provider.exchanges[1].json
    assert (sample["temperature"], sample["seed"]) == (0.7, 8), "at temperature 0 and with one seed a model agrees with itself"
    assert len({exchange.headers["idempotency-key"] for exchange in provider.exchanges}) == len(provider.exchanges)
    check_sums(found, "acme", {})


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_json_that_does_not_fit_goes_to_the_stronger_one_in_place_of_a_repair(tmp_path: Path, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object", "required": ["city"]}}}
    bad, good = '{"town": "Oslo"}', '{"city": "Oslo"}'
    async with (
        FakeProvider(by_path(lambda: answering("openai", Answer(texts=[bad])), lambda: answering("openai", Answer(texts=[good])))) as provider,
        serving(upstreams(provider.url, cascade="on: [cheap], verify: [format]"), tmp_path) as service,
    ):
        seen = await ask(service.url, service.key, "chat", stream=stream, response_format=form)
        found = await settled_books(service.database)
    assert seen.text == good
    assert rows_of(found) == {"answer": ("cheap", "error"), "escalated": ("strong", "ok")}


async def test_json_that_neither_can_give_is_repaired_by_the_cheap_one_and_escalated_once(tmp_path: Path) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object", "required": ["city"]}}}
    bad, good = '{"town": "Oslo"}', '{"city": "Oslo"}'

    def script(exchange: Exchange) -> Reply:
        repair = "cannot be used" in exchange.body.decode()
        return answering("openai", Answer(texts=[good if repair else bad]))

    async with FakeProvider(script) as provider, serving(upstreams(provider.url, cascade="on: [cheap], verify: [format]"), tmp_path) as service:
        seen = await ask(service.url, service.key, "chat", stream=False, response_format=form)
        found = await settled_books(service.database)
    assert (seen.text, seen.body["headgate"]["backend"]) == (good, "cheap")
    assert "cascade:kept:invalid_output" in seen.body["headgate"]["reasons"]
    assert sorted((row["purpose"], row["attempt"], row["outcome"]) for row in found.ledger) == [
        ("answer", 1, "error"),
        ("answer", 2, "ok"),
        ("escalated", 1, "error"),
    ]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("arguments", "escalates"), [('{"city": "Oslo"}', False), ('{"city": 3}', True), ('{"city": "Os', True)])
async def test_a_tool_call_is_verified_for_its_format_only(tmp_path: Path, stream: bool, arguments: str, escalates: bool) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    cheap = Answer(texts=[], calls=[Call("call_1", "weather", [arguments[:5], arguments[5:]])])
    strong = Answer(texts=[], calls=[Call("call_2", "weather", ['{"city": "Bergen"}'])])
    async with (
        FakeProvider(by_path(lambda: answering("openai", cheap), lambda: answering("openai", strong))) as provider,
        serving(upstreams(provider.url, cascade="on: [cheap], min_characters: 20"), tmp_path) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk,
    ):
        said = ""
        asked: Any = {"model": "auto", "messages": [{"role": "user", "content": "Weather?"}], "tools": tools}
        if stream:
            async for chunk in await sdk.chat.completions.create(**asked, stream=True):
                said += "".join(call.function.arguments or "" for choice in chunk.choices for call in choice.delta.tool_calls or [])
        else:
            (call,) = (await sdk.chat.completions.create(**asked)).choices[0].message.tool_calls
            said = call.function.arguments
        found = await settled_books(service.database)
    assert json.loads(said) == ({"city": "Bergen"} if escalates else {"city": "Oslo"})
    assert set(rows_of(found)) == ({"answer", "escalated"} if escalates else {"answer"})


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("borne_out", [True, False])
async def test_a_grounded_answer_must_cite_what_was_found_and_the_delivered_one_keeps_its_citations(tmp_path: Path, stream: bool, borne_out: bool) -> None:
    finding: Any = Finding()
    cheap = "The battery is covered for three years" + (" [1]." if borne_out else ", I believe. Nothing else is covered at all.")
    strong = "Covered for three years is the battery [1]."
    text = policy(cheap, cascade="on: [cheap], verify: [citations]").replace(STRONG, strong)
    async with serving(text, tmp_path, compute=finding) as service, aiohttp.ClientSession(headers=service.bearer()) as session:
        async with session.post(f"{service.url}/v1/vector_stores", json={"name": "manuals"}) as response:
            store = (await response.json())["id"]
        tools = [{"type": "file_search", "vector_store_ids": [store]}]
        seen, about = await said(service, stream=stream, tools=tools)
    assert seen.text == (cheap if borne_out else strong)
    if not stream:
        assert about["reasons"][-1] == ("cascade:verified" if borne_out else "cascade:escalated:citations")
        (citation,) = about["citations"]
        assert citation["quote"] == "The battery is covered for three years."
        assert seen.text[citation["answer_start"] : citation["answer_end"]] == seen.text.removesuffix(" [1].")


async def test_a_refusal_and_an_answer_that_was_cut_off_are_replaced(tmp_path: Path) -> None:
    for cheap, keys, code in (
        (GOOD, "refusal: I will not say.", "refusal"),
        ("I’m sorry, but I can’t help with that.", "", "refusal"),
        (GOOD, "finish: length", "length:cut"),
        ("", "", "length:short"),
    ):
        async with serving(policy(cheap, cheap_keys=keys), tmp_path / code / keys[:3]) as service:
            seen, about = await said(service, stream=False)
        assert (seen.text, about["reasons"][-1]) == (STRONG, f"cascade:escalated:{code}")


# --- what must hold ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_what_is_delivered_is_moderated_whoever_said_it(tmp_path: Path, stream: bool) -> None:
    mail = "Write to jane.doe@example.com about it."
    more = "moderation: {output: [pii], on_match: redact}"
    both = policy(f"I am not sure. {mail}", more=more, strong_keys="fault: {at: start}")
    async with serving(both, tmp_path) as service:
        seen, _ = await said(service, stream=stream)
    assert seen.text == "I am not sure. Write to [EMAIL] about it."
    async with serving(both.replace(STRONG, mail).replace(", fault: {at: start}", ""), tmp_path / "2") as service:
        seen, _ = await said(service, stream=stream)
    assert seen.text == "Write to [EMAIL] about it."


async def test_a_budget_or_a_bound_of_the_requests_own_that_holds_no_second_answer_keeps_the_cheap_one(tmp_path: Path) -> None:
    async with serving(policy(), tmp_path) as service:
        most = (await explain(service, {"model": "strong", "headgate": {"max_cost_usd": 1}}))["upper_cost_usd"]
        seen, about = await said(service, stream=False, headgate={"max_cost_usd": most * 1.005})
        assert (seen.text, about["reasons"][-1]) == (HEDGED, "cascade:kept:max_cost")
        assert about["cascade"]["failed"] == ["hedging"]
        seen, about = await said(service, stream=False, headgate={"max_cost_usd": most * 0.9})
        assert (seen.text, about["reasons"][-1]) == (HEDGED, "cascade:off:max_cost")
        seen, about = await said(service, stream=False, headgate={"max_cost_usd": most * 2})
        assert seen.text == STRONG
    more = "tenants: {acme: {budget_usd: {month: 0.0004}}}"
    async with serving(policy(cascade="on: [cheap], to: strong", more=more).replace("[cheap, strong]", "cheap"), tmp_path / "2") as service:
        seen, about = await said(service, stream=False)
        found = await settled_books(service.database)
    assert (seen.text, about["reasons"][-1]) == (HEDGED, "cascade:kept:budget")
    assert rows_of(found) == {"answer": ("cheap", "ok")}


async def test_a_lock_a_pin_a_keys_list_and_a_clearance_leave_no_one_to_escalate_to(tmp_path: Path) -> None:
    more = """
rules: [{name: home, when: {data_class: confidential}, use: [cheap], lock: true}]
"""
    async with serving(policy(cascade="on: [cheap], to: [strong]", more=more), tmp_path) as service:
        locked, about = await said(service, stream=False, headgate={"data_class": "confidential"})
        assert (locked.text, about["reasons"][-1]) == (HEDGED, "cascade:off:lock")
        pinned, about = await said(service, stream=False, model="cheap")
        assert (pinned.text, about["cascade"]) == (HEDGED, None)
        found = await settled_books(service.database)
        assert {row["backend"] for row in found.ledger} == {"cheap"}
        explained = await explain(service, {"headgate": {"data_class": "confidential"}})
        assert explained["cascade"] == {"on": ["cheap"], "to": [], "off": "lock"}
        assert (await explain(service))["cascade"] == {"on": ["cheap"], "to": ["strong"], "off": ""}


async def explain(service: Service, fields: dict[str, Any] | None = None) -> Any:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Count."}], **(fields or {})}
    async with aiohttp.ClientSession(headers=service.bearer()) as session, session.post(f"{service.url}/v1/route/explain", json=body) as response:
        return await response.json()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_with_no_escalations_answers_are_watched_and_nothing_is_held(tmp_path: Path, stream: bool) -> None:
    async with serving(policy(cascade="on: [cheap], max_escalations: 0"), tmp_path) as service:
        seen, about = await said(service, stream=stream)
        metrics = await get(service, "/metrics", service.admin_key)
    assert seen.text == HEDGED
    assert 'headgate_cascade_total{backend="cheap",verdict="kept"} 1.0' in metrics
    if not stream:
        assert about["reasons"][-1] == "cascade:kept:max_escalations"
        assert about["cascade"]["failed"] == ["hedging"]


async def test_an_answer_of_which_no_signal_is_known_is_not_called_verified(tmp_path: Path) -> None:
    async with serving(policy(GOOD, cascade="on: [cheap], verify: [logprob, citations]"), tmp_path) as service:
        seen, about = await said(service, stream=False)
    assert (seen.text, about["reasons"][-1]) == (GOOD, "cascade:kept:unchecked")


async def test_a_client_that_leaves_while_the_stronger_one_answers_stops_it_and_both_are_booked(tmp_path: Path) -> None:
    begun = asyncio.Event()
    strong = Reply([openai_chunk({"role": "assistant", "content": ""}), Mark(begun), Hang()])
    async with (
        FakeProvider(by_path(lambda: answering("openai", Answer(texts=pieces(HEDGED))), lambda: strong)) as provider,
        serving(upstreams(provider.url), tmp_path) as service,
        asyncio.timeout(30),
    ):
        asking = asyncio.create_task(ask(service.url, service.key, "chat", stream=True))
        await begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await (await provider.exchange(1)).gone.wait()
        found = await settled_books(service.database)
    assert rows_of(found) == {"answer": ("cheap", "ok"), "escalated": ("strong", "cancelled")}
    check_sums(found, "acme", {})


async def test_a_hedge_of_the_cheap_one_is_verified_like_it(tmp_path: Path) -> None:
    def script(exchange: Exchange) -> Reply:
        if "/strong/" in exchange.path:
            return answering("openai", Answer(texts=pieces(STRONG)))
        return Reply([Hang()]) if len(provider.exchanges) == 1 else answering("openai", Answer(texts=pieces(HEDGED)))

    async with (
        FakeProvider(script) as provider,
        serving(upstreams(provider.url, cheap_keys="hedge: {after_s: 0.05}"), tmp_path) as service,
        asyncio.timeout(30),
    ):
        seen = await ask(service.url, service.key, "chat", stream=True)
        found = await settled_books(service.database)
    assert seen.text.strip() == STRONG
    assert rows_of(found) == {"answer": ("cheap", "cancelled"), "hedge": ("cheap", "ok"), "escalated": ("strong", "ok")}


async def test_what_was_waited_for_the_cheap_answer_is_no_overhead_of_the_services_own(tmp_path: Path) -> None:
    async with serving(policy(cheap_keys="first_delay_s: 0.4"), tmp_path) as service:
        seen, _ = await said(service, stream=True)
    assert seen.text == STRONG
    assert float(seen.headers["x-headgate-overhead-ms"]) < 300


async def test_the_official_clients_see_one_answer_with_its_usage(tmp_path: Path) -> None:
    async with (
        serving(policy(), tmp_path) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk,
        anthropic.AsyncAnthropic(base_url=service.url, api_key=service.key, max_retries=0) as claude,
    ):
        whole = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "When?"}])
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (STRONG, "stop")
        assert whole.usage is not None
        assert whole.usage.completion_tokens == -(-len(STRONG) // 4), "of the answer that was delivered"
        answer = await sdk.responses.create(model="auto", input="When?", store=False)
        assert answer.output_text == STRONG
        async with sdk.responses.stream(model="auto", input="When?", store=False) as events:
            assert (await events.get_final_response()).output_text == STRONG
        message = await claude.messages.create(model="auto", max_tokens=50, messages=[{"role": "user", "content": "When?"}])
        assert [block.text for block in message.content if block.type == "text"] == [STRONG]
        async with claude.messages.stream(model="auto", max_tokens=50, messages=[{"role": "user", "content": "When?"}]) as stream:
            assert await stream.get_final_text() == STRONG
