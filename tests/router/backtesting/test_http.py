"""`POST /admin/policy/backtest` on a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from router.audit.tables import audit_log
from router.backtesting.running import alone
from tests.policies.backtest.simulator import BACKENDS
from tests.serving import Service, serving

RULES = "rules: [{name: mixed, use: {weighted: {weak: 80, strong: 20}}}]\n"
CANDIDATE = BACKENDS + "rules: [{name: all, use: [strong]}]\n"


async def asked(service: Service, query: str = "", body: str = CANDIDATE, key: str | None = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(headers=service.bearer(key or service.admin_key)) as session,
        session.post(f"{service.url}/admin/policy/backtest{query}", data=body) as answer,
    ):
        return answer.status, await answer.json()


async def chat(service: Service, count: int) -> None:
    async with aiohttp.ClientSession(headers=service.bearer()) as session:
        for number in range(count):
            body = {"model": "auto", "messages": [{"role": "user", "content": f"What is {number} and one?"}], "headgate": {"seed": number}}
            async with session.post(f"{service.url}/v1/chat/completions", json=body) as answer:
                assert answer.status == 200


async def test_requests_that_were_answered_just_now_are_decided_again_exactly_and_costed(tmp_path: Path) -> None:
    async with serving(BACKENDS + RULES, tmp_path) as service:
        await chat(service, 40)
        status, report = await asked(service, "?level=1")
        assert status == 200
        exact, estimate = report["levels"]
        assert (exact["strength"], exact["figures"]["replay"]["requests"], exact["figures"]["replay"]["identical"]) == ("exact", 40, 40)
        (move,) = exact["figures"]["changes"]["moves"]
        assert (move["before"], move["after"], move["why_after"]) == ("weak", "strong", "rule:all")
        assert estimate["strength"] == "estimate"
        assert estimate["figures"]["before_usd"] > 0
        assert estimate["figures"]["after_usd"]["value"] > estimate["figures"]["before_usd"]
        status, report = await asked(service, "?curve=true")
        assert status == 200
        assert "at least 100 are needed" in report["levels"][2]["refused"]["reason"]
        assert "decides nothing by complexity" in report["no_curve"]["reason"]
        assert (await asked(service, "?tenant=globex&level=0"))[1]["requests"] == 0


async def test_a_backtest_leaves_an_entry_and_changes_nothing(tmp_path: Path) -> None:
    async with serving(BACKENDS + RULES, tmp_path) as service:
        before = service.gateway.policy.current.version
        assert (await asked(service, "?level=0"))[0] == 200
        await service.gateway.policy.refresh()
        assert service.gateway.policy.current.version == before
        rows = await service.database.read(lambda connection: connection.execute(audit_log.select()).mappings().all())
        assert [row["object_kind"] for row in rows if row["action"] == "policy.backtest"] == ["policy"]


async def test_one_backtest_at_a_time(tmp_path: Path) -> None:
    async with serving(BACKENDS + RULES, tmp_path) as service:
        with alone(tmp_path):
            status, answer = await asked(service, "?level=0")
        assert (status, answer["error"]["code"]) == (409, "backtest_running")
        assert (await asked(service, "?level=0"))[0] == 200


async def test_what_cannot_be_backtested_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    async with serving(BACKENDS + RULES, tmp_path) as service:
        for query, body, param in (
            ("?level=4", CANDIDATE, "level"),
            ("?limit=0", CANDIDATE, "limit"),
            ("?limit=30000", CANDIDATE, "limit"),
            ("?since=yesterday", CANDIDATE, "since"),
            ("", "version: 1\ndefault: nobody\n", "default"),
        ):
            status, answer = await asked(service, query, body)
            assert (status, answer["error"]["param"]) == (400, param), answer
        assert (await asked(service, key=service.key))[0] == 403
