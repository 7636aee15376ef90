"""`POST /v1/feedback`: what users thought of answers, kept once for each of them, and never told to another tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select, update

from policies.access import Scopes
from router.audit.erasing import erase_user
from router.audit.replaying import records
from router.audit.tables import decisions, feedback
from router.identity.keys import create_key
from router.identity.users import create_user
from tests.serving import SECRET, Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}}
default: mini
fallback: []
"""
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def service(tmp_path: Path, database_url: str) -> AsyncIterator[Service]:
    async with serving(POLICY, tmp_path, database_url=database_url) as service:
        yield service


async def call(service: Service, method: str, path: str, key: str | None = None, body: Any = None) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, service.url + path, json=body, headers=service.bearer(key)) as answer:
        return answer.status, await answer.json()


async def asked(service: Service, key: str | None = None, **fields: Any) -> str:
    status, answer = await call(service, "POST", "/v1/chat/completions", key, {**CHAT, **fields})
    assert status == 200
    found: str = answer["headgate"]["decision_id"]
    return found


async def key_of(service: Service, role: str = "member", **fields: Any) -> str:
    return await service.database.write(lambda connection: create_key(connection, SECRET, tenant="acme", role=role, **fields).key)


async def test_feedback_is_taken_at_once_counts_once_for_each_user_and_is_read_with_the_decision(service: Service) -> None:
    request_id = await asked(service)
    member = await key_of(service)
    given = {"request_id": request_id, "thumb": "down", "comment": "The figure is wrong."}
    status, kept = await call(service, "POST", "/v1/feedback", member, given)
    assert (status, kept["score"], kept["request_id"]) == (200, 0.0, request_id)
    for _ in range(3):
        assert (await call(service, "POST", "/v1/feedback", member, {"request_id": request_id, "score": 0.25, "comment": "Better."}))[0] == 200
    assert (await call(service, "POST", "/v1/feedback", service.key, {"request_id": request_id, "thumb": "up"}))[1]["score"] == 1.0
    _, path = await call(service, "GET", f"/admin/decisions/{request_id}", service.key)
    assert [(each["score"], each["comment"]) for each in path["feedback"]] == [(0.25, "Better."), (1.0, None)]
    assert path["score"] == 0.625
    _, seen = await call(service, "GET", f"/admin/decisions/{request_id}", service.admin_key)
    assert [each["comment"] for each in seen["feedback"]] == [None, None], "the platform reads no content"
    found = await service.database.read(lambda connection: list(records(connection)))
    assert [record.score for record in found] == [0.625]
    stored = await service.database.read(lambda connection: connection.execute(select(feedback.c.comment)).scalars().all())
    assert not any(comment is not None and b"Better" in comment for comment in stored)


async def test_another_tenants_request_is_answered_like_none(service: Service) -> None:
    request_id = await asked(service)
    foreign = await call(service, "POST", "/v1/feedback", service.other_key, {"request_id": request_id, "score": 1})
    missing = await call(service, "POST", "/v1/feedback", service.other_key, {"request_id": "0" * 32, "score": 1})
    assert (foreign[0], foreign[1]["error"]["code"]) == (404, "request_not_found")
    assert str(foreign).replace(request_id, "") == str(missing).replace("0" * 32, "")
    await service.gateway.recorder.flush()
    assert await call(service, "POST", "/v1/feedback", service.other_key, {"request_id": request_id, "score": 1}) == foreign


async def test_a_key_limited_to_less_sensitive_data_gives_none_on_what_it_may_not_see(service: Service) -> None:
    request_id = await asked(service, headgate={"data_class": "confidential"})
    narrow = await key_of(service, scopes=Scopes(max_data_class="internal"))
    before = await call(service, "POST", "/v1/feedback", narrow, {"request_id": request_id, "score": 1})
    await service.gateway.recorder.flush()
    assert (await call(service, "POST", "/v1/feedback", narrow, {"request_id": request_id, "score": 1})) == before
    assert before[0] == 404
    own = await asked(service, narrow)
    assert (await call(service, "POST", "/v1/feedback", narrow, {"request_id": own, "score": 1}))[0] == 200


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"score": 1.5}, "score"),
        ({"score": -0.1}, "score"),
        ({}, "score"),
        ({"score": 1, "thumb": "up"}, "score"),
        ({"thumb": "sideways"}, "thumb"),
        ({"thumb": "up", "comment": "x" * 2_001}, "comment"),
        ({"thumb": "up", "stars": 5}, "stars"),
    ],
)
async def test_feedback_that_says_nothing_usable_is_refused_with_the_field_at_fault(tmp_path: Path, given: dict[str, Any], param: str) -> None:
    async with serving(POLICY, tmp_path) as service:
        status, answer = await call(service, "POST", "/v1/feedback", service.key, {"request_id": "0" * 32, **given})
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_request", param)


async def test_feedback_and_embeddings_go_with_their_user_and_scores_of_others_stay(service: Service) -> None:
    user = await service.database.write(lambda connection: create_user(connection, "acme", role="member", subject="ada"))
    key = await key_of(service, user=user.id)
    request_id = await asked(service, key)
    await service.gateway.recorder.flush()
    await service.database.write(lambda connection: connection.execute(update(decisions).values(embedding=b"\x00\x3c")) and None)
    for each in (key, service.key):
        assert (await call(service, "POST", "/v1/feedback", each, {"request_id": request_id, "thumb": "up", "comment": "Good."}))[0] == 200
    erased = await service.database.write(lambda connection: erase_user(connection, user.id, SECRET))
    assert (erased.deleted["feedback"], erased.deleted["embeddings"]) == (1, 1)
    _, path = await call(service, "GET", f"/admin/decisions/{request_id}", service.key)
    assert [each["comment"] for each in path["feedback"]] == ["Good."]
    assert path["decision"]["embedded"] is False


async def test_expired_feedback_is_swept(service: Service) -> None:
    request_id = await asked(service)
    await call(service, "POST", "/v1/feedback", service.key, {"request_id": request_id, "thumb": "up"})
    await service.database.write(lambda connection: connection.execute(update(feedback).values(expires_at=1.0)) and None)
    await service.gateway.recorder.sweep()
    assert await service.database.read(lambda connection: connection.execute(select(feedback)).all()) == []


async def test_two_opinions_of_one_user_at_once_leave_one(service: Service) -> None:
    request_id = await asked(service)
    scores = [number / 10 for number in range(10)]
    done = await asyncio.gather(*(call(service, "POST", "/v1/feedback", service.key, {"request_id": request_id, "score": score}) for score in scores))
    assert {status for status, _ in done} == {200}
    kept = await service.database.read(lambda connection: list(connection.execute(select(feedback.c.score)).scalars()))
    assert len(kept) == 1
    assert kept[0] in scores
