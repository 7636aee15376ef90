"""The OpenAPI document: what Litestar knows of the routes, and what it cannot know.

The routes that decode their bodies themselves (for speed, and for errors that name the field) say here what those bodies are; what is answered, and with
which statuses, says `openapi_answers`; and every route but the open ones wants a key.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from msgspec import Struct

from adapters.anthropic.wire import CountBody, MessagesBody
from adapters.types import JsonObject
from policies.access_matrix import Endpoint, is_open
from router.http.canaries import Resumption
from router.http.context import HttpRequest
from router.http.conversations import AddItems, CreateConversation, UpdateConversation
from router.http.errors import ErrorBody
from router.http.feedback import GivenFeedback
from router.http.identity import ChangedTeam, ChangedUser, Erasure, NewKeyBody, NewTeam, NewTenant, NewUser, Rotation
from router.http.once import LONGEST_KEY
from router.http.openapi_answers import ANSWERS, JSON, refusal, refusals, statuses
from router.http.openapi_examples import shown
from router.http.policy import COMMENT, LONGEST_COMMENT, Rollback
from router.http.store_shapes import AttachFile, CreateStore, SearchBody, UpdateStore
from router.wire.headgate import Headgate
from router.wire.openai_chat import ChatBody
from router.wire.openai_embeddings import EmbeddingList, EmbeddingsBody
from router.wire.openai_moderations import FoundMatch, ModerationsBody
from router.wire.openai_responses import ResponsesBody

REFERENCE = "#/components/schemas/{name}"
POLICY_TEXT: JsonObject = {"content": {"application/yaml": {"schema": {"type": "object", "description": "A policy, as in docs/policy.md"}}}, "required": True}
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
    ("post", "/v1/feedback"): GivenFeedback,
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
    ("post", "/admin/policy/test"): {**POLICY_TEXT, "required": False},
    ("post", "/admin/policy/diff"): {**POLICY_TEXT, "required": False},
    ("post", "/admin/policy/backtest"): POLICY_TEXT,
    ("post", "/admin/policy/rollback"): Rollback,
    ("post", "/admin/canaries/{rule}/resume"): Resumption,
    ("post", "/admin/ledger/reconcile"): USAGE_EXPORT,
}
"""The bodies of the routes that decode them themselves: a struct, or a whole `requestBody` object."""


def _header(name: str, description: str, **schema: Any) -> JsonObject:
    return {"name": name, "in": "header", "description": description, "required": False, "schema": {"type": "string", **schema}}


_RETRY = _header(
    "Idempotency-Key", "A request that is sent again with the same key gets the first one's answer, and is billed once", minLength=1, maxLength=LONGEST_KEY
)
HEADERS: dict[Endpoint, list[JsonObject]] = {
    ("POST", "/v1/chat/completions"): [_RETRY],
    ("POST", "/v1/messages"): [_RETRY],
    ("POST", "/v1/responses"): [_RETRY],
    ("POST", "/v1/embeddings"): [_RETRY],
    ("PUT", "/admin/policy"): [
        {**_header("If-Match", "The ETag of GET /admin/policy; `*` for whatever is in force"), "required": True},
        _header(COMMENT, "Why the version is made, where the query does not say it", maxLength=LONGEST_COMMENT),
    ],
}
"""The headers that the routes read themselves."""


def complete(document: JsonObject) -> JsonObject:
    """Litestar's document with the bodies, the answers and the key. Changes it in place."""
    structs = [body for body in BODIES.values() if isinstance(body, type)]
    _, components = msgspec.json.schema_components([*structs, ErrorBody, Headgate, EmbeddingList, FoundMatch], ref_template=REFERENCE)
    document["components"].setdefault("schemas", {}).update(components)
    document["components"]["responses"] = refusals()
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key, hg-…; or in the header x-api-key."}}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            endpoint = method.upper(), path
            if (method, path) in BODIES:
                body = _request_body(BODIES[method, path])
                operation["requestBody"] = {**body, "content": shown(endpoint, body["content"])}
            if endpoint in HEADERS:
                operation.setdefault("parameters", []).extend(HEADERS[endpoint])
            responses = operation["responses"]
            responses.pop("400", None)  # Litestar's own shape, which no route answers
            responses.update({str(status): refusal(status, path) for status in statuses(endpoint, operation)})
            responses.update({str(status): answer for status, answer in ANSWERS.get(endpoint, {}).items()})
            operation["security"] = [] if is_open(*endpoint) else [{"key": []}]
    return document


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
