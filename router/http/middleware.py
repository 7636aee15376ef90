"""Who is asking: the request id and the principal, before any route runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from router.http.access import is_open
from router.http.errors import ApiError
from router.http.limiting import refused_at_the_door
from router.ids import fresh_id
from router.wire.anthropic_errors import speaks_anthropic

if TYPE_CHECKING:
    from router.gateway import Gateway


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
    """Puts the principal into the request's state. What is refused, and how, says `router.credentials.door`."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        if not is_open(scope):
            gateway: Gateway = scope["litestar_app"].state.gateway
            try:
                scope["state"]["principal"] = await gateway.door.admit(scope)
            except ApiError as error:
                raise await refused_at_the_door(gateway, scope, error) from error
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                raise ApiError(
                    400, "invalid_request", "A path and a query cannot hold U+0000 (%00): nothing is called that, and no database would look for it."
                )
        await next_app(scope, receive, send)
