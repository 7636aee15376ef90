"""Which action every endpoint needs: with the roles' matrix in `access`, the whole of who may call what.

The application refuses to start with a route that has no row here, and every request is checked against its row before its route runs. Beside
the action, every object that a route names must be the caller's tenant's: the routes see to that, and answer for another tenant's as for none.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from policies.access import Action

Endpoint: TypeAlias = tuple[str, str]
"""A method and a path template."""

Open: TypeAlias = Literal["open"]
OPEN: Final = "open"
"""Needs no key."""

ACCESS: dict[Endpoint, Action | Open] = {
    ("GET", "/"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/schema"): OPEN,
    ("GET", "/schema/openapi.json"): OPEN,
    ("GET", "/schema/{path}"): OPEN,
    ("GET", "/health"): OPEN,
    ("GET", "/health/live"): OPEN,
    ("GET", "/health/ready"): OPEN,
    ("GET", "/metrics"): "metrics.read",
    # answers
    ("POST", "/v1/chat/completions"): "chat",
    ("POST", "/v1/messages"): "chat",
    ("POST", "/v1/messages/count_tokens"): "chat",
    ("POST", "/v1/responses"): "chat",
    ("GET", "/v1/responses"): "chat",
    ("GET", "/v1/responses/{response_id}"): "chat",
    ("DELETE", "/v1/responses/{response_id}"): "chat",
    ("GET", "/v1/responses/{response_id}/input_items"): "chat",
    ("POST", "/v1/conversations"): "chat",
    ("GET", "/v1/conversations"): "chat",
    ("GET", "/v1/conversations/{conversation_id}"): "chat",
    ("POST", "/v1/conversations/{conversation_id}"): "chat",
    ("DELETE", "/v1/conversations/{conversation_id}"): "chat",
    ("POST", "/v1/conversations/{conversation_id}/items"): "chat",
    ("GET", "/v1/conversations/{conversation_id}/items"): "chat",
    ("GET", "/v1/conversations/{conversation_id}/items/{item_id}"): "chat",
    ("DELETE", "/v1/conversations/{conversation_id}/items/{item_id}"): "chat",
    ("POST", "/v1/route/explain"): "route.explain",
    ("POST", "/v1/feedback"): "feedback",
    ("POST", "/v1/embeddings"): "embeddings",
    ("POST", "/v1/moderations"): "moderations",
    ("GET", "/v1/models"): "models.read",
    ("GET", "/v1/models/{name}"): "models.read",
    # documents
    ("POST", "/v1/files"): "files.write",
    ("GET", "/v1/files"): "files.read",
    ("GET", "/v1/files/{file_id}"): "files.read",
    ("GET", "/v1/files/{file_id}/content"): "files.read",
    ("GET", "/v1/files/{file_id}/text"): "files.read",
    ("DELETE", "/v1/files/{file_id}"): "files.write",
    ("POST", "/v1/vector_stores"): "stores.write",
    ("GET", "/v1/vector_stores"): "stores.read",
    ("GET", "/v1/vector_stores/{store_id}"): "stores.read",
    ("POST", "/v1/vector_stores/{store_id}"): "stores.write",
    ("DELETE", "/v1/vector_stores/{store_id}"): "stores.write",
    ("POST", "/v1/vector_stores/{store_id}/files"): "stores.write",
    ("GET", "/v1/vector_stores/{store_id}/files"): "stores.read",
    ("GET", "/v1/vector_stores/{store_id}/files/{file_id}"): "stores.read",
    ("DELETE", "/v1/vector_stores/{store_id}/files/{file_id}"): "stores.write",
    ("POST", "/v1/vector_stores/{store_id}/search"): "stores.read",
    # administration
    ("GET", "/admin/policy"): "policy.read",
    ("PUT", "/admin/policy"): "policy.write",
    ("POST", "/admin/policy/validate"): "policy.read",
    ("POST", "/admin/policy/backtest"): "policy.read",
    ("POST", "/admin/policy/test"): "policy.read",
    ("POST", "/admin/policy/diff"): "policy.read",
    ("GET", "/admin/policy/status"): "policy.read",
    ("GET", "/admin/policy/versions"): "policy.read",
    ("GET", "/admin/policy/versions/{version}"): "policy.read",
    ("POST", "/admin/policy/rollback"): "policy.write",
    ("GET", "/admin/tenants"): "tenants.read",
    ("POST", "/admin/tenants"): "tenants.write",
    ("GET", "/admin/teams"): "teams.read",
    ("POST", "/admin/teams"): "teams.write",
    ("GET", "/admin/teams/{team_id}"): "teams.read",
    ("PATCH", "/admin/teams/{team_id}"): "teams.write",
    ("GET", "/admin/users"): "users.read",
    ("POST", "/admin/users"): "users.write",
    ("GET", "/admin/users/{user_id}"): "users.read",
    ("PATCH", "/admin/users/{user_id}"): "users.write",
    ("POST", "/admin/users/{user_id}/erase"): "users.erase",
    ("GET", "/admin/keys"): "keys.read",
    ("POST", "/admin/keys"): "keys.write",
    ("GET", "/admin/keys/{key_id}"): "keys.read",
    ("DELETE", "/admin/keys/{key_id}"): "keys.write",
    ("POST", "/admin/keys/{key_id}/rotate"): "keys.write",
    ("GET", "/admin/usage"): "usage.read",
    ("GET", "/admin/alerts"): "usage.read",
    ("GET", "/admin/statements/{tenant}/{month}"): "usage.read",
    ("POST", "/admin/ledger/reconcile"): "ledger.write",
    ("GET", "/admin/ledger"): "ledger.read",
    ("GET", "/admin/audit"): "audit.read",
    ("GET", "/admin/audit/verify"): "audit.verify",
    ("GET", "/admin/decisions/{request_id}"): "decisions.read",
    ("GET", "/admin/prompts/{request_id}"): "prompts.read",
    ("DELETE", "/admin/prompts/{request_id}"): "prompts.write",
    ("GET", "/admin/backends"): "backends.read",
}
"""Every endpoint of the service."""


def is_open(method: str, path: str) -> bool:
    """Whether an endpoint opens without a key."""
    return ACCESS.get((method, path)) == OPEN
