"""`headgate documents`: put documents into a tenant's vector store, look at them, search them. Works with or without a running server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
import msgspec

from adapters.errors import BackendError
from config.database import Database
from config.settings import Settings
from retrieval.store import Documents
from retrieval.values import NotFound, PageRequest, SearchRequest, SearchResult, Store, StoreFile
from router.audit.actors import command_line
from router.audit.changes import recorded_documents
from router.cli.audit import audit_of
from router.cli.common import config_option, fail, find_launch, is_serving, json_option, open_migrated, print_json, print_table, require_tenant
from router.launch import open_documents, open_ingestor, socket_path

WAIT_S = 600.0
tenant_option = click.option("--tenant", default="default", show_default=True, help="Whose documents.")
store_option = click.option("--store", required=True, help="The vector store's id or name.")


@click.group()
def documents() -> None:
    """A tenant's documents."""


@asynccontextmanager
async def _opened(config: Path | None, tenant: str) -> AsyncIterator[tuple[Settings, Database, Documents]]:
    launch = find_launch(config)
    settings = launch.settings()
    database = await asyncio.to_thread(open_migrated, settings)
    try:
        await asyncio.to_thread(require_tenant, database, tenant)
        yield settings, database, recorded_documents(open_documents(database, settings), audit_of(launch, settings, database), command_line())
    finally:
        await database.aclose()


async def _find_store(library: Documents, tenant: str, wanted: str, *, create: bool = False) -> Store:
    page = await library.list_stores(tenant, PageRequest(limit=10_000))
    for store in page.data:
        if wanted in (store.id, store.name):
            return store
    if create and not wanted.startswith("vs_"):
        return await library.create_store(tenant, name=wanted)
    raise fail(f"tenant {tenant!r} has no vector store {wanted!r}; see them with: headgate documents list --tenant {tenant}")


@documents.command("add")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@tenant_option
@click.option("--store", required=True, help="The vector store's id or name; a name that is new makes one.")
@config_option
@json_option
def add(files: tuple[Path, ...], tenant: str, store: str, config: Path | None, as_json: bool) -> None:
    """Add files and wait until they can be found."""

    async def run() -> list[tuple[str, StoreFile]]:
        async with _opened(config, tenant) as (settings, database, library):
            found = await _find_store(library, tenant, store, create=True)
            waiting = []
            for path in files:
                file = await library.add_file(tenant, filename=path.name, data=path.read_bytes())
                await library.attach(tenant, found.id, file.id)
                waiting.append((path.name, file.id))
            if not is_serving(settings):
                await asyncio.to_thread(_index_here, settings, database)
            return [(name, await _settled(library, tenant, found.id, file_id)) for name, file_id in waiting]

    done = asyncio.run(run())
    if as_json:
        print_json([{"filename": name, **msgspec.to_builtins(file)} for name, file in done])
    else:
        print_table(["FILE", "ID", "STORE", "STATUS", "CHUNKS", "REASON"], [_row(name, file, file.store_id) for name, file in done])
    if any(file.status != "completed" for _, file in done):
        raise fail("not every file could be indexed")


def _row(name: str, file: StoreFile, *more: str) -> list[object]:
    return [name, file.file_id, *more, file.status, file.chunks, file.error_message]


def _index_here(settings: Settings, database: Database) -> None:
    """No server runs on this home: index in this process."""
    from adapters.embedding import SentenceEmbedder

    ingestor = open_ingestor(database, settings, SentenceEmbedder(settings.embedder_model))
    while ingestor.run_once():
        pass


async def _settled(library: Documents, tenant: str, store: str, file: str) -> StoreFile:
    end = time.monotonic() + WAIT_S
    while True:
        state = await library.get_store_file(tenant, store, file)
        if state.status != "in_progress":
            return state
        if time.monotonic() > end:
            raise fail(f"{file} is still being indexed after {WAIT_S:.0f} s; look again with: headgate documents list")
        await asyncio.sleep(0.2)


@documents.command("list")
@tenant_option
@click.option("--store", help="The vector store's id or name; without one, the stores are listed.")
@config_option
@json_option
def list_documents(tenant: str, store: str | None, config: Path | None, as_json: bool) -> None:
    """List a tenant's vector stores, or the files of one."""

    async def run() -> tuple[tuple[Store, ...], list[tuple[str, StoreFile]]]:
        async with _opened(config, tenant) as (_, _, library):
            if store is None:
                return (await library.list_stores(tenant, PageRequest(limit=10_000))).data, []
            found = await _find_store(library, tenant, store)
            files = (await library.list_store_files(tenant, found.id, PageRequest(limit=10_000))).data
            return (), [((await library.get_file(tenant, file.file_id)).filename, file) for file in files]

    stores, files = asyncio.run(run())
    if as_json:
        print_json(msgspec.to_builtins(stores) if store is None else [{"filename": name, **msgspec.to_builtins(file)} for name, file in files])
    elif store is None:
        print_table(["STORE", "NAME", "FILES", "BYTES"], [[each.id, each.name, each.counts.total, each.usage_bytes] for each in stores])
    else:
        print_table(["FILE", "ID", "STATUS", "CHUNKS", "REASON"], [_row(name, file) for name, file in files])


@documents.command("delete")
@click.argument("file_id")
@tenant_option
@config_option
@json_option
def delete(file_id: str, tenant: str, config: Path | None, as_json: bool) -> None:
    """Delete a file everywhere: its text, its chunks, its vectors, the original."""

    async def run() -> None:
        async with _opened(config, tenant) as (_, _, library):
            await library.delete_file(tenant, file_id)

    try:
        asyncio.run(run())
    except NotFound as error:
        raise fail(f"{error} See a store's files with: headgate documents list --tenant {tenant} --store NAME") from error
    print_json({"id": file_id, "deleted": True}) if as_json else click.echo(f"{file_id} deleted")


@documents.command("search")
@click.argument("query")
@tenant_option
@store_option
@click.option("--limit", default=5, show_default=True, type=click.IntRange(1, 50))
@config_option
@json_option
def search(query: str, tenant: str, store: str, limit: int, config: Path | None, as_json: bool) -> None:
    """Search a vector store."""
    if not query.strip():
        raise click.UsageError("the query is empty; give a question or a few words")

    async def run() -> SearchResult:
        async with _opened(config, tenant) as (settings, database, library):
            found = await _find_store(library, tenant, store)
            wanted = SearchRequest(tenant=tenant, stores=(found.id,), query=query, limit=limit, highlight=False)
            if is_serving(settings):
                from router.compute.client import ComputeClient

                client = ComputeClient(socket_path(settings.home))
                try:
                    return await client.search(wanted)
                finally:
                    await client.aclose()
            return await asyncio.to_thread(_search_here, settings, database, wanted)

    try:
        result = asyncio.run(run())
    except BackendError as error:
        raise fail(error.message) from error
    if as_json:
        print_json(msgspec.to_builtins(result.passages))
        return
    if not result.passages:
        click.echo("nothing found")
    for passage in result.passages:
        click.echo(f"{passage.filename}{f', page {passage.page}' if passage.page else ''}  [{passage.start}:{passage.end}]  {passage.similarity:.2f}")
        click.echo(f"    {' '.join(passage.text.split())[:300]}")


def _search_here(settings: Settings, database: Database, wanted: SearchRequest) -> SearchResult:
    from adapters.embedding import SentenceEmbedder
    from retrieval.search import Searcher

    return Searcher(database, SentenceEmbedder(settings.embedder_model)).search(wanted)
