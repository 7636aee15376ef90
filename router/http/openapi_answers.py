"""What the OpenAPI document says of answers: the statuses of every endpoint, and the bodies that Litestar cannot know.

A status that an endpoint answers and does not list here is a defect, which the fuzzing of the document finds.
"""

from __future__ import annotations

from adapters.types import JsonObject
from policies.access_matrix import Endpoint, is_open
from router.wire.anthropic_errors import speaks_anthropic
from router.wire.openai_moderations import UNJUDGED

JSON = "application/json"
SCHEMAS = "#/components/schemas/"
RESPONSES = "#/components/responses/"

REFUSALS: dict[int, str] = {
    400: "The request is malformed, or asks for what cannot be done.",
    401: "There is no key, or this one is not valid here.",
    402: "The budget, or the request's own `max_cost_usd`, does not cover it.",
    403: "The key may not do this.",
    404: "What the request names does not exist, or is another tenant's.",
    409: "The state of things does not allow it: something exists already, is archived, or is not valid any more.",
    412: "It was changed meanwhile.",
    413: "The body is too large.",
    422: "The `Idempotency-Key` cannot be used for this request.",
    428: "The request needs `If-Match`.",
    429: "A limit is reached, or the provider asked to slow down; `retry-after` says when to come back.",
    500: "The service failed: give your administrator the request id.",
    502: "The provider failed, or gave no usable answer.",
    503: "Something that this needs is not there or not available now; `retry-after` where waiting helps.",
    504: "The provider did not answer in time.",
}
"""What a client learns from a status that is no success."""

OF_EVERY_KEY = (400, 401, 403, 429, 500, 503)
"""What any endpoint that wants a key may answer: the door looks at the credentials, the limits and the roles, and may itself be short of something."""

NAMING = frozenset({"after", "before", "tenant", "provider"})
"""Query parameters that name an object, which may not exist."""

_ANSWERING = (402, 404, 422, 502, 504)

MORE: dict[Endpoint, tuple[int, ...]] = {
    ("POST", "/v1/chat/completions"): _ANSWERING,
    ("POST", "/v1/messages"): _ANSWERING,
    ("POST", "/v1/messages/count_tokens"): (402, 404, 502, 504),
    ("POST", "/v1/responses"): _ANSWERING,
    ("POST", "/v1/route/explain"): (404,),
    ("POST", "/v1/feedback"): (404,),
    ("POST", "/v1/embeddings"): _ANSWERING,
    ("POST", "/v1/moderations"): (404,),
    ("POST", "/v1/conversations"): (404,),
    ("POST", "/v1/vector_stores"): (404,),
    ("PUT", "/admin/policy"): (412, 428),
    ("POST", "/admin/policy/backtest"): (409,),
    ("POST", "/admin/policy/diff"): (404, 409),
    ("POST", "/admin/policy/rollback"): (404, 409),
    ("POST", "/admin/tenants"): (409,),
    ("POST", "/admin/teams"): (404, 409),
    ("PATCH", "/admin/teams/{team_id}"): (409,),
    ("POST", "/admin/users"): (404, 409),
    ("PATCH", "/admin/users/{user_id}"): (409,),
    ("POST", "/admin/keys"): (404,),
    ("GET", "/admin/usage"): (409,),
    ("GET", "/admin/statements/{tenant}/{month}"): (409,),
}
"""What an endpoint answers beside what follows from its key, its parameters and its body."""


def statuses(endpoint: Endpoint, operation: JsonObject) -> list[int]:
    """The statuses of an endpoint that are no success."""
    if is_open(*endpoint):
        return []
    found = {*OF_EVERY_KEY, *MORE.get(endpoint, ())}
    if any(parameter["in"] == "path" or parameter["name"] in NAMING for parameter in operation.get("parameters", ())):
        found.add(404)
    if "requestBody" in operation:
        found.add(413)
    return sorted(found)


def refusal(status: int, path: str) -> JsonObject:
    """A reference to what a path answers with this status."""
    return {"$ref": f"{RESPONSES}{'AnthropicError' if speaks_anthropic(path) else 'Error'}{status}"}


def refusals() -> JsonObject:
    """The components that `refusal` refers to."""
    found: JsonObject = {}
    for status, words in REFUSALS.items():
        headers = {"headers": {"retry-after": {"description": "Seconds to wait", "schema": {"type": "string"}}}} if status in (429, 503) else {}
        for name, schema in (("Error", {"$ref": f"{SCHEMAS}ErrorBody"}), ("AnthropicError", _ANTHROPIC)):
            about = f"{words} `code` says what happened, `message` what to do next, `param` which field is at fault. Every code is in docs/api.md."
            found[f"{name}{status}"] = {"description": about, "content": {JSON: {"schema": schema}}, **headers}
    return found


_TEXT: JsonObject = {"type": "string"}
_MAYBE: JsonObject = {"type": ["string", "null"]}
_EVENT: JsonObject = {
    "type": "object",
    "description": "Each of the stream's events. `data` is JSON, but for the `[DONE]` of `/v1/chat/completions`.",
    "properties": {"event": _TEXT, "data": _TEXT},
    "required": ["data"],
}
_ANTHROPIC: JsonObject = {
    "type": "object",
    "description": "Anthropic's shape: `type` is its word for the status.",
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "properties": {"type": _TEXT, "message": _TEXT, "code": _MAYBE, "param": _MAYBE},
            "required": ["type", "message"],
        },
        "request_id": _TEXT,
    },
    "required": ["type", "error", "request_id"],
}


def _spoken(description: str, **fields: JsonObject) -> JsonObject:
    """A dialect's answer: whole, or as server-sent events."""
    properties = {"id": _TEXT, "model": _TEXT, **fields, "usage": {"type": "object"}, "headgate": {"$ref": f"{SCHEMAS}Headgate"}}
    return {
        "description": description,
        "content": {JSON: {"schema": {"type": "object", "properties": properties}}, "text/event-stream": {"schema": _EVENT}},
    }


def _answer(description: str, **kinds: JsonObject) -> JsonObject:
    return {"description": description, "content": {_KINDS[kind]: {"schema": schema} for kind, schema in kinds.items()}}


_KINDS = {
    "json": JSON,
    "csv": "text/csv",
    "pdf": "application/pdf",
    "markdown": "text/markdown",
    "text": "text/plain",
    "yaml": "application/yaml",
    "bytes": "application/octet-stream",
}
_OBJECT: JsonObject = {"type": "object"}
_OBJECTS: JsonObject = {"type": "array", "items": _OBJECT}
_BYTES: JsonObject = {"type": "string", "format": "binary"}


def _by_category(value: JsonObject) -> JsonObject:
    """OpenAI's categories, and those of the rules."""
    return {"type": "object", "additionalProperties": value, "required": list(UNJUDGED)}


_MODERATED: JsonObject = {
    "type": "object",
    "properties": {
        "flagged": {"type": "boolean"},
        "categories": _by_category({"type": "boolean"}),
        "category_scores": _by_category({"type": "number"}),
        "category_applied_input_types": _by_category({"type": "array", "items": {"const": "text"}}),
        "headgate": {
            "type": "object",
            "properties": {"judged": {"type": "array", "items": _TEXT}, "matches": {"type": "array", "items": {"$ref": f"{SCHEMAS}FoundMatch"}}},
            "required": ["judged", "matches"],
        },
    },
    "required": ["flagged", "categories", "category_scores", "category_applied_input_types", "headgate"],
}
_READY = _answer("Whether the service can serve, and the state of every backend.", json=_OBJECT)

ANSWERS: dict[Endpoint, dict[int, JsonObject]] = {
    ("POST", "/v1/chat/completions"): {
        200: _spoken(
            "OpenAI's `chat.completion`; with `stream: true`, its `chat.completion.chunk`s as server-sent events, `[DONE]` last.",
            object={"const": "chat.completion"},
            created={"type": "integer"},
            choices=_OBJECTS,
        )
    },
    ("POST", "/v1/responses"): {
        200: _spoken(
            "OpenAI's `Response`; with `stream: true`, its events as server-sent events: the last is `response.completed`, `.incomplete` or `.failed`, "
            "or `error`.",
            object={"const": "response"},
            created_at={"type": "integer"},
            status={"enum": ["completed", "incomplete", "failed", "in_progress"]},
            output=_OBJECTS,
        )
    },
    ("POST", "/v1/messages"): {
        200: _spoken(
            "Anthropic's `Message`; with `stream: true`, its events as server-sent events: the last is `message_stop`, or `error`.",
            type={"const": "message"},
            role={"const": "assistant"},
            content=_OBJECTS,
            stop_reason=_MAYBE,
            stop_sequence=_MAYBE,
        )
    },
    ("POST", "/v1/embeddings"): {200: _answer("A vector for every text.", json={"$ref": f"{SCHEMAS}EmbeddingList"})},
    ("POST", "/v1/moderations"): {
        200: _answer(
            "What the rules find in every input.",
            json={
                "type": "object",
                "properties": {"id": _TEXT, "model": _TEXT, "results": {"type": "array", "items": _MODERATED}, "headgate": _OBJECT},
                "required": ["id", "model", "results", "headgate"],
            },
        )
    },
    ("GET", "/v1/files/{file_id}/content"): {200: _answer("The original, as a download.", bytes=_BYTES)},
    ("GET", "/v1/files/{file_id}/text"): {200: _answer("The canonical text, UTF-8.", text=_TEXT)},
    ("GET", "/admin/policy"): {200: _answer("The policy in force; its ETag is in the header.", yaml=_OBJECT)},
    ("GET", "/admin/usage"): {
        200: _answer(
            "A line for every group, and where the budgets stand; or the lines as CSV.",
            json={"type": "object", "properties": {"data": _OBJECTS, "budgets": _OBJECTS}, "required": ["data", "budgets"]},
            csv=_TEXT,
        )
    },
    ("GET", "/admin/statements/{tenant}/{month}"): {200: _answer("The statement, in the format that was asked for.", json=_OBJECT, markdown=_TEXT, pdf=_BYTES)},
    ("GET", "/health"): {200: _READY, 503: _READY},
    ("GET", "/health/ready"): {200: _READY, 503: _READY},
}
"""The answers of the routes that write them themselves."""
