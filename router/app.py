"""Wiring: routes, middleware and error bodies. No logic."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException

from router.gateway import Gateway
from router.http import (
    admin,
    audit,
    audited,
    backtest,
    chat,
    conversations,
    docs,
    embeddings,
    explain,
    feedback,
    files,
    health,
    identity,
    messages,
    models,
    moderations,
    policy,
    responses,
    usage,
    vector_stores,
)
from router.http.access import Authorise, require_rows
from router.http.errors import ApiError
from router.http.middleware import Authenticate, RequestId, id_headers
from router.http.openapi import openapi_config
from router.wire.anthropic_errors import error_object, speaks_anthropic

log = structlog.get_logger("headgate.http")

_MESSAGES = {
    404: "There is no such path; /docs lists them all.",
    405: "This path has no such method; /docs lists them all.",
    413: "The body is too large for this service. Send less, or ask your administrator to raise 'max_body_mb'.",
}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}


def create_app(open_gateway: Callable[[], Awaitable[Gateway]], *, max_body_bytes: int) -> Litestar:
    """The ASGI application. `open_gateway` is awaited at start-up, on the loop that serves.

    Raises `RouteWithoutRow` where the routes and the endpoint matrix differ.
    """

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
        gateway = await open_gateway()
        app.state.gateway = gateway
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    app = Litestar(
        route_handlers=[
            chat.chat_completions,
            messages.create_message,
            messages.count_message_tokens,
            explain.explain_route,
            feedback.give_feedback,
            embeddings.create_embeddings,
            moderations.create_moderation,
            models.list_models,
            models.get_model,
            docs.landing,
            docs.reference,
            health.live,
            health.ready,
            health.metrics,
            *responses.handlers,
            *conversations.handlers,
            *files.handlers,
            *vector_stores.handlers,
            *identity.handlers,
            *policy.handlers,
            *admin.handlers,
            *backtest.handlers,
            *audit.handlers,
            *audited.handlers,
            *usage.handlers,
        ],
        middleware=[RequestId(), Authenticate(), Authorise()],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _internal_error},
        lifespan=[lifespan],
        openapi_config=openapi_config(),
        request_max_body_size=max_body_bytes,
        logging_config=None,
    )
    require_rows(app)
    return app


def _respond(request: Request[Any, Any, Any], error: ApiError) -> Response[bytes]:
    """The error in the shape of the path's dialect."""
    path = request.scope["path"]  # not `url`, which a `Host` that is none breaks
    request_id = request.state.get("request_id") or uuid.uuid4().hex  # no path, no route: the middleware did not run
    body = error_object(error.detail, error.status, request_id, getattr(error, "details", None)) if speaks_anthropic(path) else error.body()
    return Response(body, status_code=error.status, media_type="application/json", headers={**error.headers, **id_headers(path, request_id)})


def _api_error(request: Request[Any, Any, Any], error: ApiError) -> Response[bytes]:
    return _respond(request, error)


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    code = _CODES.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal_error")
    message = _MESSAGES.get(error.status_code, error.detail)
    return _respond(request, ApiError(error.status_code, code, message, headers=error.headers))


def _internal_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    request_id = request.state.get("request_id", "")
    log.error("request_failed", request_id=request_id, path=request.scope["path"], exc_info=error)
    return _respond(request, ApiError(500, "internal_error", f"The service failed. Tell your administrator the request id {request_id}."))
