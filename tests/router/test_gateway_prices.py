"""Prices that change with the hour."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from adapters.backend import BackendContext
from config.prices import Price
from config.settings import Settings
from policies.load import PolicyError, load_policy
from router.backends import load_kinds
from router.policy_in_force import ActivePolicy, known_price
from router.policy_store import PolicyVersion
from tests.e2e.money_books import check_sums, settled_books
from tests.serving import serving

POLICY = """
version: 1
backends:
  deep: {kind: openai, model: deepseek-chat, base_url: "https://api.deepseek.com"}
  own: {kind: openai, model: deepseek-chat, base_url: "https://api.deepseek.com", price: {input: 7, output: 8}}
default: deep
"""


def at(hour: int, minute: int) -> float:
    return datetime(2026, 11, 1, hour, minute, tzinfo=UTC).timestamp()


async def test_a_price_of_the_book_is_that_of_the_time_of_the_request(tmp_path: Path) -> None:
    load_kinds(Settings())
    version = PolicyVersion(version=1, hash="x", source="file", author="", created_at=0.0, text=POLICY, active=True)
    active = ActivePolicy(load_policy(POLICY, price_of=known_price), version, BackendContext(environ={}), tmp_path)
    try:
        day, night = active.price("deep", at(16, 29)), active.price("deep", at(16, 31))
        assert day.input > night.input > 0
        assert active.price("deep", at(12, 0)) == day
        assert active.price("own", at(12, 0)) == active.price("own", at(20, 0)) == Price(input=7, output=8)
    finally:
        await active.aclose()


DATED = """
version: 1
backends:
  mini: {kind: openai, model: gpt-5-mini, price_from: {2027-01-01: {input: 7, output: 8}, 2027-02-01: {input: 9, output: 9}}}
  local: {kind: scripted, price: {input: 1, output: 1}, price_from: {2026-11-02: {input: 2, output: 2}}}
default: mini
"""


async def test_a_dated_price_holds_from_its_day_on(tmp_path: Path) -> None:
    load_kinds(Settings())
    version = PolicyVersion(version=1, hash="x", source="file", author="", created_at=0.0, text=DATED, active=True)
    active = ActivePolicy(load_policy(DATED, price_of=known_price), version, BackendContext(environ={}), tmp_path)
    try:
        assert active.price("local", at(23, 59)).input == 1
        assert active.price("local", at(23, 59) + 61).input == 2
        book = active.price("mini", at(12, 0))
        assert 0 < book.input < 7
        assert active.price("mini", datetime(2027, 1, 31, 23, 59, tzinfo=UTC).timestamp()).input == 7
        assert active.price("mini", datetime(2027, 2, 1, tzinfo=UTC).timestamp()).input == 9
    finally:
        await active.aclose()


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("{kind: scripted, price_from: {2027-1-1: {input: 1, output: 1}}}", "'2027-1-1' is no day; write it as 2027-01-31"),
        ("{kind: scripted, price_from: {2027-02-30: {input: 1, output: 1}}}", "'2027-02-30' is no day; write it as 2027-01-31"),
        ("{kind: scripted, price: {input: 1, output: 1, second: 0.1}}", "needs total_s on this backend"),
        ("{kind: openai, model: gpt-5, total_s: 9, price: {input: 1, output: 1, second: 0.1}}", "this backend runs elsewhere"),
    ],
)
def test_a_price_that_cannot_be_charged_is_refused(backend: str, message: str) -> None:
    load_kinds(Settings())
    with pytest.raises(PolicyError, match=re.escape(message)):
        load_policy(f"version: 1\nbackends:\n  one: {backend}\ndefault: one\n", price_of=known_price)


async def test_time_on_this_machine_is_reserved_and_billed(tmp_path: Path) -> None:
    policy = """
version: 1
backends:
  gpu: {kind: scripted, text: "one two three", delay_s: 0.02, total_s: 5, price: {input: 0, output: 0, second: 0.01}}
default: gpu
tenants: {acme: {budget_usd: {month: 0.06}}}
"""
    async with serving(policy, tmp_path) as service:
        body = {"model": "auto", "messages": [{"role": "user", "content": "go"}]}
        async with aiohttp.ClientSession() as session, session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as answer:
            assert answer.status == 200
            shown = (await answer.json())["headgate"]["cost_usd"]
        books = await settled_books(service.database)
        (row,) = books.ledger
        assert row["reserved"] == 5 * 10**10
        assert 20 <= row["billed_ms"] <= 5_000
        assert row["cost"] == row["billed_ms"] * 10**7 == round(shown * 10**12)
        check_sums(books, "acme", {"month": 6 * 10**10})
