"""`/v1/files`: originals in and out, and the canonical text that citations count in. OpenAI's shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import BinaryIO
from urllib.parse import quote

from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery
from litestar.response import Stream
from msgspec import Struct

from retrieval.values import File, NotFound, OutOfReach
from router.http.context import HttpRequest, gateway_of, principal_of
from router.http.errors import ApiError
from router.http.listing import Deleted, Listing, listing, missing, page_request
from router.http.uploads import receive_upload
from router.identity.reach import documents_reach

PIECE = 2**16
MOST = 10_000


class FileObject(Struct, frozen=True, kw_only=True):
    """OpenAI's file object. Whether a file can be searched is said by the vector stores it is in, not by its status."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: str = "processed"
    status_details: str | None = None


def file_object(file: File) -> FileObject:
    return FileObject(id=file.id, bytes=file.bytes, created_at=int(file.created_at), filename=file.filename, purpose=file.purpose)


@post("/v1/files", status_code=200, tags=["documents"], summary="Upload a file", request_max_body_size=None)
async def upload_file(request: HttpRequest) -> FileObject:
    """The size limit is the setting `upload_max_mb`, kept while the bytes arrive."""
    gateway, principal = gateway_of(request), principal_of(request)
    return file_object(await receive_upload(gateway.documents, principal.tenant, request.headers, request.stream(), principal.key_id or None))


@get("/v1/files", tags=["documents"], summary="The tenant's files, newest first")
async def list_files(
    request: HttpRequest,
    purpose: FromQuery[str | None] = None,
    limit: FromQuery[int] = MOST,
    order: FromQuery[str] = "desc",
    after: FromQuery[str | None] = None,
) -> Listing[FileObject]:
    gateway, principal = gateway_of(request), principal_of(request)
    wanted = page_request(limit, order, after, None, most=MOST)
    try:
        page = await gateway.documents.list_files(principal.tenant, wanted, purpose=purpose, reach=documents_reach(principal))
    except NotFound as error:
        raise missing(error, "after") from error
    return listing(page, file_object, [file.id for file in page.data])


@get("/v1/files/{file_id:str}", tags=["documents"], summary="One file")
async def get_file(request: HttpRequest, file_id: FromPath[str]) -> FileObject:
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        return file_object(await gateway.documents.get_file(principal.tenant, file_id, reach=documents_reach(principal)))
    except NotFound as error:
        raise missing(error) from error


@get("/v1/files/{file_id:str}/content", tags=["documents"], summary="The original's bytes")
async def get_content(request: HttpRequest, file_id: FromPath[str]) -> Stream:
    """Always offered as a download, never shown: an uploaded page must not run in this service's origin."""
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        file, content = await gateway.documents.open_file(principal.tenant, file_id, reach=documents_reach(principal))
    except NotFound as error:
        raise missing(error) from error
    except FileNotFoundError as error:
        raise ApiError(500, "file_lost", "The original is missing from the file store; tell your administrator.") from error
    headers = {
        "content-length": str(file.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    return Stream(_pieces(content), media_type="application/octet-stream", headers=headers)


@get("/v1/files/{file_id:str}/text", tags=["documents"], summary="The canonical text that citations' offsets count in")
async def get_text(request: HttpRequest, file_id: FromPath[str]) -> Response[str]:
    """Plain text, UTF-8; offsets count code points. 404 before the file was first indexed."""
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        document = await gateway.documents.get_text(principal.tenant, file_id, reach=documents_reach(principal))
    except NotFound as error:
        raise missing(error) from error
    headers = {"etag": f'"{document.sha256}"', "x-content-type-options": "nosniff"}
    return Response(document.text, media_type="text/plain; charset=utf-8", headers=headers)


@delete("/v1/files/{file_id:str}", status_code=200, tags=["documents"], summary="Delete a file everywhere")
async def delete_file(request: HttpRequest, file_id: FromPath[str]) -> Deleted:
    """Once this answers, nothing of the file can be found or cited any more."""
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        await gateway.documents.delete_file(principal.tenant, file_id, reach=documents_reach(principal))
    except NotFound as error:
        raise missing(error) from error
    except OutOfReach as error:
        raise ApiError(403, "not_permitted", f"{error} Take it out of yours: DELETE /v1/vector_stores/{{store_id}}/files/{{file_id}}.") from error
    return Deleted(file_id, "file")


async def _pieces(content: BinaryIO) -> AsyncGenerator[bytes, None]:
    try:
        while piece := await asyncio.to_thread(content.read, PIECE):
            yield piece
    finally:
        content.close()


handlers = (upload_file, list_files, get_file, get_content, get_text, delete_file)
