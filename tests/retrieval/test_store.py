from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from config.database import Database
from retrieval import file_rows, tables
from retrieval.blobs import FolderBlobs, blob_name
from retrieval.store import UPLOAD_GRACE, Documents, sweep_blobs
from retrieval.values import NotFound, PageRequest, TooLarge

MISSING = "file-000000000000000000000000"


def originals(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


async def test_an_upload_becomes_a_file_with_its_bytes_and_digest(documents: Documents) -> None:
    async with documents.upload("acme") as upload:
        for _ in range(3):
            await upload.write(b"x" * 700_000)
        file = await upload.finish("..\\evil/../report.txt", "assistants")
    assert file.filename == "report.txt"
    assert (file.bytes, file.sha256) == (2_100_000, hashlib.sha256(b"x" * 2_100_000).hexdigest())
    found, content = await documents.open_file("acme", file.id)
    with content:
        assert content.read() == b"x" * 2_100_000
    assert found == file == await documents.get_file("acme", file.id)


async def test_an_upload_over_the_limit_or_given_up_leaves_nothing(documents: Documents, tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="4194304"):
        await documents.add_file("acme", filename="a", data=b"x" * (2**22 + 1))
    async with documents.upload("acme") as upload:
        await upload.write(b"x" * 2**21)
        assert len(originals(tmp_path)) == 1
    assert originals(tmp_path) == []
    assert (await documents.list_files("acme")).data == ()


async def test_another_tenants_objects_look_exactly_like_missing_ones(documents: Documents) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=b"words")
    store = await documents.create_store("acme", name="s", file_ids=[file.id])
    own = await documents.create_store("rival")
    own_file = await documents.add_file("rival", filename="b.txt", data=b"words")
    attempts: list[Callable[[str, str], object]] = [
        lambda f, s: documents.get_file("rival", f),
        lambda f, s: documents.open_file("rival", f),
        lambda f, s: documents.get_text("rival", f),
        lambda f, s: documents.delete_file("rival", f),
        lambda f, s: documents.attach("rival", own.id, f),
        lambda f, s: documents.create_store("rival", file_ids=[f]),
        lambda f, s: documents.get_store("rival", s),
        lambda f, s: documents.update_store("rival", s, name="mine"),
        lambda f, s: documents.delete_store("rival", s),
        lambda f, s: documents.use_stores("rival", [s]),
        lambda f, s: documents.attach("rival", s, own_file.id),
        lambda f, s: documents.list_store_files("rival", s),
        lambda f, s: documents.get_store_file("rival", s, f),
        lambda f, s: documents.detach("rival", s, f),
        lambda f, s: documents.list_files("rival", PageRequest(after=f)),
        lambda f, s: documents.list_stores("rival", PageRequest(after=s)),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound) as foreign:
            await attempt(file.id, store.id)  # type: ignore[misc]
        with pytest.raises(NotFound) as missing:
            await attempt(MISSING, "vs_000000000000000000000000")  # type: ignore[misc]
        assert foreign.value.kind == missing.value.kind
    assert [f.id for f in (await documents.list_files("rival")).data] == [own_file.id]
    assert await documents.get_store("acme", store.id) == store
    assert (await documents.get_store_file("acme", store.id, file.id)).status == "in_progress"


async def test_lists_are_paged_in_both_orders_and_directions(documents: Documents) -> None:
    made = [(await documents.add_file("acme", filename=f"{n}", data=b"x", purpose="user_data" if n == 3 else "assistants")).id for n in range(5)]
    first = await documents.list_files("acme", PageRequest(limit=2))
    assert ([f.id for f in first.data], first.has_more) == (made[:2:-1], True)
    rest = await documents.list_files("acme", PageRequest(limit=10, after=first.data[-1].id))
    assert ([f.id for f in rest.data], rest.has_more) == (made[2::-1], False)
    back = await documents.list_files("acme", PageRequest(limit=2, before=made[0]))
    assert ([f.id for f in back.data], back.has_more) == ([made[2], made[1]], True)
    ascending = await documents.list_files("acme", PageRequest(limit=2, after=made[1], ascending=True))
    assert ([f.id for f in ascending.data], ascending.has_more) == (made[2:4], True)
    assert [f.id for f in (await documents.list_files("acme", purpose="user_data")).data] == [made[3]]


async def test_a_store_can_be_renamed_and_expires_when_idle(documents: Documents, clock: Callable[[], float]) -> None:
    store = await documents.create_store("acme", name="old", metadata={"team": "x"}, expires_after_days=1)
    assert (await documents.update_store("acme", store.id, name="new", metadata={"team": "y"})).name == "new"
    assert (await documents.get_store("acme", store.id)).metadata == {"team": "y"}
    clock.advance(80_000)  # type: ignore[attr-defined]
    (used,) = await documents.use_stores("acme", [store.id])
    clock.advance(80_000)  # type: ignore[attr-defined]
    assert used.id == store.id
    assert not (await documents.get_store("acme", store.id)).expired, "its use postponed the end"
    clock.advance(80_000)  # type: ignore[attr-defined]
    assert (await documents.get_store("acme", store.id)).expired
    with pytest.raises(NotFound):
        await documents.use_stores("acme", [store.id])
    file = await documents.add_file("acme", filename="a.txt", data=b"words")
    with pytest.raises(NotFound):
        await documents.attach("acme", store.id, file.id)
    assert (await documents.update_store("acme", store.id, expires_after_days=None)).expires_at is None
    assert await documents.use_stores("acme", [store.id])


async def test_a_files_data_class_can_only_raise_its_stores(documents: Documents) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=b"words")
    store = await documents.create_store("acme", data_class="confidential")
    assert (await documents.attach("acme", store.id, file.id, data_class="public", attributes={"year": 2024.0})).data_class == "confidential"
    again = await documents.attach("acme", store.id, file.id, data_class="restricted")
    assert again.data_class == "restricted"
    assert (await documents.attach("acme", store.id, file.id, data_class="internal")).data_class == "restricted"


async def test_deleting_a_file_takes_everything_of_it_and_counts_as_a_removal(
    documents: Documents, index: Callable[[], int], db: Database, tmp_path: Path
) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=b"Refunds take fourteen days.")
    kept = await documents.add_file("acme", filename="b.txt", data=b"Batteries last three years.")
    one = await documents.create_store("acme", file_ids=[file.id, kept.id])
    two = await documents.create_store("acme", file_ids=[file.id])
    assert index() == 3
    before = {s: (await documents.get_store("acme", s)).version for s in (one.id, two.id)}
    await documents.delete_file("acme", file.id)
    for table in (tables.files, tables.documents, tables.vector_store_files, tables.chunks, tables.vectors):
        assert db.read_blocking(lambda c, table=table: c.execute(select(func.count()).select_from(table)).scalar()) == 1  # type: ignore[misc]
    assert {s: (await documents.get_store("acme", s)).version for s in before} == {s: version + 1 for s, version in before.items()}
    assert len(originals(tmp_path)) == 1
    with pytest.raises(NotFound):
        await documents.get_text("acme", file.id)
    assert (await documents.get_text("acme", kept.id)).text == "Batteries last three years."


async def test_originals_orphaned_by_a_crash_are_swept_away(
    documents: Documents, db: Database, blobs: FolderBlobs, clock: Callable[[], float], tmp_path: Path
) -> None:
    kept = await documents.add_file("acme", filename="a", data=b"kept")
    gone = await documents.add_file("acme", filename="b", data=b"deleted, but the process died before the original went")
    db.write_blocking(lambda c: file_rows.delete_file(c, "acme", gone.id))
    unfinished = blobs.begin()
    unfinished.write(b"the process died before this became a file")
    unfinished.commit(blob_name("acme", "file-1"))
    db.write_blocking(lambda c: file_rows.doom_blob(c, "acme", blob_name("acme", "file-1"), clock() + UPLOAD_GRACE))
    assert sweep_blobs(db, blobs, clock()) == 1
    assert sweep_blobs(db, blobs, clock() + UPLOAD_GRACE) == 1
    assert sweep_blobs(db, blobs, clock() + UPLOAD_GRACE) == 0
    assert [path.read_bytes() for path in originals(tmp_path)] == [b"kept"]
    assert kept.blob in str(originals(tmp_path)[0])


def test_a_tenants_name_never_leaves_its_folder() -> None:
    for name in ("..", "a/b", "../../etc", "."):
        folder, middle, last = blob_name(name, "file-abcd").split("/")
        assert (middle, last) == ("cd", "file-abcd")
        assert folder.startswith("t-")
