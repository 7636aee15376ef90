"""Stored responses and conversations, driven by the official SDK as its users do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import func, select, update

from policies.access import Scopes
from router.identity.keys import create_key
from router.kept.tables import conversation_items, conversations, idempotency, kept_responses
from tests.fakes.provider import Cut, FakeProvider, Reply
from tests.fakes.wire import Answer, Call, answering, anthropic_steps
from tests.serving import SECRET, Service, serving, until

WEATHER: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
THOUGHT = Answer(texts=(), reasoning=("I should ask.",), calls=(Call("toolu_1", "weather", ('{"city": "Paris"}',)),))


def policy(upstream: FakeProvider, settings: str = "", more: str = "") -> str:
    return f"""
version: 1
settings: {{{settings}}}
backends:
  remote: {{kind: anthropic, model: claude-sonnet-4-5, base_url: "{upstream.url}", price: {{input: 1.0, output: 4.0}}, max_output_tokens: 2000}}
default: remote
fallback: []
{more}
"""


@asynccontextmanager
async def serving_sdk(upstream: FakeProvider, home: Path, url: str | None = None, settings: str = "", more: str = "") -> AsyncIterator[tuple[Service, Any]]:
    async with (
        serving(policy(upstream, settings, more), home, database_url=url) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk,
    ):
        yield service, sdk


def stranger(service: Service) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.other_key, max_retries=0)


def said(upstream: FakeProvider, number: int) -> list[tuple[str, list[str]]]:
    """Who said what, as the provider was told: of each message the kinds of its blocks, or their text."""
    messages = upstream.exchanges[number].json["messages"]
    return [
        (
            message["role"],
            [block.get("text") or block["type"] for block in message["content"]] if isinstance(message["content"], list) else [message["content"]],
        )
        for message in messages
    ]


async def respond(sdk: Any, *, stream: bool = False, **fields: Any) -> Any:
    if not stream:
        return await sdk.responses.create(model="auto", **fields)
    async with sdk.responses.stream(model="auto", **fields) as events:
        async for _ in events:
            pass
        return await events.get_final_response()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_response_continues_another_one_with_its_opaque_parts(stream: bool, tmp_path: Path, database_url: str) -> None:
    replies = [answering("anthropic", THOUGHT), answering("anthropic"), answering("anthropic", Answer(texts=("Bye.",)))]
    async with FakeProvider(replies) as upstream, serving_sdk(upstream, tmp_path, database_url) as (_, sdk):
        reasoning = {"effort": "low"}
        one = await respond(sdk, stream=stream, input="Weather in Paris?", tools=WEATHER, reasoning=reasoning, instructions="Be brief.")
        (call,) = [item for item in one.output if item.type == "function_call"]
        result = [{"type": "function_call_output", "call_id": call.call_id, "output": "22 degrees"}]
        two = await respond(sdk, stream=stream, previous_response_id=one.id, input=result, tools=WEATHER, reasoning=reasoning)
        three = await respond(sdk, stream=stream, previous_response_id=two.id, input="Thanks.", tools=WEATHER, reasoning=reasoning)
        assert three.output_text == "Bye."
        assert three.previous_response_id == two.id
        first, second, third = (exchange.json for exchange in upstream.exchanges)
        assert "Be brief." in str(first["system"])
        assert "Be brief." not in str(second) + str(third)
        thinking = [block for message in second["messages"] for block in message["content"] if block["type"] == "thinking"]
        assert [(block["thinking"], block["signature"]) for block in thinking] == [("I should ask.", "c2ln")]
        assert [role for role, _ in said(upstream, 2)] == ["user", "assistant", "user", "assistant", "user"]
        assert said(upstream, 2)[3:] == [("assistant", ["Hello, world."]), ("user", ["Thanks."])]


async def test_a_stored_response_is_shown_listed_and_deleted_and_is_nobody_elses(tmp_path: Path, database_url: str) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path, database_url) as (service, sdk):
        made = [await respond(sdk, input=f"Hi {number}") for number in range(3)]
        assert (await sdk.responses.retrieve(made[0].id)).model_dump() == made[0].model_dump()
        items = [item async for item in sdk.responses.input_items.list(made[1].id)]
        assert [(item.type, item.role, item.content[0].text) for item in items] == [("message", "user", "Hi 1")]
        page = await sdk.get("/responses?limit=2", cast_to=object)
        assert ([each["id"] for each in page["data"]], page["has_more"]) == ([made[2].id, made[1].id], True)
        rest = await sdk.get(f"/responses?after={page['last_id']}", cast_to=object)
        assert ([each["id"] for each in rest["data"]], rest["has_more"]) == ([made[0].id], False)
        async with stranger(service) as other:
            refused = []
            for id, client in ((made[0].id, other), ("resp_missing", sdk), ("a b", sdk)):
                for attempt in (client.responses.retrieve(id), client.responses.delete(id), client.responses.input_items.list(id)):
                    with pytest.raises(openai.NotFoundError) as caught:
                        await attempt
                    refused.append(caught.value.code)
                with pytest.raises(openai.NotFoundError) as caught:
                    await respond(client, input="Go on", previous_response_id=id)
                refused.append(caught.value.code)
                assert caught.value.param == "previous_response_id"
            assert set(refused) == {"response_not_found"}
        await sdk.responses.delete(made[0].id)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(made[0].id)


async def test_nothing_is_kept_that_the_client_does_not_want_kept(tmp_path: Path) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (service, sdk):
        answer = await respond(sdk, input="Hi", store=False)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(answer.id)
        assert await service.database.read(lambda connection: connection.execute(select(func.count()).select_from(kept_responses)).scalar()) == 0


async def test_a_deleted_turn_ends_the_chain_and_says_which_it_was(tmp_path: Path) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (_, sdk):
        one = await respond(sdk, input="One")
        two = await respond(sdk, input="Two", previous_response_id=one.id)
        await sdk.responses.delete(one.id)
        with pytest.raises(openai.NotFoundError, match=one.id):
            await respond(sdk, input="Three", previous_response_id=two.id)


async def test_an_item_can_be_referred_to(tmp_path: Path) -> None:
    async with FakeProvider([answering("anthropic", THOUGHT), answering("anthropic")]) as upstream, serving_sdk(upstream, tmp_path) as (service, sdk):
        one = await respond(sdk, input="Weather in Paris?", tools=WEATHER, reasoning={"effort": "low"})
        call = one.output[-1]
        again = [{"role": "user", "content": "Weather in Paris?"}, *({"type": "item_reference", "id": item.id} for item in one.output)]
        again.append({"type": "function_call_output", "call_id": call.call_id, "output": "22"})
        await respond(sdk, input=again, tools=WEATHER, reasoning={"effort": "low"})
        assert said(upstream, 1) == [("user", ["Weather in Paris?"]), ("assistant", ["thinking", "tool_use"]), ("user", ["tool_result"])]
        for id in ("msg_1", call.id.replace(one.id[5:], "0" * 32)):
            with pytest.raises(openai.NotFoundError) as caught:
                await respond(sdk, input=[{"type": "item_reference", "id": id}])
            assert (caught.value.code, caught.value.param) == ("item_not_found", "input[0]")
        async with stranger(service) as other:
            with pytest.raises(openai.NotFoundError):
                await respond(other, input=[{"type": "item_reference", "id": call.id}])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_conversation_holds_what_was_said_in_it(stream: bool, tmp_path: Path, database_url: str) -> None:
    replies = [answering("anthropic", THOUGHT), answering("anthropic"), answering("anthropic", Answer(texts=("Bye.",)))]
    async with FakeProvider(replies) as upstream, serving_sdk(upstream, tmp_path, database_url) as (_, sdk):
        conversation = await sdk.conversations.create(metadata={"topic": "weather"}, items=[{"type": "message", "role": "user", "content": "Hello."}])
        one = await respond(sdk, stream=stream, conversation=conversation.id, input="Weather in Paris?", tools=WEATHER, reasoning={"effort": "low"})
        assert one.conversation.id == conversation.id
        result = [{"type": "function_call_output", "call_id": one.output[-1].call_id, "output": "22 degrees"}]
        await respond(sdk, stream=stream, conversation={"id": conversation.id}, input=result, tools=WEATHER, reasoning={"effort": "low"})
        items = [item async for item in sdk.conversations.items.list(conversation.id, order="asc", limit=2)]
        kinds = [item.type for item in items]
        assert kinds == ["message", "message", "reasoning", "function_call", "function_call_output", "message"]
        assert [block["type"] for message in upstream.exchanges[1].json["messages"] for block in message["content"]][-3:] == [
            "thinking", "tool_use", "tool_result",
        ]  # fmt: skip
        with pytest.raises(openai.BadRequestError, match="conversation"):
            await respond(sdk, previous_response_id=one.id, input="Go on")
        one_item = await sdk.conversations.items.retrieve(items[0].id, conversation_id=conversation.id)
        assert one_item.content[0].text == "Hello."
        await sdk.conversations.items.delete(items[2].id, conversation_id=conversation.id)
        added = await sdk.conversations.items.create(conversation.id, items=[{"role": "user", "content": "Thanks."}, {**items[0].to_dict()}])
        assert added.data[1].id != items[0].id
        await respond(sdk, stream=stream, conversation=conversation.id, input="Bye.", tools=WEATHER)
        assert "thinking" not in [kind for _, content in said(upstream, 2) for kind in content]


async def test_a_conversation_is_changed_listed_deleted_and_nobody_elses(tmp_path: Path, database_url: str) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path, database_url) as (service, sdk):
        made = [await sdk.conversations.create(items=[{"role": "user", "content": "Hello."}]) for _ in range(2)]
        id = made[0].id
        assert (await sdk.conversations.update(id, metadata={"a": "b"})).metadata == {"a": "b"}
        assert (await sdk.conversations.retrieve(id)).metadata == {"a": "b"}
        page = await sdk.get("/conversations", cast_to=object)
        assert [each["id"] for each in page["data"]] == [made[1].id, id]
        (item,) = [item async for item in sdk.conversations.items.list(id)]
        async with stranger(service) as other:
            codes = []
            for attempt in (
                other.conversations.retrieve(id),
                other.conversations.update(id, metadata={}),
                other.conversations.delete(id),
                other.conversations.items.list(id),
                other.conversations.items.create(id, items=[{"role": "user", "content": "x"}]),
                other.conversations.items.retrieve(item.id, conversation_id=id),
                other.conversations.items.delete(item.id, conversation_id=id),
                respond(other, input="Hi", conversation=id),
            ):
                with pytest.raises(openai.NotFoundError) as caught:
                    await attempt
                codes.append(caught.value.code)
            assert set(codes) == {"conversation_not_found"}
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.conversations.items.retrieve("msg_1", conversation_id=id)
        assert caught.value.code == "item_not_found"
        assert (await sdk.conversations.delete(id)).deleted
        assert await service.database.read(lambda connection: connection.execute(select(func.count()).select_from(conversation_items)).scalar()) == 1
        with pytest.raises(openai.BadRequestError) as bad:
            await sdk.conversations.create(items=[{"role": "user", "content": "x"}, {"type": "message", "role": "nobody", "content": "x"}])
        assert bad.value.param == "items[1].role"


async def test_many_turns_at_once_leave_all_their_items(tmp_path: Path, database_url: str) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path, database_url) as (_, sdk):
        conversation = await sdk.conversations.create(items=[{"role": "user", "content": "Hello."}])
        await asyncio.gather(*(respond(sdk, conversation=conversation.id, input=f"Turn {number}") for number in range(8)))
        items = [item async for item in sdk.conversations.items.list(conversation.id, order="asc")]
        assert len(items) == 17
        assert [item.role for item in items[1:]] == ["user", "assistant"] * 8


async def rows(service: Service) -> Sequence[Any]:
    return await service.database.read(lambda connection: connection.execute(select(kept_responses)).all())


async def test_what_is_kept_is_encrypted_what_moderation_removed_is_not_kept_and_what_broke_off_is_kept_as_it_was_seen(tmp_path: Path) -> None:
    secret = Answer(texts=("Write to ", "jo@example.com", " now."))
    broken = Reply([*anthropic_steps(Answer())[:5], Cut()])
    moderated = "moderation: {output: [pii], on_match: redact}"
    async with (
        FakeProvider([answering("anthropic", secret), answering("anthropic"), broken]) as upstream,
        serving_sdk(upstream, tmp_path, more=moderated) as (
            service,
            sdk,
        ),
    ):
        one = await respond(sdk, input="Hi there")
        assert "jo@example.com" not in one.output_text
        (row,) = await rows(service)
        assert b"Hi there" not in row.content
        await respond(sdk, input="Again", previous_response_id=one.id)
        assert "example.com" not in str(upstream.exchanges[1].json)
        seen = [event async for event in await sdk.responses.create(model="auto", input="Break", stream=True)]
        assert seen[-1].type == "response.failed"
        kept = await sdk.responses.retrieve(seen[-1].response.id)
        assert (kept.status, kept.output_text) == ("failed", seen[-1].response.output_text)
        assert kept.output_text.startswith("Hello")


async def test_of_an_answer_that_moderation_ended_only_the_text_is_carried_on(tmp_path: Path) -> None:
    thought = Answer(texts=("Before. ", "Write to jo@example.com"), reasoning=("I know jo@example.com.",))
    replies = [answering("anthropic", thought), answering("anthropic")]
    blocking = "moderation: {output: [pii], on_match: block}"
    async with FakeProvider(replies) as upstream, serving_sdk(upstream, tmp_path, more=blocking) as (_, sdk):
        one = await respond(sdk, input="Hi", reasoning={"effort": "low"})
        assert one.status == "incomplete"
        await respond(sdk, input="Go on", previous_response_id=one.id)
        assert "thinking" not in [kind for _, content in said(upstream, 1) for kind in content]
        assert "example.com" not in str(upstream.exchanges[1].json)
        assert "example.com" not in (await sdk.responses.retrieve(one.id)).to_json()


async def test_a_turn_is_at_least_as_confidential_as_those_before_it(tmp_path: Path) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (service, sdk):
        one = await respond(sdk, input="Hi")
        conversation = await sdk.conversations.create()
        await respond(sdk, input="Hi", conversation=conversation.id)
        raised = {"data_class": "restricted"}
        await service.database.write(lambda connection: connection.execute(update(kept_responses).values(raised)))
        await service.database.write(lambda connection: connection.execute(update(conversations).values(raised)))
        reference = [{"type": "item_reference", "id": one.output[0].id}]
        for fields in ({"previous_response_id": one.id}, {"conversation": conversation.id}):
            with pytest.raises(openai.APIStatusError) as caught:
                await respond(sdk, input="Go on", **fields)
            assert caught.value.code in ("no_permitted_backend", "not_permitted")
        with pytest.raises(openai.APIStatusError):
            await respond(sdk, input=reference)
        assert len(upstream.exchanges) == 2


async def test_items_that_a_client_adds_are_of_its_tenants_class(tmp_path: Path) -> None:
    restricted = "tenants: {acme: {data_class: confidential}}"
    async with FakeProvider([]) as upstream, serving_sdk(upstream, tmp_path, more=restricted) as (service, sdk):
        limited = await service.database.write(
            lambda connection: create_key(connection, SECRET, tenant="acme", role="member", scopes=Scopes(max_data_class="internal"))
        )
        words = [{"role": "user", "content": "Our margins."}]
        made = await sdk.conversations.create(items=words)
        old = await service.gateway.conversations.create("acme", {}, (), "public")
        await sdk.conversations.items.create(old.id, items=words)
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=limited.key, max_retries=0) as narrow:
            for id in (made.id, old.id):
                with pytest.raises(openai.NotFoundError):
                    await narrow.conversations.items.list(id)
            for adding in (narrow.conversations.create(items=words), narrow.conversations.items.create(old.id, items=words)):
                with pytest.raises(openai.PermissionDeniedError) as caught:
                    await adding
                assert caught.value.code == "not_permitted"


async def test_what_is_kept_expires_and_what_is_built_upon_does_not(tmp_path: Path, database_url: str) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path, database_url, "retention_s: 86400") as (service, sdk):
        turns, kept = service.gateway.turns, service.gateway.conversations
        one, lonely = await respond(sdk, input="One"), await respond(sdk, input="Lonely")
        conversation = await sdk.conversations.create(items=[{"role": "user", "content": "Hello."}])
        start = turns._clock()
        turns._clock = kept._clock = lambda: start + 80_000
        two = await respond(sdk, input="Two", previous_response_id=one.id)
        turns._clock = kept._clock = lambda: start + 100_000
        for gone in (sdk.responses.retrieve(lonely.id), sdk.conversations.retrieve(conversation.id)):
            with pytest.raises(openai.NotFoundError):
                await gone
        await turns.sweep()
        await kept.sweep()
        assert {row.id for row in await rows(service)} == {one.id, two.id}
        assert await service.database.read(lambda connection: connection.execute(select(func.count()).select_from(conversation_items)).scalar()) == 0
        await respond(sdk, input="Three", previous_response_id=two.id)


async def test_a_keyed_turn_is_added_to_its_conversation_once(tmp_path: Path) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (_, sdk):
        conversation = await sdk.conversations.create()
        headers = {"Idempotency-Key": "k-1"}
        answers = [await respond(sdk, input="Hi", conversation=conversation.id, extra_headers=headers) for _ in range(2)]
        assert answers[0].id == answers[1].id
        assert len([item async for item in sdk.conversations.items.list(conversation.id)]) == 2
        assert len(upstream.exchanges) == 1


async def test_deleting_a_response_deletes_what_was_kept_for_its_retry(tmp_path: Path, database_url: str) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path, database_url) as (service, sdk):
        made = await respond(sdk, input="Hi", extra_headers={"Idempotency-Key": "k-1"})
        await respond(sdk, input="Hi", extra_headers={"Idempotency-Key": "k-2"})
        async with stranger(service) as other:
            with pytest.raises(openai.NotFoundError):
                await other.responses.delete(made.id)
        assert await answers_kept(service) == 2
        await sdk.responses.delete(made.id)
        assert await answers_kept(service) == 1


async def answers_kept(service: Service) -> int:
    return len(await service.database.read(lambda connection: connection.execute(select(idempotency)).all()))


async def test_a_turn_whose_client_leaves_at_its_end_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving_sdk(upstream, tmp_path) as (service, sdk):
        conversation = await sdk.conversations.create()
        keeping, go = asyncio.Event(), asyncio.Event()
        keep = service.gateway.turns.keep

        async def slowly(*given: Any, **more: Any) -> None:
            keeping.set()
            await go.wait()
            await keep(*given, **more)

        monkeypatch.setattr(service.gateway.turns, "keep", slowly)
        asking = asyncio.create_task(respond(sdk, input="Hi", conversation=conversation.id))
        await keeping.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: service.gateway.policy.current.users == 0)
        go.set()
        await until(lambda: not service.gateway._tasks)
        assert len([item async for item in sdk.conversations.items.list(conversation.id)]) == 2
        assert len(await rows(service)) == 1
