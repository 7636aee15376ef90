"""Pieces of a request that more than one provider wants in the same other form."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import msgspec

from adapters.errors import InvalidRequest, UnsupportedFeature
from adapters.types import FilePart, GenerateRequest, ImagePart, JsonObject, ProviderPart, ToolCallPart, decode_json_object


def data_url(part: ImagePart | FilePart) -> tuple[str, str] | None:
    """Media type and base64 text of a `data:` URL; None for any other URL. Raises `InvalidRequest` for a malformed one."""
    if not part.url.startswith("data:"):
        return None
    head, comma, payload = part.url[5:].partition(",")
    media_type, *flags = head.split(";")
    if not comma or "base64" not in flags or not media_type:
        what = "an image" if isinstance(part, ImagePart) else "a file"
        raise InvalidRequest(f"{what}'s data: URL must have a media type and base64 data", param="messages")
    return media_type, unquote_to_bytes(payload).decode("ascii", "replace")


def call_arguments(call: ToolCallPart) -> JsonObject:
    """The arguments as an object, for providers that want no JSON text. Raises `InvalidRequest` where the text is none."""
    try:
        return decode_json_object(call.arguments or "{}")
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the arguments of tool call {call.id!r} are not a JSON object", param="messages") from error


def own_item(part: ProviderPart, *providers: str) -> JsonObject | None:
    """The item of an opaque part that one of these providers made; None for another's, which is left out.

    Raises `UnsupportedFeature` where the message means nothing without another's part.
    """
    if part.provider in providers:
        return part.item
    if part.required:
        raise UnsupportedFeature(f"the conversation holds a part that only {part.provider} understands ({part.item.get('type', 'unnamed')})", param="messages")
    return None


def ignored_knobs(request: GenerateRequest, *knobs: str) -> tuple[str, ...]:
    """Which of these tuning knobs the request turns, plus its unknown fields: what a provider without them ignores."""
    return (*(knob for knob in knobs if getattr(request, knob) is not None), *request.extra)
