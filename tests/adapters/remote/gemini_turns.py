"""Gemini's conversations read into core values and written again, and a form in which two of them can be compared."""

from __future__ import annotations

import json
import re
from typing import Any

from adapters.collect import Collected, Collector
from adapters.gemini.content_stream import PROVIDER, ContentDecoder
from adapters.sse import SseParser
from adapters.types import AudioPart, FilePart, GenerateRequest, ImagePart, Message, Part, ProviderPart, TextPart, ToolCallPart
from tests.adapters.remote.kit import remote

FREE_FORM = ("args", "response")
"""Objects whose keys are not Google's."""


def decoded(body: bytes, *, stream: bool) -> tuple[Collected, ContentDecoder]:
    """What the decoder makes of a body, with the ends."""
    decoder, collector = ContentDecoder(), Collector()
    events = decoder.whole(body) if not stream else [made for event in SseParser().feed(body) for made in decoder.feed(event)]
    for event in [*events, *decoder.finish()]:
        collector.add(event)
    return collector.result(), decoder


def sent(request: GenerateRequest, **table: Any) -> Any:
    """The body that would go out."""
    return json.loads(remote("gemini", "http://127.0.0.1:1", **table).encode(request).body)


def as_messages(contents: list[dict[str, Any]]) -> tuple[Message, ...]:
    """A recorded conversation as a client's dialect would have given it."""
    messages: list[Message] = []
    for turn in contents:
        if turn["role"] == "model":
            messages.append(Message("assistant", tuple(made for part in turn["parts"] for made in _model_part(part))))
            continue
        messages += [_result(part["functionResponse"]) if "functionResponse" in part else Message("user", (_part(part),)) for part in turn["parts"]]
    return tuple(messages)


def _part(part: dict[str, Any]) -> Part:
    if set(part) == {"text"}:
        return TextPart(part["text"])
    inline: dict[str, Any] = part.get("inlineData") or part.get("inline_data") or {}
    if inline:
        kind: str = inline.get("mimeType") or inline["mime_type"]
        if kind.startswith("audio/"):
            return AudioPart(inline["data"], {"audio/mpeg": "mp3"}.get(kind, kind.removeprefix("audio/")))
        url = f"data:{kind};base64,{inline['data']}"
        return ImagePart(url) if kind.startswith("image/") else FilePart(url)
    return ProviderPart(PROVIDER, {"part": part}, required=True)


def _model_part(part: dict[str, Any]) -> list[Part]:
    signature = part.get("thoughtSignature")
    if "functionCall" in part:
        call = part["functionCall"]
        made: list[Part] = [ToolCallPart(call["id"], call["name"], json.dumps(call["args"]))]
        return made + ([ProviderPart(PROVIDER, {"thoughtSignature": signature, "toolCallId": call["id"]})] if signature else [])
    if "text" in part and not part.get("thought"):
        text: list[Part] = [TextPart(part["text"])]
        return text + ([ProviderPart(PROVIDER, {"thoughtSignature": signature, "toolCallId": None, "onText": bool(part["text"])})] if signature else [])
    return [ProviderPart(PROVIDER, {"part": part})]


def _result(response: dict[str, Any]) -> Message:
    files = tuple(_part(part) for part in response.get("parts", ()))
    text = (TextPart(json.dumps(response["response"])),) if response["response"] or not files else ()
    return Message("tool", (*text, *files), name=response["name"], tool_call_id=response["id"])


def comparable(value: Any, *, ids: bool = True) -> Any:
    """JSON with Google's names in camelCase, base64 in one alphabet, and neighbouring unsigned texts as one."""
    if isinstance(value, list):
        return _joined([comparable(each, ids=ids) for each in value])
    if not isinstance(value, dict):
        return value
    made = {}
    for key, inner in value.items():
        if key == "id" and not ids:
            continue
        name = re.sub(r"_([a-z])", lambda found: found[1].upper(), key)
        if name in ("data", "thoughtSignature") and isinstance(inner, str):
            inner = inner.replace("-", "+").replace("_", "/")
        made[name] = inner if name in FREE_FORM else comparable(inner, ids=ids)
    return made


def _joined(parts: list[Any]) -> list[Any]:
    made: list[Any] = []
    for part in parts:
        if isinstance(part, dict) and part == {"text": ""}:
            continue
        last: Any = made[-1] if made else {}
        unsigned = isinstance(last, dict) and "text" in last and set(last) <= {"text", "thought"}
        if unsigned and isinstance(part, dict) and "text" in part and last.get("thought") == part.get("thought") and part["text"]:
            made[-1] = {**part, "text": last["text"] + part["text"]}
        else:
            made.append(part)
    return made
