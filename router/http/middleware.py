"""Who is asking: the request id and the API key, before any route runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from router.http.errors import ApiError
from router.http.limiting import without_key
from router.ids import fresh_id
from router.wire.anthropic_errors import speaks_anthropic

if TYPE_CHECKING:
    from router.gateway import Gateway

OPEN_PATHS = ("/health", "/schema", "/docs")
"""What opens without a key, with everything below it; `/` opens too."""


def is_open(path: str) -> bool:
    """Whether a path opens without a key."""
    return path == "/" or any(path == start or path.startswith(f"{start}/") for start in OPEN_PATHS)


def id_headers(path: str, request_id: str) -> dict[str, str]:
    """How an answer says its request's id. Anthropic's SDKs look for it under their own name."""
    return dict.fromkeys(("x-request-id", "request-id") if speaks_anthropic(path) else ("x-request-id",), request_id)


class RequestId(ASGIMiddleware):
    """Gives every request an id of our own and answers it as `x-request-id`, on every status that a route answers.

    What is refused before a route runs does not pass through `send` here: `router.app` names it there.
    """

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        request_id = fresh_id()
        scope.setdefault("state", {})["request_id"] = request_id
        headers = [(name.encode(), value.encode()) for name, value in id_headers(scope["path"], request_id).items()]
        names = {name for name, _ in headers}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*(header for header in message["headers"] if header[0] not in names), *headers]
            await send(message)

        await next_app(scope, receive, send_with_id)


class Authenticate(ASGIMiddleware):
    """Puts the key's principal into the request's state. Raises `ApiError` 401 for no key and for a bad one, in the same words."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        if not is_open(scope["path"]):
            gateway: Gateway = scope["litestar_app"].state.gateway
            key = presented_key(scope)
            if key is None:
                missing = ApiError(401, "missing_api_key", "No API key: send 'Authorization: Bearer hg-...' or 'x-api-key: hg-...'.")
                raise await without_key(gateway, scope, missing)
            principal = await gateway.auth.principal(key)
            if principal is None:
                unknown = ApiError(401, "invalid_api_key", "This API key is unknown, expired or revoked. Ask your administrator for another.")
                raise await without_key(gateway, scope, unknown)
            scope["state"]["principal"] = principal
        await next_app(scope, receive, send)


def presented_key(scope: Scope) -> str | None:
    """The key as sent, from either header."""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return value.decode("latin-1").strip() or None
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return token.strip()
    return None
