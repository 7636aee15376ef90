"""The OpenAPI document: what Litestar knows of the routes, and what it cannot know.

The routes that decode their bodies themselves (for speed, and for errors that name the field) say here what those bodies are; errors have one
shape on every route; and every route but the open ones wants a key.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from msgspec import Struct

from adapters.anthropic.wire import CountBody, MessagesBody
from adapters.types import JsonObject
from policies.access_matrix import is_open
from router.http.admin import Rollback
from router.http.context import HttpRequest
from router.http.conversations import AddItems, CreateConversation, UpdateConversation
from router.http.errors import ErrorBody
from router.http.identity import ChangedTeam, ChangedUser, Erasure, NewKeyBody, NewTeam, NewTenant, NewUser, Rotation
from router.http.store_shapes import AttachFile, CreateStore, SearchBody, UpdateStore
from router.wire.anthropic_errors import speaks_anthropic
from router.wire.headgate import Headgate
from router.wire.openai_chat import ChatBody
from router.wire.openai_embeddings import EmbeddingsBody
from router.wire.openai_moderations import ModerationsBody
from router.wire.openai_responses import ResponsesBody

JSON = "application/json"
REFERENCE = "#/components/schemas/{name}"
POLICY_TEXT: JsonObject = {"content": {"application/yaml": {"schema": {"type": "string", "description": "A policy, as in docs/policy.md"}}}, "required": True}
USAGE_EXPORT: JsonObject = {"content": {"text/csv": {"schema": {"type": "string", "description": "Columns as in docs/accounting.md"}}}, "required": True}
UPLOAD: JsonObject = {
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string", "examples": ["assistants"]}},
                "required": ["file", "purpose"],
            }
        }
    },
    "required": True,
}

BODIES: dict[tuple[str, str], type[Struct] | JsonObject] = {
    ("post", "/v1/chat/completions"): ChatBody,
    ("post", "/v1/responses"): ResponsesBody,
    ("post", "/v1/messages"): MessagesBody,
    ("post", "/v1/messages/count_tokens"): CountBody,
    ("post", "/v1/route/explain"): ChatBody,
    ("post", "/v1/conversations"): CreateConversation,
    ("post", "/v1/conversations/{conversation_id}"): UpdateConversation,
    ("post", "/v1/conversations/{conversation_id}/items"): AddItems,
    ("post", "/v1/embeddings"): EmbeddingsBody,
    ("post", "/v1/moderations"): ModerationsBody,
    ("post", "/v1/files"): UPLOAD,
    ("post", "/v1/vector_stores"): CreateStore,
    ("post", "/v1/vector_stores/{store_id}"): UpdateStore,
    ("post", "/v1/vector_stores/{store_id}/files"): AttachFile,
    ("post", "/v1/vector_stores/{store_id}/search"): SearchBody,
    ("post", "/admin/tenants"): NewTenant,
    ("post", "/admin/teams"): NewTeam,
    ("patch", "/admin/teams/{team_id}"): ChangedTeam,
    ("post", "/admin/users"): NewUser,
    ("patch", "/admin/users/{user_id}"): ChangedUser,
    ("post", "/admin/keys"): NewKeyBody,
    ("post", "/admin/keys/{key_id}/rotate"): Rotation,
    ("post", "/admin/users/{user_id}/erase"): Erasure,
    ("put", "/admin/policy"): POLICY_TEXT,
    ("post", "/admin/policy/validate"): POLICY_TEXT,
    ("post", "/admin/policy/rollback"): Rollback,
    ("post", "/admin/ledger/reconcile"): USAGE_EXPORT,
}
"""The bodies of the routes that decode them themselves: a struct, or a whole `requestBody` object."""

ERROR: JsonObject = {
    "description": "Refused or failed: `code` says what happened, `message` what to do next, `param` which field is at fault. Every code is in docs/api.md.",
    "content": {JSON: {"schema": {"$ref": REFERENCE.format(name="ErrorBody")}}},
}

_TEXTS = {name: {"type": "string"} for name in ("type", "message", "code")}
ANTHROPIC_ERROR: JsonObject = {
    "description": "The same in Anthropic's shape: `type` is its word for the status.",
    "content": {
        JSON: {
            "schema": {
                "type": "object",
                "properties": {
                    "type": {"const": "error"},
                    "error": {"type": "object", "properties": {**_TEXTS, "param": {"type": ["string", "null"]}}},
                    "request_id": {"type": "string"},
                },
            }
        }
    },
}


def complete(document: JsonObject) -> JsonObject:
    """Litestar's document with the bodies, the errors and the key. Changes it in place."""
    structs = [body for body in BODIES.values() if isinstance(body, type)]
    _, components = msgspec.json.schema_components([*structs, ErrorBody, Headgate], ref_template=REFERENCE)
    document["components"].setdefault("schemas", {}).update(components)
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key, hg-…; or in the header x-api-key."}}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if (method, path) in BODIES:
                operation["requestBody"] = _request_body(BODIES[method, path])
            operation["responses"].pop("400", None)  # Litestar's own shape, which no route answers
            operation["responses"]["default"] = ANTHROPIC_ERROR if speaks_anthropic(path) else ERROR
            operation["security"] = [] if is_open(method.upper(), path) else [{"key": []}]
    for path, answer in ANSWERS.items():
        document["paths"][path]["post"]["responses"]["200"] = answer
    return document


def _answer(description: str, **fields: JsonObject) -> JsonObject:
    """A dialect's answer: whole, or as server-sent events."""
    properties = {
        "id": {"type": "string"},
        "model": {"type": "string"},
        **fields,
        "usage": {"type": "object"},
        "headgate": {"$ref": REFERENCE.format(name="Headgate")},
    }
    return {
        "description": description,
        "content": {JSON: {"schema": {"type": "object", "properties": properties}}, "text/event-stream": {"schema": {"type": "string"}}},
    }


_OBJECTS: JsonObject = {"type": "array", "items": {"type": "object"}}

ANSWERS: dict[str, JsonObject] = {
    "/v1/chat/completions": _answer(
        "OpenAI's `chat.completion`; with `stream: true`, its `chat.completion.chunk`s as server-sent events, `[DONE]` last.",
        object={"const": "chat.completion"},
        created={"type": "integer"},
        choices=_OBJECTS,
    ),
    "/v1/responses": _answer(
        "OpenAI's `Response`; with `stream: true`, its events as server-sent events: the last is `response.completed`, `.incomplete` or `.failed`, or `error`.",
        object={"const": "response"},
        created_at={"type": "integer"},
        status={"enum": ["completed", "incomplete", "failed", "in_progress"]},
        output=_OBJECTS,
    ),
    "/v1/messages": _answer(
        "Anthropic's `Message`; with `stream: true`, its events as server-sent events: the last is `message_stop`, or `error`.",
        type={"const": "message"},
        role={"const": "assistant"},
        content=_OBJECTS,
        stop_reason={"type": ["string", "null"]},
        stop_sequence={"type": ["string", "null"]},
    ),
}
"""The answers of the routes that write them themselves."""


def _request_body(body: type[Struct] | JsonObject) -> JsonObject:
    if isinstance(body, dict):
        return body
    return {"content": {JSON: {"schema": {"$ref": REFERENCE.format(name=body.__name__)}}}, "required": True}


class CompleteJson(JsonRenderPlugin):
    """`/schema/openapi.json`, complete. Made once per process."""

    def __init__(self) -> None:
        super().__init__(path="/openapi.json")
        self._made: bytes | None = None

    def render(self, request: HttpRequest, openapi_schema: dict[str, Any]) -> bytes:
        if self._made is None:
            self._made = msgspec.json.encode(complete(openapi_schema), enc_hook=str)
        return self._made


def openapi_config() -> OpenAPIConfig:
    """Where the document is and what it holds."""
    return OpenAPIConfig(title="Headgate", version="0.1.0", path="/schema", use_handler_docstrings=True, render_plugins=[CompleteJson()])
