"""Multipart uploads, parsed as they arrive: a file goes to the document store piece by piece and is never whole in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from litestar.datastructures import Headers
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header  # type: ignore[import-untyped]

from retrieval.values import File, TooLarge
from router.http.errors import ApiError

if TYPE_CHECKING:
    from retrieval.store import Documents, Upload

PURPOSES = ("assistants", "user_data")
MAX_FIELD = 4_096
MAX_DRAIN = 64 * 2**20
"""How much of a refused upload is still read, so that the client hears the refusal and not a reset connection."""

_FIELDS = ("file", "purpose")


async def receive_upload(documents: Documents, tenant: str, headers: Headers, body: AsyncIterator[bytes], uploader: str | None = None) -> File:
    """The uploaded file. Raises `ApiError`: 413 over the size limit, 400 for anything that is not `file` and `purpose`."""
    boundary = _boundary(headers)
    async with documents.upload(tenant, uploader) as upload:
        form = _Form(upload)
        try:
            await form.read(boundary, body)
        except TooLarge as error:
            await _drain(body)
            raise ApiError(413, "file_too_large", f"{error} Split it, or ask your administrator for a higher limit.", param="file") from error
        return await upload.finish(*form.checked())


class _Form:
    """The fields `file` and `purpose`, in any order."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._filename: str | None = None
        self._fields: dict[str, bytearray] = {}

    async def read(self, boundary: str, body: AsyncIterator[bytes]) -> None:
        name = ""
        try:
            with PushMultipartParser(boundary, max_segment_count=8) as parser:
                async for data in body:
                    for part in parser.parse(data):
                        if isinstance(part, MultipartSegment):
                            name = self._begin(part.name, part.filename)
                        elif part is not None:
                            await self._add(name, bytes(part))
        except MultipartError as error:
            raise ApiError(400, "invalid_multipart", f"The body is not valid multipart/form-data: {error}.") from error

    def _begin(self, name: str, filename: str | None) -> str:
        if name not in _FIELDS:
            raise ApiError(400, "invalid_request", f"{name}: unknown field; an upload has 'file' and 'purpose'.", param=name)
        if name in self._fields:
            raise ApiError(400, "invalid_request", f"{name}: given twice; upload one file at a time.", param=name)
        if name == "file":
            if not filename:
                raise ApiError(400, "invalid_request", "file: has no file name.", param="file")
            if "\0" in filename:
                raise ApiError(400, "invalid_request", "file: the file name holds U+0000; give it another.", param="file")
            self._filename = filename
        self._fields[name] = bytearray()
        return name

    async def _add(self, name: str, data: bytes) -> None:
        if name == "file":
            await self._upload.write(data)
            return
        self._fields[name] += data
        if len(self._fields[name]) > MAX_FIELD:
            raise ApiError(400, "invalid_request", f"{name}: is too long.", param=name)

    def checked(self) -> tuple[str, str]:
        """`(filename, purpose)`."""
        if self._filename is None:
            raise ApiError(400, "invalid_request", "file: is missing.", param="file")
        purpose = self._fields.get("purpose", b"").decode("utf-8", "replace")
        if purpose not in PURPOSES:
            raise ApiError(400, "invalid_request", f"purpose: must be one of {', '.join(PURPOSES)}; it is {purpose[:40]!r}.", param="purpose")
        return self._filename, purpose


def _boundary(headers: Headers) -> str:
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise ApiError(400, "invalid_multipart", "Send the file as multipart/form-data, with the fields 'file' and 'purpose'.")
    boundary: str = options["boundary"]
    return boundary


async def _drain(body: AsyncIterator[bytes]) -> None:
    left = MAX_DRAIN
    async for data in body:
        left -= len(data)
        if left < 0:
            return
