from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection

from adapters.types import JsonObject, Message, ProviderPart, TextPart
from config.database import open_database
from router.kept.conversations import Item, answer_items, messages_of
from router.kept.sealing import Sealer
from router.kept.tables import conversation_items, conversations, idempotency, kept_responses, remembered_parts
from router.launch import migrate_state
from router.tables import metadata

SEALER = Sealer(b"a secret of the tests, long enough")
TABLES = tuple(table.name for table in (idempotency, kept_responses, conversations, conversation_items, remembered_parts))


async def test_the_migrations_make_exactly_the_tables_the_code_uses(database_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compared: Any) -> bool:
        return kind != "table" or name in TABLES

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        return list(compare_metadata(context, metadata))

    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    assert await database.read(differences) == []
    await database.aclose()


def test_every_table_carries_its_tenant() -> None:
    assert all("tenant" in metadata.tables[name].c for name in TABLES)


@given(st.binary(), st.text())
def test_what_is_kept_opens_for_its_tenant_at_its_place_and_with_the_same_secret_only(content: bytes, place: str) -> None:
    sealed = SEALER.of("acme").keep(content, place)
    assert SEALER.of("acme").kept(sealed, place) == content
    assert SEALER.of("globex").kept(sealed, place) is None
    assert SEALER.of("acme").kept(sealed, place + "x") is None
    assert Sealer(b"another secret of the tests").of("acme").kept(sealed, place) is None
    assert SEALER.of("acme").kept(sealed[:-1], place) is None
    assert len(content) < 8 or content not in sealed


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 12])
def test_what_was_never_kept_opens_to_nothing(content: bytes) -> None:
    assert SEALER.of("acme").kept(content, "place") is None


def _decoded(items: Any) -> tuple[Message, ...]:
    return tuple(Message("user", (TextPart(item["id"]),)) for item in items)


@given(st.lists(st.integers(min_value=0, max_value=3), max_size=8), st.data())
def test_an_answer_counts_as_one_message_until_one_of_its_items_is_deleted(sizes: list[int], data: st.DataObject) -> None:
    """`sizes` are turns: 0 an item of the client's, otherwise an answer of so many items."""
    items: list[Item] = []
    for number, size in enumerate(sizes):
        said: list[JsonObject] = [{"id": f"{number}.{index}"} for index in range(max(1, size))]
        items += answer_items(f"t{number}", said, Message("assistant", (ProviderPart("p", {"turn": number}),))) if size else [Item(said[0])]
    gone = data.draw(st.sets(st.sampled_from([item.item["id"] for item in items]))) if items else set()
    expected: list[object] = []
    for number, size in enumerate(sizes):
        ids = [f"{number}.{index}" for index in range(max(1, size))]
        left = [id for id in ids if id not in gone]
        expected += [number] if size and left == ids else left
    found = messages_of([item for item in items if item.item["id"] not in gone], _decoded)
    assert [part.item["turn"] if isinstance(part, ProviderPart) else getattr(part, "text", None) for message in found for part in message.parts] == expected
