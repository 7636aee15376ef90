"""What finance asks of a running service: usage in groups, statements, a provider's export; each tenant sees its own."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from router.money.rollup import day_of
from router.tables import ledger
from tests.router.money.test_rollup import the_sums_hold
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}}
  large: {kind: scripted, text: "Large.", model: big-1, price: {input: 10, output: 40}}
  free: {kind: scripted, text: "Free."}
rules:
  - {name: code, when: {task: code}, use: [large]}
complexity: {weak: mini, strong: large, threshold: 0.9}
default: mini
fallback: []
tenants: {acme: {budget_usd: {month: 5}}}
"""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(POLICY, tmp_path) as service:
        yield service


async def ask(service: Service, key: str, content: str = "Hi", model: str = "auto") -> None:
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    async with aiohttp.ClientSession(headers=service.bearer(key)) as session, session.post(f"{service.url}/v1/chat/completions", json=body) as answer:
        assert answer.status == 200


async def call(service: Service, method: str, path: str, key: str, body: str | None = None) -> tuple[int, Any, str]:
    async with aiohttp.ClientSession(headers=service.bearer(key)) as session, session.request(method, service.url + path, data=body) as answer:
        kind = answer.content_type
        return answer.status, await (answer.json() if kind == "application/json" else answer.read()), kind


async def test_usage_is_grouped_as_asked_and_says_what_routing_avoided(service: Service) -> None:
    await ask(service, service.key)
    await ask(service, service.key, "Fix this function:\n```python\ndef f(): pass\n```")
    await ask(service, service.key, model="free")
    await ask(service, service.other_key)
    rows = await service.database.read(lambda connection: connection.execute(select(ledger)).mappings().all())
    today = day_of(rows[0]["ended_at"])
    mini, large, free = (next(row for row in rows if row["backend"] == name) for name in ("mini", "large", "free"))
    assert mini["list_cost"] == 10 * mini["cost"]
    assert (large["list_cost"], free["list_cost"], free["cost"]) == (large["cost"], 0, 0)
    assert {row["price_version"] for row in rows} == {"policy", "local"}
    status, answer, _ = await call(service, "GET", "/admin/usage?group_by=day,rule", service.key)
    assert status == 200
    assert {(line["day"], line["rule"], line["requests"]) for line in answer["data"]} == {(today, "complexity", 1), (today, "code", 1), (today, "pin", 1)}
    (line,) = [line for line in answer["data"] if line["rule"] == "complexity"]
    assert line["avoided_usd"] == pytest.approx(9 * line["cost_usd"])
    (whole,) = (await call(service, "GET", f"/admin/usage?group_by=month&since={today}&until={float(rows[0]['ended_at']) + 100}", service.key))[1]["data"]
    assert (whole["month"], whole["requests"], whole["cost"]) == (today[:7], 3, mini["cost"] + large["cost"])
    everybody = (await call(service, "GET", "/admin/usage?group_by=tenant,key,team,user,provider,model,backend,purpose", service.admin_key))[1]["data"]
    assert {(line["tenant"], line["backend"], line["key"]) for line in everybody} == {(row["tenant"], row["backend"], row["key_id"]) for row in rows}
    assert (await call(service, "GET", "/admin/usage?until=2020-01-01", service.admin_key))[1]["data"] == []
    status, text, kind = await call(service, "GET", "/admin/usage?format=csv", service.key)
    assert (status, kind) == (200, "text/csv")
    table = list(csv.DictReader(io.StringIO(text.decode())))
    assert {line["backend"] for line in table} == {"mini", "large", "free"}
    assert sum(int(line["cost"]) for line in table) == mini["cost"] + large["cost"]
    await service.database.read(the_sums_hold)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("group_by=tenant,colour", "group_by"),
        ("group_by=id);DROP TABLE ledger--", "group_by"),
        ("format=xml", "format"),
        ("since=yesterday", "since"),
        ("until=nan", "until"),
        ("since=-5", "since"),
    ],
)
async def test_a_report_that_cannot_be_made_names_the_parameter(service: Service, query: str, param: str) -> None:
    status, answer, _ = await call(service, "GET", f"/admin/usage?{query}", service.key)
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_request", param)


async def test_a_statement_is_made_in_every_form_for_its_tenant_and_the_platform(service: Service) -> None:
    await ask(service, service.key)
    (row,) = await service.database.read(lambda connection: connection.execute(select(ledger)).mappings().all())
    month = day_of(row["ended_at"])[:7]
    status, made, _ = await call(service, "GET", f"/admin/statements/acme/{month}", service.key)
    assert (status, made["tenant"], made["total"]["cost"], made["provisional"]) == (200, "acme", row["cost"], True)
    assert made["budget"] == {"cap_usd": 5.0, "spent_usd": made["total"]["cost_usd"], "reserved_usd": 0.0}
    assert (made["ledger"]["rows"], made["ledger"]["first_id"]) == (1, row["id"])
    status, page, kind = await call(service, "GET", f"/admin/statements/acme/{month}?format=pdf", service.admin_key)
    assert (status, kind, page[:4]) == (200, "application/pdf", b"%PDF")
    status, text, kind = await call(service, "GET", f"/admin/statements/acme/{month}?format=md", service.key)
    assert (status, kind) == (200, "text/markdown")
    assert b"data:image/svg+xml;base64," in text
    for path, key, expected in (
        (f"acme/{month}", service.other_key, (404, "tenant_not_found", "tenant")),
        (f"nobody/{month}", service.key, (404, "tenant_not_found", "tenant")),
        (f"nobody/{month}", service.admin_key, (404, "tenant_not_found", "tenant")),
        ("acme/2026-13", service.key, (400, "invalid_request", "month")),
        (f"acme/{month}?format=doc", service.key, (400, "invalid_request", "format")),
    ):
        status, refused, _ = await call(service, "GET", f"/admin/statements/{path}", key)
        assert (status, refused["error"]["code"], refused["error"]["param"]) == expected


async def test_an_operator_reconciles_and_a_tenant_may_not(service: Service) -> None:
    await ask(service, service.key)
    (row,) = await service.database.read(lambda connection: connection.execute(select(ledger)).mappings().all())
    body = f"request_id,input_tokens,output_tokens\n{row['request_id']},{row['input_tokens']},{row['output_tokens'] + 1}\n"
    path = "/admin/ledger/reconcile?provider=local"
    assert (await call(service, "POST", path, service.key, body))[0] == 403
    status, looked, _ = await call(service, "POST", path, service.admin_key, body)
    assert (status, looked["counts"], looked["corrections"]) == (200, {"differs": 1}, 0)
    status, done, _ = await call(service, "POST", f"{path}&apply=true&all=true", service.admin_key, body)
    assert (status, done["corrections"], done["open"]) == (200, 1, 0)
    (line,) = (await call(service, "GET", "/admin/usage", service.key))[1]["data"]
    assert (line["output_tokens"], line["corrections"]) == (row["output_tokens"] + 1, 1)
    spent = {line["spent_usd"] for line in (await call(service, "GET", "/admin/usage", service.key))[1]["budgets"]}
    assert spent == {line["cost_usd"]}
    for query, text, expected in (
        ("provider=local", "a,b\n1,2\n", (400, "invalid_export", None)),
        ("provider=local", "\udce4".encode("utf-8", "surrogateescape").decode("latin-1"), (400, "invalid_export", None)),
        ("provider=nobody", body, (404, "provider_not_found", "provider")),
        ("provider=local&all=true", body, (400, "invalid_request", "all")),
        ("provider=local&apply=true", "date,model,input_tokens,output_tokens\n2026-11-01,m,1,1\n", (400, "invalid_request", "apply")),
    ):
        status, refused, _ = await call(service, "POST", f"/admin/ledger/reconcile?{query}", service.admin_key, text)
        assert (status, refused["error"]["code"], refused["error"]["param"]) == expected
