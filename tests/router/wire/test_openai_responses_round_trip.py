"""Every recorded request to OpenAI's responses: decoded, and encoded again for OpenAI, it asks for the same.

What may differ (`normal`), each for a reason:

- what is null is the same as what is absent, and so are `tool_choice: auto`, `text: {format: {type: text}}`, `store`, `stream` and the `type` of
  a message: they are defaults, or Headgate's to say (it streams, keeps answers itself and has OpenAI keep none);
- `include` always asks for reasoning in encrypted form where the model reasons: without it the next turn could not bring it back;
- `stream_options` turns padding off;
- a content of one text is a plain string;
- `previous_response_id`, `conversation` and a `file_search` are Headgate's own business: they stand in the `Call`, where this test looks for them.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from adapters.backend import BackendContext, create_backend, kind_named
from adapters.openai import OpenAIResponsesBackend
from router.http.errors import ApiError
from router.kept.sealing import Sealer
from router.wire.call import Call
from router.wire.openai_responses import decode_responses
from tests.adapters.remote.recordings import ABSENT, interactions, present

pytestmark = pytest.mark.skipif(not present(), reason=ABSENT)

SEAL = Sealer(b"a secret of the tests, long enough").of("acme")

EXCEPTIONS = {
    "temperature": "-1 is no temperature: refused here with the field's name, as OpenAI refused it (400)",
}
"""Recorded requests that do not come back, by the field at fault."""


def recorded() -> list[dict[str, Any]]:
    return [each for each in interactions() if each["method"] == "POST" and each["path"] == "/v1/responses"]


def backend(model: str) -> OpenAIResponsesBackend:
    """As it would stand in a policy that allows everything that was recorded."""
    table = {
        "kind": "openai", "api": "responses", "model": model, "provider_tools": ["openai/*"],
        "pass_through": ["service_tier", "store", "background", "context_management", "reasoning.mode", "file_id"],
    }  # fmt: skip
    made = create_backend("subject", msgspec.convert(table, kind_named("openai").spec), BackendContext(environ={}))
    assert isinstance(made, OpenAIResponsesBackend)
    return made


def normal(body: dict[str, Any]) -> Any:
    body = {key: value for key, value in body.items() if value is not None}
    for name in ("stream", "stream_options", "store", "previous_response_id", "conversation"):
        body.pop(name, None)
    include = sorted({*body.pop("include", ()), "reasoning.encrypted_content"})
    items = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    body["input"] = [normal_item(item) for item in items]
    body["tools"] = [tool for tool in body.get("tools", []) if tool["type"] != "file_search"]
    if body.get("tool_choice") == "auto":
        del body["tool_choice"]
    text = {**body.pop("text", {})}
    if text.get("format") == {"type": "text"}:
        del text["format"]
    return without_null({**body, "include": include, "text": text})


def normal_item(item: dict[str, Any]) -> dict[str, Any]:
    item = {"type": "message", **item} if "role" in item else item
    content = item.get("content")
    if isinstance(content, list) and len(content) == 1 and content[0]["type"] == "input_text" and content[0].keys() == {"type", "text"}:
        item = {**item, "content": content[0]["text"]}
    return item


def without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_null(inner) for key, inner in value.items() if inner is not None}
    return [without_null(inner) for inner in value] if isinstance(value, list) else value


def in_the_call(body: dict[str, Any], call: Call) -> bool:
    """Whether what Headgate answers itself was understood."""
    searched = tuple(store for tool in body.get("tools", []) if tool["type"] == "file_search" for store in tool["vector_store_ids"])
    return (
        call.previous_response_id == body.get("previous_response_id")
        and call.conversation == body.get("conversation")
        and call.stores == searched
        and call.store == (body.get("store") is not False)
        and call.stream == bool(body.get("stream"))
        and call.model == body["model"]
    )


def test_recorded_requests_come_back_as_they_were() -> None:
    exchanges = recorded()
    differing, excepted = [], []
    for each in exchanges:
        asked = each["req"]
        try:
            call = decode_responses(json.dumps(asked).encode(), SEAL).call
        except ApiError as error:
            if error.param not in EXCEPTIONS:
                raise
            excepted.append(each["id"])
            continue
        again = msgspec.json.decode(backend(asked["model"]).encode(call.request).body)
        if normal(again) != normal(asked) or not in_the_call(asked, call):
            differing.append((each["id"], normal(asked), normal(again)))
    assert not differing, json.dumps(differing[0], indent=1)[:6_000]
    assert len(exchanges) > 160
    assert len(excepted) / len(exchanges) <= 0.02
