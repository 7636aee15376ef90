"""Every recorded answer of the three providers, asked for as a stream and as a whole: both cost the same, namely what the provider's own report times the
price book comes to, to the picodollar.

Of the recorded requests six stand there both ways, streamed by the provider and whole, the same but for `stream`: three of OpenAI's responses, two of
its chat completions, one of Anthropic's messages, none of Gemini's. Their answers were generated apart, so their reports differ, and a cost of one says
nothing of the other's. So each of all recordings, streamed or whole on the provider's side, is asked for in both ways on the client's side, and each
cost is held against the report in the recorded bytes, read here without the adapters, and against genai-prices' own reckoning of it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import genai_prices
import msgspec
import pytest
from sqlalchemy import select

from adapters.cost import PICODOLLARS
from adapters.price_book import price_of
from router.tables import ledger
from tests.adapters.remote.recordings import ABSENT, interactions, present
from tests.dialects import PATHS, body
from tests.e2e.money_books import check_sums, settled_books
from tests.fakes.provider import Exchange, FakeProvider, Reply
from tests.serving import Service, serving

pytestmark = pytest.mark.skipif(not present(), reason=ABSENT)

AT_ONCE = 8
BOOK = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
APIS = {"chat": "/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages", "gemini": "enerateContent"}
REPORTED = {"chat": 126, "responses": 157, "messages": 172, "gemini": 172}
"""How many recorded answers of each API are held: 627. Left out are three of responses without a report, and one of a model for images that has no price."""

Report = dict[str, int]
"""A provider's own usage, in genai-prices' words."""


@cache
def answers(api: str) -> list[dict[str, Any]]:
    """The recorded answers of an API that say what they used, `model` and `report` with them."""
    found = []
    for each in interactions():
        if each["status"] != 200 or APIS[api] not in each["path"] or each["path"].endswith(("/compact", "/count_tokens")) or each["method"] != "POST":
            continue
        documents = list(_documents(each))
        report = _report(api, documents)
        model = each["path"].partition("/models/")[2].partition(":")[0] or (each["req"] or {}).get("model")
        if report is not None and price_of(each["provider"], model) is not None:
            found.append({**each, "model": model, "report": report})
    return found


def _documents(recorded: dict[str, Any]) -> Iterator[Any]:
    if "event-stream" not in recorded["ct"]:
        yield json.loads(recorded["body"])
        return
    for line in recorded["body"].splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def _report(api: str, documents: list[Any]) -> Report | None:
    """The last report of an answer; None where it has none, or where the report says that nothing was counted."""
    match api:
        case "chat":
            said = [each["usage"] for each in documents if each.get("usage")]
            if not said:
                return None
            last, prompt, completion = said[-1], said[-1].get("prompt_tokens_details") or {}, said[-1].get("completion_tokens_details") or {}
            report = {
                "input_tokens": last["prompt_tokens"],
                "output_tokens": last["total_tokens"] - last["prompt_tokens"],  # Gemini's thoughts are in the total only
                "cache_read_tokens": prompt.get("cached_tokens") or 0,
                "cache_write_tokens": prompt.get("cache_write_tokens") or 0,
                "input_audio_tokens": prompt.get("audio_tokens") or 0,
                "output_audio_tokens": completion.get("audio_tokens") or 0,
            }
        case "responses":
            said = [usage for each in documents if (usage := (each.get("response") or each).get("usage"))]
            if not said:
                return None
            details = said[-1].get("input_tokens_details") or {}
            report = {
                "input_tokens": said[-1]["input_tokens"],
                "output_tokens": said[-1]["output_tokens"],
                "cache_read_tokens": details.get("cached_tokens") or 0,
                "cache_write_tokens": details.get("cache_write_tokens") or 0,
            }
        case "messages":
            usage: dict[str, Any] = {}
            for each in documents:
                usage |= {name: value for name, value in ((each.get("message") or each).get("usage") or {}).items() if value is not None}
            compactions = [each for each in usage.get("iterations") or () if each.get("type") == "compaction"]
            totals = Counter({name: value for name, value in usage.items() if isinstance(value, int)})
            for each in compactions:
                totals.update({name: value for name, value in each.items() if isinstance(value, int)})
            read, written = totals["cache_read_input_tokens"], totals["cache_creation_input_tokens"]
            report = {
                "input_tokens": totals["input_tokens"] + read + written,
                "output_tokens": totals["output_tokens"],
                "cache_read_tokens": read,
                "cache_write_tokens": written,
            }
        case _:
            said = [each["usageMetadata"] for each in documents if each.get("usageMetadata")]
            if not said:
                return None
            last = Counter({name: value for name, value in said[-1].items() if isinstance(value, int)})
            heard = [each["tokenCount"] for each in said[-1].get("promptTokensDetails") or () if each.get("modality") == "AUDIO" and "tokenCount" in each]
            report = {
                "input_tokens": last["promptTokenCount"] + last["toolUsePromptTokenCount"],
                "output_tokens": last["candidatesTokenCount"] + last["thoughtsTokenCount"],
                "cache_read_tokens": last["cachedContentTokenCount"],
                "input_audio_tokens": sum(heard),
            }
    return report if any(report.values()) else None


def reckoned(recorded: dict[str, Any], at: datetime) -> int:
    """In picodollars, by genai-prices itself."""
    usage = genai_prices.Usage(**{name: count for name, count in recorded["report"].items() if count})
    total = genai_prices.calc_price(usage, recorded["model"], provider_id=BOOK[recorded["provider"]], genai_request_timestamp=at).total_price
    picodollars = Decimal(total) * PICODOLLARS
    assert picodollars == int(picodollars)
    return int(picodollars)


def _replayed(recorded: dict[str, Any]) -> Reply:
    """The recorded bytes; a stream event by event."""
    steps = [recorded["body"].encode()]
    if "event-stream" in recorded["ct"]:
        steps = [f"{event}\n\n".encode() for event in recorded["body"].replace("\r\n", "\n").split("\n\n") if event.strip()]
    return Reply(steps, headers={"content-type": recorded["ct"]})


@asynccontextmanager
async def in_front_of(api: str, found: list[dict[str, Any]], home: Path) -> AsyncIterator[Service]:
    """A service with a backend for each model, at the book's price. A request says by its number which recording it wants."""

    def replay(exchange: Exchange) -> Reply:
        number = exchange.body.partition(b"recording ")[2].partition(b".")[0]
        return _replayed(found[int(number)])

    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(FakeProvider(replay))
        backends = {}
        for each in found:
            table: dict[str, Any] = {"kind": {"messages": "anthropic", "gemini": "gemini"}.get(api, "openai"), "model": each["model"]}
            table["base_url"] = provider.url + ("/v1" if table["kind"] == "openai" else "")
            table["price"] = msgspec.to_builtins(price_of(each["provider"], each["model"]))
            table |= {"retry": {"attempts": 1}, "breaker": None}
            if api == "responses":
                table["api"] = "responses"
            backends[_name(each)] = table
        policy = json.dumps({"version": 1, "backends": backends, "default": next(iter(backends)), "fallback": []})
        yield await stack.enter_async_context(serving(policy, home))


def _name(recorded: dict[str, Any]) -> str:
    return "at-" + "".join(letter if letter.isalnum() else "-" for letter in f"{recorded['provider']}-{recorded['model']}".lower())


@pytest.mark.parametrize("api", APIS)
async def test_a_recorded_answer_costs_what_its_provider_reported_streamed_or_whole(api: str, tmp_path: Path) -> None:
    found = answers(api)
    places = asyncio.Semaphore(AT_ONCE)
    requests: dict[tuple[int, bool], str] = {}

    async with in_front_of(api, found, tmp_path) as service, aiohttp.ClientSession(headers=service.bearer()) as session:

        async def ask(number: int, stream: bool) -> None:
            asked = body("chat", f"recording {number}.", stream=stream) | {"model": _name(found[number])}
            async with places, session.post(service.url + PATHS["chat"], json=asked) as answer:
                await answer.read()
                requests[number, stream] = answer.headers["x-request-id"]

        async with asyncio.TaskGroup() as group:
            for number in range(len(found)):
                for stream in (False, True):
                    group.create_task(ask(number, stream))
        books = await settled_books(service.database)
        check_sums(books, "acme", {})
        costs = await service.database.read(lambda connection: {row.request_id: row for row in connection.execute(select(ledger))})
    now = datetime.now(tz=UTC)
    assert len(books.ledger) == 2 * len(found)
    for (number, stream), request_id in requests.items():
        row, recorded = costs[request_id], found[number]
        assert row.usage_source == "provider", (recorded["id"], stream, row.outcome, row.error)
        assert row.cost == reckoned(recorded, now), (recorded["id"], stream, recorded["report"], row)
    assert len(found) == REPORTED[api]
