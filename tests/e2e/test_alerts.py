"""Alerts on budgets from a chat to a receiver: in one worker, and in a whole service whose workers are killed while they deliver."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from aiohttp import web

from tests.fakes.alert_receiver import SECRET, Receiver, receiving, take
from tests.serving import Serve, Service, headgate_json, served, serving, until

POLICY = """
version: 1
backends:
  dear: {{kind: scripted, text: "one two three four five", price: {{input: 0, output: 100000}}, max_output_tokens: 20}}
  free: {{kind: scripted, text: "free"}}
default: dear
fallback: []
alerts: {{url: "{url}", secret_env: HOOK_API_KEY, at: {at}}}
tenants:
  default: {{budget_usd: {{day: 3}}}}
  acme: {{budget_usd: {{day: 3}}}}
  globex: {{budget_usd: {{day: 2.4}}, on_budget_end: free}}
"""
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


async def post(url: str, key: str, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url + path, json=CHAT, headers={"authorization": f"Bearer {key}"}) as answer:
        return answer.status, await answer.json()


async def get(url: str, key: str, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url + path, headers={"authorization": f"Bearer {key}"}) as answer:
        return answer.status, await answer.json()


async def use_up(url: str, key: str) -> int:
    """Chat until the budget refuses. Returns how many chats it paid."""
    for number in range(50):
        status, answer = await post(url, key)
        if status != 200:
            assert (status, answer["error"]["code"]) == (402, "budget_exceeded")
            return number
    raise AssertionError("the budget never refused")


def told(receiver: Receiver, tenant: str) -> list[tuple[str, float | None]]:
    return sorted((event["type"], event["share"]) for event in receiver.events if event["tenant"] == tenant)


async def test_what_is_spent_and_the_first_refusal_are_told_and_shown(tmp_path: Path) -> None:
    async with receiving() as receiver, serving(POLICY.format(url=receiver.url, at="[0.1, 0.5, 1.0]"), tmp_path, environ={"HOOK_API_KEY": SECRET}) as service:
        alerts = service.gateway.alerts
        assert (await post(service.url, service.key))[0] == 200
        await alerts.look()
        assert told(receiver, "acme") == [("budget.threshold", 0.1)]
        assert receiver.events[0]["spent_usd"] >= 0.3
        assert await use_up(service.url, service.key) >= 1
        for _ in range(3):
            assert (await post(service.url, service.key))[0] == 402
            await alerts.look()
        exhausted = [event for event in receiver.events if event["type"] == "budget.exhausted"]
        assert [(event["tenant"], event["cap_usd"]) for event in exhausted] == [("acme", 3.0)]
        assert exhausted[0]["spent_usd"] + 2.0 > 3.0
        await _shown(service, receiver)


async def _shown(service: Service, receiver: Receiver) -> None:
    status, mine = await get(service.url, service.key, "/admin/alerts")
    assert status == 200
    assert {each["id"] for each in mine["data"]} == {event["id"] for event in receiver.events}
    assert {(each["state"], each["tries"], each["receiver"], each["error"], each["next_try_at"]) for each in mine["data"]} == {
        ("delivered", 1, "policy", None, None)
    }
    assert "path-secret" not in str(mine)
    assert await get(service.url, service.other_key, "/admin/alerts") == (200, {"data": []})
    assert (await get(service.url, service.other_key, "/admin/alerts?tenant=acme"))[0] == 404
    assert len((await get(service.url, service.admin_key, "/admin/alerts?tenant=acme&limit=1"))[1]["data"]) == 1
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{service.url}/metrics", headers=service.bearer(service.admin_key)) as answer,
    ):
        assert f'headgate_alerts_total{{outcome="delivered"}} {float(len(receiver.events))}' in await answer.text()


async def test_a_budget_whose_end_another_backend_answers_is_told_too_and_a_bound_of_the_requests_own_is_not(tmp_path: Path) -> None:
    async with receiving() as receiver, serving(POLICY.format(url=receiver.url, at="[]"), tmp_path, environ={"HOOK_API_KEY": SECRET}) as service:
        async with aiohttp.ClientSession() as session:
            bound = {**CHAT, "headgate": {"max_cost_usd": 0.5}}
            async with session.post(f"{service.url}/v1/chat/completions", json=bound, headers=service.bearer(service.other_key)) as answer:
                assert answer.status == 402
        await service.gateway.alerts.look()
        assert receiver.events == []
        backends = [(await post(service.url, service.other_key))[1]["headgate"]["backend"] for _ in range(4)]
        assert backends[0] == "dear"
        assert backends[-1] == "free"
        await service.gateway.alerts.look()
        assert told(receiver, "globex") == [("budget.exhausted", None)]


async def test_an_answer_does_not_wait_for_a_receiver_and_a_stop_waits_for_a_delivery(tmp_path: Path) -> None:
    held = asyncio.Event()

    async def hold(_event: dict[str, Any]) -> web.Response:
        await held.wait()
        return web.Response(status=200)

    async with receiving() as receiver:
        receiver.behaviour = hold
        async with serving(POLICY.format(url=receiver.url, at="[0.1]"), tmp_path, environ={"HOOK_API_KEY": SECRET}) as service:
            assert (await post(service.url, service.key))[0] == 200
            looking = asyncio.create_task(service.gateway.alerts.look())
            await until(lambda: receiver.events)
            assert (await post(service.url, service.key))[0] == 200
            looking.cancel()
            await asyncio.wait([looking])
            asyncio.get_running_loop().call_later(0.1, held.set)
        with closing(sqlite3.connect(tmp_path / "headgate.db")) as database:
            assert database.execute("SELECT state, tries FROM budget_alerts").fetchall() == [("delivered", 1)]
        assert len(receiver.events) == 1


def workers_of(serve: Serve) -> list[psutil.Process]:
    return [child for child in psutil.Process(serve.process.pid).children(recursive=True) if "router.worker" in " ".join(child.cmdline())]


async def test_alerts_outlive_the_workers_that_are_killed_while_they_deliver_them(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def hold(_event: dict[str, Any]) -> web.Response:
        await never.wait()
        return web.Response(status=200)

    async with receiving() as receiver:
        receiver.behaviour = hold
        (tmp_path / "headgate.yaml").write_text(POLICY.format(url=receiver.url, at="[0.05, 0.1]"))
        entering = served(tmp_path, "--workers", "2", models=False, HOOK_API_KEY=SECRET)
        serve = await asyncio.to_thread(entering.__enter__)
        try:
            assert (await post(serve.url, serve.keys["chat"]))[0] == 200
            await until(lambda: len(receiver.events) == 2, seconds=30)
            receiver.behaviour = take
            for worker in workers_of(serve):
                worker.send_signal(signal.SIGKILL)
            await until(lambda: len(receiver.events) == 4, seconds=60)
            async with asyncio.timeout(30):
                while {each["state"] for each in (await alerts_in(serve))} != {"delivered"}:
                    await asyncio.sleep(0.05)
            found = await alerts_in(serve)
            assert {(each["share"], each["tries"]) for each in found} == {(0.05, 2), (0.1, 2)}
            assert Counter(event["id"] for event in receiver.events) == {each["id"]: 2 for each in found}
            assert await use_up(serve.url, serve.keys["chat"]) >= 1
            await until(lambda: len(receiver.events) == 5, seconds=30)
            assert receiver.events[-1]["type"] == "budget.exhausted"
            listed = await asyncio.to_thread(headgate_json, tmp_path, "alerts", "list", "--tenant", "default")
            assert [each["type"] for each in listed].count("budget.exhausted") == 1
        finally:
            never.set()
            await asyncio.to_thread(entering.__exit__, None, None, None)
        assert (len(receiver.events), receiver.forged) == (5, 0)


async def alerts_in(serve: Serve) -> list[dict[str, Any]]:
    try:
        data: list[dict[str, Any]] = (await get(serve.url, serve.keys["admin"], "/admin/alerts"))[1]["data"]
    except aiohttp.ClientError:  # a connection to a worker that was killed
        return []
    return data
