"""The database goes away while a request runs: what was answered is delivered, and what it cost is booked when the database is back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from router import gateway
from router.money import insisting
from tests.e2e.money_books import check_sums, open_calls, settled_books
from tests.e2e.test_faults import ask
from tests.serving import serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "All of it.", price: {input: 1.0, output: 4.0}, max_output_tokens: 50}
default: mini
fallback: []
"""


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_an_answer_waits_only_so_long_for_its_booking(tmp_path: Path, stream: bool, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "BOOKING_S", 0.05)
    monkeypatch.setattr(insisting, "LONGEST_WAIT_S", 0.1)
    async with serving(POLICY, tmp_path, database_url=database_url) as service, asyncio.timeout(30):
        accounting = service.gateway.accounting
        settle, back = accounting.settle, asyncio.Event()

        async def settle_when_back(*given: Any) -> None:
            if not back.is_set():
                raise OperationalError("UPDATE", None, OSError("away"))
            await settle(*given)

        monkeypatch.setattr(accounting, "settle", settle_when_back)
        seen = await ask(service.url, service.key, stream=stream)
        assert (seen.status, seen.text) == (200, "All of it.")
        assert await open_calls(service.database) == 1
        back.set()
        found = await settled_books(service.database)
    check_sums(found, "acme", {})
    (row,) = found.ledger
    assert (row["outcome"], row["cost"] > 0) == ("ok", True)
