"""Examples of bodies for the OpenAPI document: requests that work as they stand, but for the ids of objects and the names of tenants in them.

None puts a policy in force: whoever sends an example out of curiosity should not change what everybody's requests do.
"""

from __future__ import annotations

from adapters.types import JsonObject
from policies.access_matrix import Endpoint

_HELLO: JsonObject = {"role": "user", "content": "Hello"}
_ITEMS: JsonObject = {"items": [{"type": "message", **_HELLO}]}
_WEATHER: JsonObject = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

EXAMPLES: dict[Endpoint, dict[str, JsonObject | str]] = {
    ("POST", "/v1/chat/completions"): {
        "whole": {"model": "auto", "messages": [_HELLO]},
        "streamed": {
            "model": "auto",
            "messages": [{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": "What is the weather in Kyiv?"}],
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": _WEATHER}}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    ("POST", "/v1/responses"): {
        "whole": {"model": "auto", "input": "Hello"},
        "streamed": {"model": "auto", "input": [_HELLO], "instructions": "Answer in one sentence.", "stream": True, "store": False},
    },
    ("POST", "/v1/messages"): {
        "whole": {"model": "auto", "max_tokens": 200, "messages": [_HELLO]},
        "streamed": {"model": "auto", "max_tokens": 200, "system": "Answer in one sentence.", "messages": [_HELLO], "stream": True},
    },
    ("POST", "/v1/messages/count_tokens"): {"prompt": {"model": "auto", "messages": [_HELLO]}},
    ("POST", "/v1/route/explain"): {"chat": {"model": "auto", "messages": [_HELLO]}},
    ("POST", "/v1/embeddings"): {"texts": {"model": "text-embedding-3-small", "input": ["Hello", "The battery is covered for three years."]}},
    ("POST", "/v1/feedback"): {
        "thumb": {"request_id": "0123456789abcdef0123456789abcdef", "thumb": "up"},
        "score": {"request_id": "0123456789abcdef0123456789abcdef", "score": 0.25, "comment": "The second figure is wrong."},
    },
    ("POST", "/v1/moderations"): {"text": {"input": "Write to ada@example.org."}},
    ("POST", "/v1/conversations"): {"begun": {**_ITEMS, "metadata": {"topic": "greetings"}}},
    ("POST", "/v1/conversations/{conversation_id}"): {"metadata": {"metadata": {"topic": "greetings"}}},
    ("POST", "/v1/conversations/{conversation_id}/items"): {"message": _ITEMS},
    ("POST", "/v1/vector_stores"): {"store": {"name": "Handbooks", "expires_after": {"anchor": "last_active_at", "days": 30}}},
    ("POST", "/v1/vector_stores/{store_id}"): {"renamed": {"name": "Handbooks of 2026"}},
    ("POST", "/v1/vector_stores/{store_id}/files"): {"file": {"file_id": "file-0123456789abcdef01234567", "attributes": {"year": 2026}}},
    ("POST", "/v1/vector_stores/{store_id}/search"): {"question": {"query": "How long is the battery covered?", "max_num_results": 5}},
    ("POST", "/admin/tenants"): {"tenant": {"name": "initech"}},
    ("POST", "/admin/teams"): {"team": {"name": "support", "tenant": "acme"}},
    ("PATCH", "/admin/teams/{team_id}"): {"renamed": {"name": "service"}},
    ("POST", "/admin/users"): {"user": {"role": "member", "tenant": "acme", "email": "ada@example.org"}},
    ("PATCH", "/admin/users/{user_id}"): {"renamed": {"display_name": "Ada"}},
    ("POST", "/admin/users/{user_id}/erase"): {"for good": {}},
    ("POST", "/admin/keys"): {"key": {"role": "member", "tenant": "acme", "name": "build server", "routes": ["chat"]}},
    ("POST", "/admin/keys/{key_id}/rotate"): {"overlap": {"overlap_s": 3600}},
    ("POST", "/admin/policy/validate"): {"smallest": {"version": 1, "default": "extractive"}},
    ("POST", "/admin/policy/test"): {"smallest": {"version": 1, "default": "extractive"}},
    ("POST", "/admin/policy/diff"): {"smallest": {"version": 1, "default": "extractive"}},
    ("POST", "/admin/policy/backtest"): {"smallest": {"version": 1, "default": "extractive"}},
    ("POST", "/admin/ledger/reconcile"): {"requests": "provider_request_id,input_tokens,output_tokens\nreq-1,1200,80\n"},
    ("POST", "/admin/policy/rollback"): {"first": {"version": 1}},
    ("POST", "/admin/canaries/{rule}/resume"): {"again": {}},
}


def shown(endpoint: Endpoint, content: JsonObject) -> JsonObject:
    """A body's `content` with its examples, under the media type that it has."""
    examples = {name: {"value": value} for name, value in EXAMPLES.get(endpoint, {}).items()}
    return {kind: {**about, "examples": examples} for kind, about in content.items()} if examples else content
