"""Prices that change with the hour."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from adapters.backend import BackendContext
from config.prices import Price
from config.settings import Settings
from policies.load import load_policy
from router.backends import load_kinds
from router.policy_in_force import ActivePolicy, known_price
from router.policy_store import PolicyVersion

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
