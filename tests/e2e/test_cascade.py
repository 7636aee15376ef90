"""A cheap answer is verified before anybody sees it, and a stronger backend answers in place of one that will not do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.dialects import FINISHED, Seen, ask
from tests.e2e.money_books import Books, settled_books
from tests.e2e.test_retries import get
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
  strong: {{kind: scripted, text: "{STRONG}", price: {{input: 10.0, output: 20.0}}, max_output_tokens: 60, breaker: null, retry: {{attempts: 1}}, {strong_keys}}}
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
