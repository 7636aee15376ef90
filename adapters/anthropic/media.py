"""Images and documents as Anthropic's sources. Pure."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from adapters.errors import InvalidRequest, UnsupportedFeature
from adapters.remote_content import data_url
from adapters.types import FilePart, ImagePart, JsonObject


def image_source(part: ImagePart) -> JsonObject:
    inline = data_url(part)
    if inline is None:
        return {"type": "url", "url": part.url}
    return {"type": "base64", "media_type": inline[0], "data": inline[1]}


def document_source(part: FilePart) -> JsonObject:
    """A PDF by URL or inline, or a plain text. Raises `UnsupportedFeature` for another format."""
    if not part.url.startswith("data:"):
        return {"type": "url", "url": part.url}
    head, comma, payload = part.url[5:].partition(",")
    media_type, *flags = head.split(";")
    if not comma:
        raise InvalidRequest("a file's data: URL must have a media type and data", param="messages")
    if media_type == "application/pdf" and "base64" in flags:
        return {"type": "base64", "media_type": media_type, "data": unquote_to_bytes(payload).decode("ascii", "replace")}
    if media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _text(payload, "base64" in flags)}
    raise UnsupportedFeature(f"this provider takes PDF and plain text, not {media_type or 'a file without a type'}", param="messages")


def _text(payload: str, encoded: bool) -> str:
    raw = unquote_to_bytes(payload)
    try:
        return (base64.b64decode(raw, validate=True) if encoded else raw).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidRequest("a text file's data: URL must hold UTF-8 text", param="messages") from error
