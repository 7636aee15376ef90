"""`/v1/vector_stores`: collections of indexed files, and search in them. OpenAI's shape."""

from __future__ import annotations

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery

from adapters.backend import DataClass
from policies.access import Principal, may_handle
from retrieval.values import NotFound, SearchRequest
from router.audit.log import Subject
from router.http.context import HttpRequest, actor_of, gateway_of, principal_of
from router.http.errors import ApiError, decode_body
from router.http.listing import Deleted, Listing, listing, missing, page_request
from router.http.store_shapes import (
    AttachFile,
    CreateStore,
    FileObject,
    SearchBody,
    SearchPage,
    StoreObject,
    UpdateStore,
    checked_status,
    file_object,
    search_item,
    store_object,
)
from router.identity.reach import documents_reach

MOST = 100


@post("/v1/vector_stores", status_code=200, tags=["documents"], summary="Create a vector store")
async def create_store(request: HttpRequest) -> StoreObject:
    gateway, principal = gateway_of(request), principal_of(request)
    body = decode_body(await request.body() or b"{}", CreateStore)
    if principal.stores is not None:
        raise ApiError(403, "not_permitted", "This key is limited to some vector stores, so it makes none. Ask your administrator for one.")
    data_class = body.headgate.data_class or "internal"
    _require_class(principal, data_class)
    if body.file_ids:
        gateway.require_indexing()
    try:
        store = await gateway.documents_for(actor_of(request)).create_store(
            principal.tenant,
            name=body.name or "",
            metadata=body.metadata or {},
            data_class=data_class,
            expires_after_days=None if body.expires_after is None else body.expires_after.days,
            file_ids=body.file_ids,
            reach=documents_reach(principal),
        )
    except NotFound as error:
        raise missing(error, "file_ids") from error
    return store_object(store)


@get("/v1/vector_stores", tags=["documents"], summary="The tenant's vector stores, newest first")
async def list_stores(
    request: HttpRequest,
    limit: FromQuery[int] = 20,
    order: FromQuery[str] = "desc",
    after: FromQuery[str | None] = None,
    before: FromQuery[str | None] = None,
) -> Listing[StoreObject]:
    gateway, principal = gateway_of(request), principal_of(request)
    wanted = page_request(limit, order, after, before, most=MOST)
    try:
        page = await gateway.documents.list_stores(principal.tenant, wanted, reach=documents_reach(principal))
    except NotFound as error:
        raise missing(error, "after" if after else "before") from error
    return listing(page, store_object, [store.id for store in page.data])


@get("/v1/vector_stores/{store_id:str}", tags=["documents"], summary="One vector store")
async def get_store(request: HttpRequest, store_id: FromPath[str]) -> StoreObject:
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        return store_object(await gateway.documents.get_store(principal.tenant, store_id, reach=documents_reach(principal)))
    except NotFound as error:
        raise missing(error) from error


@post("/v1/vector_stores/{store_id:str}", status_code=200, tags=["documents"], summary="Change a vector store's name, metadata or expiry")
async def update_store(request: HttpRequest, store_id: FromPath[str]) -> StoreObject:
    gateway, principal = gateway_of(request), principal_of(request)
    body = decode_body(await request.body(), UpdateStore)
    try:
        documents = gateway.documents_for(actor_of(request))
        return store_object(await documents.update_store(principal.tenant, store_id, **body.changes(), reach=documents_reach(principal)))
    except NotFound as error:
        raise missing(error) from error


@delete("/v1/vector_stores/{store_id:str}", status_code=200, tags=["documents"], summary="Delete a vector store; its files stay")
async def delete_store(request: HttpRequest, store_id: FromPath[str]) -> Deleted:
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        await gateway.documents_for(actor_of(request)).delete_store(principal.tenant, store_id, reach=documents_reach(principal))
    except NotFound as error:
        raise missing(error) from error
    return Deleted(store_id, "vector_store.deleted")


@post("/v1/vector_stores/{store_id:str}/files", status_code=200, tags=["documents"], summary="Index a file in a vector store")
async def attach_file(request: HttpRequest, store_id: FromPath[str]) -> FileObject:
    gateway, principal = gateway_of(request), principal_of(request)
    body = decode_body(await request.body(), AttachFile)
    gateway.require_indexing()
    data_class = body.headgate.data_class or "public"
    _require_class(principal, data_class)
    reach, attributes = documents_reach(principal), body.attributes or {}
    try:
        documents = gateway.documents_for(actor_of(request))
        return file_object(await documents.attach(principal.tenant, store_id, body.file_id, attributes=attributes, data_class=data_class, reach=reach))
    except NotFound as error:
        raise missing(error, "file_id" if error.kind == "file" else None) from error


@get("/v1/vector_stores/{store_id:str}/files", tags=["documents"], summary="The files of a vector store, newest first")
async def list_store_files(
    request: HttpRequest,
    store_id: FromPath[str],
    limit: FromQuery[int] = 20,
    order: FromQuery[str] = "desc",
    after: FromQuery[str | None] = None,
    before: FromQuery[str | None] = None,
    filter: FromQuery[str | None] = None,
) -> Listing[FileObject]:
    gateway, principal = gateway_of(request), principal_of(request)
    wanted = page_request(limit, order, after, before, most=MOST)
    try:
        page = await gateway.documents.list_store_files(principal.tenant, store_id, wanted, status=checked_status(filter), reach=documents_reach(principal))
    except NotFound as error:
        raise missing(error) from error
    return listing(page, file_object, [file.file_id for file in page.data])


@get("/v1/vector_stores/{store_id:str}/files/{file_id:str}", tags=["documents"], summary="How far the indexing of a file is")
async def get_store_file(request: HttpRequest, store_id: FromPath[str], file_id: FromPath[str]) -> FileObject:
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        return file_object(await gateway.documents.get_store_file(principal.tenant, store_id, file_id, reach=documents_reach(principal)))
    except NotFound as error:
        raise missing(error) from error


@delete("/v1/vector_stores/{store_id:str}/files/{file_id:str}", status_code=200, tags=["documents"], summary="Take a file out of a vector store")
async def detach_file(request: HttpRequest, store_id: FromPath[str], file_id: FromPath[str]) -> Deleted:
    """The file itself stays."""
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        await gateway.documents_for(actor_of(request)).detach(principal.tenant, store_id, file_id, reach=documents_reach(principal))
    except NotFound as error:
        raise missing(error) from error
    return Deleted(file_id, "vector_store.file.deleted")


@post("/v1/vector_stores/{store_id:str}/search", status_code=200, tags=["documents"], summary="Search a vector store")
async def search_store(request: HttpRequest, store_id: FromPath[str]) -> SearchPage:
    """Each result is a chunk as it stands in the database now; `score` is the fused rank of meaning and words, 1 for first in both."""
    gateway, principal = gateway_of(request), principal_of(request)
    body = decode_body(await request.body(), SearchBody)
    if not body.text.strip():
        raise ApiError(400, "invalid_request", "query: is empty.", param="query")
    try:
        await gateway.documents.use_stores(principal.tenant, [store_id], reach=documents_reach(principal))
    except NotFound as error:
        raise missing(error) from error
    most = principal.max_data_class
    asked = SearchRequest(tenant=principal.tenant, stores=(store_id,), query=body.text, limit=body.max_num_results, highlight=False, max_data_class=most)
    items = []
    for passage in (await gateway.search(asked)).passages:
        try:
            placed = await gateway.documents.get_store_file(principal.tenant, store_id, passage.file_id, reach=documents_reach(principal))
        except NotFound:
            continue  # deleted since it was found
        item = search_item(passage, placed)
        if item.score >= body.ranking_options.score_threshold:
            items.append(item)
    if items:
        found = Subject("vector_store", store_id, principal.tenant, {"files": sorted({item.file_id for item in items})})
        await gateway.audit.note(actor_of(request), "file.read", found)
    return SearchPage(search_query=(body.text,), data=tuple(items))


def _require_class(principal: Principal, data_class: DataClass) -> None:
    if not may_handle(principal, data_class):
        raise ApiError(403, "not_permitted", f"This key may not touch {data_class} data.", param="headgate.data_class")


handlers = (
    create_store,
    list_stores,
    get_store,
    update_store,
    delete_store,
    attach_file,
    list_store_files,
    get_store_file,
    detach_file,
    search_store,
)
