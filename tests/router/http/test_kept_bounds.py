"""What is kept is bounded in bytes, as stored and as it opens, however few rows it has."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import select

from retrieval.values import PageRequest
from router.http import items as http_items
from router.http import references, turn_memory
from router.kept import conversations, keeping, turns
from router.kept.tables import conversation_items
from tests.fakes.provider import FakeProvider
from tests.fakes.wire import answering
from tests.router.http.test_responses_kept import respond, serving_sdk

A = "a" * 20_000
"""Compressed, it is next to nothing."""


def message(text: str, id: str | None = None) -> Any:
    named = {} if id is None else {"id": id}
    return {"type": "message", "role": "user", "content": text, **named}


async def refused(attempt: Any) -> tuple[int, str | None, str | None]:
    with pytest.raises(openai.APIStatusError) as caught:
        await attempt
    return caught.value.status_code, caught.value.code, caught.value.param


async def test_a_page_of_items_ends_where_their_bytes_do(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "PAGE", 50_000)
    async with FakeProvider([]) as upstream, serving_sdk(upstream, tmp_path, database_url) as (_, sdk):
        ids = [f"msg_{number}" for number in range(5)]
        made = await sdk.conversations.create(items=[message(A, id) for id in ids])
        pages: list[list[str]] = []
        after, more = None, True
        while more:
            page = await sdk.get(f"/conversations/{made.id}/items?order=asc&limit=100" + (f"&after={after}" if after else ""), cast_to=object)
            after, more = page["last_id"], page["has_more"]
            pages.append([item["id"] for item in page["data"]])
        assert pages == [ids[:2], ids[2:4], ids[4:]]
        monkeypatch.setattr(keeping, "PAGE", 100)
        page = await sdk.get(f"/conversations/{made.id}/items", cast_to=object)
        assert ([item["id"] for item in page["data"]], page["has_more"]) == ([ids[4]], True)
        assert [item.id async for item in sdk.conversations.items.list(made.id, order="asc")] == ids


async def test_a_page_reads_no_more_stored_bytes_than_it_may(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProvider([]) as upstream, serving_sdk(upstream, tmp_path, database_url) as (service, sdk):
        made = await sdk.conversations.create(items=[message(f"{number}") for number in range(5)])
        monkeypatch.setattr(keeping, "PAGE", 3 * keeping.OVERHEAD)
        wanted = PageRequest(limit=5, ascending=True)
        query = select(conversation_items).where(conversation_items.c.conversation == made.id)
        rows, more = await service.database.read(lambda connection: keeping.page(connection, query, conversation_items, ("position", "id"), wanted, "item"))
        assert ([row.position for row in rows], more) == ([1, 2], True)


async def test_a_page_of_responses_ends_where_their_bytes_do_in_both_directions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (_, sdk):
        made = [(await respond(sdk, input=f"{number}{A}")).id for number in range(4)][::-1]
        monkeypatch.setattr(keeping, "PAGE", 100_000)
        page = await sdk.get("/responses?limit=100", cast_to=object)
        assert ([each["id"] for each in page["data"]], page["has_more"]) == (made[:2], True)
        rest = await sdk.get(f"/responses?after={page['last_id']}", cast_to=object)
        assert ([each["id"] for each in rest["data"]], rest["has_more"]) == (made[2:], False)
        nearest = await sdk.get(f"/responses?before={made[3]}", cast_to=object)
        assert ([each["id"] for each in nearest["data"]], nearest["has_more"]) == (made[1:3], True)


@pytest.mark.parametrize("text", [A, "".join(chr(33 + (number * number * 7919 + number // 3) % 90) for number in range(20_000))], ids=["opened", "stored"])
async def test_a_chain_that_is_too_long_is_refused_and_nothing_is_asked(text: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path, database_url) as (_, sdk):
        one = await respond(sdk, input=text)
        two = await respond(sdk, input=text, previous_response_id=one.id)
        if text == A:
            monkeypatch.setattr(keeping, "LARGEST", 80_000)
        else:
            monkeypatch.setattr(turns, "LARGEST", 3 * keeping.OVERHEAD)
        await respond(sdk, input="Go on", previous_response_id=one.id)
        assert await refused(respond(sdk, input="Go on", previous_response_id=two.id)) == (400, "context_length_exceeded", "previous_response_id")
        assert len(upstream.exchanges) == 3


async def test_an_item_that_is_too_large_is_refused_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (http_items, turn_memory):
        monkeypatch.setattr(module, "LARGEST_ITEM", 10_000)
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (_, sdk):
        both = [message("Hi"), message(A)]
        assert await refused(sdk.conversations.create(items=both)) == (400, "item_too_large", "items[1]")
        made = await sdk.conversations.create()
        assert await refused(sdk.conversations.items.create(made.id, items=both)) == (400, "item_too_large", "items[1]")
        assert await refused(respond(sdk, conversation=made.id, input=both)) == (400, "item_too_large", "input[1]")
        assert not upstream.exchanges
        await respond(sdk, input=both)


async def test_a_full_conversation_takes_nothing_more_until_items_are_deleted(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "FULL", 4 * keeping.OVERHEAD)
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path, database_url) as (_, sdk):
        assert await refused(sdk.conversations.create(items=[message("Hi")] * 4)) == (400, "conversation_full", "items")
        made = await sdk.conversations.create(items=[message("Hi", "msg_1"), message("Hi", "msg_2")])
        assert await refused(sdk.conversations.items.create(made.id, items=[message("Hi")] * 2)) == (400, "conversation_full", "items")
        await respond(sdk, conversation=made.id, input="Go on")
        assert len([item async for item in sdk.conversations.items.list(made.id)]) == 4
        assert await refused(respond(sdk, conversation=made.id, input="Go on")) == (400, "conversation_full", "conversation")
        assert len(upstream.exchanges) == 1
        for id in ("msg_1", "msg_2"):
            await sdk.conversations.items.delete(id, conversation_id=made.id)
        await respond(sdk, conversation=made.id, input="Go on")


async def test_a_conversation_that_opens_to_too_much_is_not_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (_, sdk):
        made = await sdk.conversations.create(items=[message(A), message(A), message(A)])
        monkeypatch.setattr(keeping, "LARGEST", 50_000)
        assert await refused(respond(sdk, conversation=made.id, input="Go on")) == (400, "conversation_full", "conversation")
        assert not upstream.exchanges


async def test_a_body_too_large_to_be_stored_is_answered_unstored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_memory, "LARGEST_STORED", 10_000)
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (_, sdk):
        assert await refused(respond(sdk, input=A)) == (400, "invalid_request", "store")
        assert not upstream.exchanges
        await respond(sdk, input=A, store=False)


async def test_references_lead_to_no_more_than_a_request_may_carry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (_, sdk):
        one = await respond(sdk, input="Hi")
        reference = {"type": "item_reference", "id": one.output[0].id}
        monkeypatch.setattr(references, "LARGEST", 500)
        assert await refused(respond(sdk, input=[message("Hi"), *[reference] * 9])) == (400, "context_length_exceeded", "input[3]")
        await respond(sdk, input=[message("Hi"), reference, message("Go on")])


def test_what_inflates_to_more_than_is_left_is_not_inflated() -> None:
    packed = zlib.compress(b"a" * 100_000)
    budget = keeping.Budget(150_000)
    assert len(budget.inflated(packed)) == 100_000
    with pytest.raises(keeping.TooLarge):
        budget.inflated(packed)
    assert keeping.Budget(100_000 + keeping.OVERHEAD).inflated(packed)
    with pytest.raises(keeping.TooLarge):
        keeping.Budget(99_999 + keeping.OVERHEAD).inflated(packed)
