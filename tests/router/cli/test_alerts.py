"""`headgate alerts`: which there were, and whether the receivers answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web
from sqlalchemy import insert

from config.database import open_database
from router.alerts.tables import budget_alerts
from tests.fakes.alert_receiver import SECRET, Receiver, receiving
from tests.ports import free_port
from tests.router.cli.kit import Command

POLICY = """
version: 1
backends:
  mini: {{kind: scripted}}
default: mini
alerts: {{url: "{url}", secret_env: HOOK_API_KEY}}
tenants:
  acme: {{alerts: {{url: "{own}", secret_env: HOOK_API_KEY}}}}
"""


@contextmanager
def receiver_beside() -> Iterator[Receiver]:
    """A receiver with a loop of its own: the command blocks this thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    entering = receiving()
    try:
        yield asyncio.run_coroutine_threadsafe(entering.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(entering.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_test_event_is_sent_and_what_the_receivers_answer_is_said(headgate: Command, tmp_path: Path) -> None:
    with receiver_beside() as receiver:
        dead = f"http://127.0.0.1:{free_port()}/path-secret"
        (tmp_path / "headgate.yaml").write_text(POLICY.format(url=receiver.url, own=dead))
        ran = headgate("alerts", "test", HOOK_API_KEY=SECRET)
        assert (ran.status, ran.out.startswith("ok    policy 127.0.0.1: answered 204 (")) == (0, True)
        ran = headgate("alerts", "test", "--tenant", "acme", HOOK_API_KEY=SECRET)
        assert ran.status == 1
        assert "FAIL  tenant 127.0.0.1: cannot be reached: ClientConnectorError" in ran.out
        assert "path-secret" not in ran.out + ran.err
        assert [(event["type"], event["tenant"], event["share"]) for event in receiver.events] == [("test", "", None), ("test", "acme", None)]

        async def fail(_event: object) -> web.Response:
            return web.Response(status=500)

        receiver.behaviour = fail
        ran = headgate("alerts", "test", "--json", HOOK_API_KEY=SECRET)
        assert ran.status == 1
        assert '"ok": false' in ran.out
        assert '"error": "answered 500"' in ran.out


def test_without_a_secret_or_a_receiver_it_says_what_is_missing(headgate: Command, tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(POLICY.format(url="http://127.0.0.1:9/", own="http://127.0.0.1:9/"))
    ran = headgate("alerts", "test")
    assert (ran.status, "HOOK_API_KEY is not set" in ran.out) == (1, True)
    found = {each["subject"]: (each["level"], each["message"]) for each in headgate("doctor", "--json").json}
    assert found["alerts"] == found["alerts of acme"] == ("note", "127.0.0.1: HOOK_API_KEY is not set")
    assert "a secret is set" in {each["subject"]: each["message"] for each in headgate("doctor", "--json", HOOK_API_KEY=SECRET).json}["alerts"]
    (tmp_path / "headgate.yaml").write_text("version: 1\nbackends: {mini: {kind: scripted}}\ndefault: mini\n")
    ran = headgate("alerts", "test", "--tenant", "acme")
    assert (ran.status, "names no receiver for tenant 'acme'; add one under 'alerts:'" in ran.err) == (1, True)


def test_what_was_told_is_listed_newest_first(headgate: Command, tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(POLICY.format(url="http://127.0.0.1:9/", own="http://127.0.0.1:9/"))
    assert headgate("alerts", "list", "--json").json == []
    for tenant in ("acme", "globex"):
        headgate("tenants", "create", tenant)
    row = {"scope": "", "type": "budget.threshold", "share": 0.8, "receiver": "policy", "spent": 8 * 10**12, "reserved": 0, "cap": 10**13}
    row |= {"period": "month:2026-11", "state": "pending", "tries": 2, "next_try_at": 1796000040.0, "worker": "", "error": "answered 500"}
    rows = [row | {"tenant": "acme", "id": "a1", "created_at": 1796000000.0}, row | {"tenant": "globex", "id": "g1", "created_at": 1796000001.0}]
    database = open_database(f"sqlite:///{tmp_path / 'var' / 'headgate.db'}")
    database.write_blocking(lambda connection: connection.execute(insert(budget_alerts), rows) and None)
    database.close()
    listed = headgate("alerts", "list", "--json").json
    assert [each["id"] for each in listed] == ["g1", "a1"]
    assert (listed[1]["spent_usd"], listed[1]["share"], listed[1]["state"], listed[1]["next_try_at"]) == (8.0, 0.8, "pending", 1796000040.0)
    assert len(headgate("alerts", "list", "--limit", "1", "--json").json) == 1
    shown = headgate("alerts", "list", "--tenant", "acme").out.splitlines()
    assert len(shown) == 2
    assert shown[1].split() == ["2026-11-30T00:53:20+00:00", "acme", "month:2026-11", "80%", "policy", "pending", "2", "answered", "500"]
    ran = headgate("alerts", "list", "--tenant", "initech")
    assert (ran.status, "tenant 'initech' does not exist" in ran.err) == (1, True)
