"""`POST /v1/embeddings`: OpenAI's embeddings, from this machine's own model or one that the policy configures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import structlog
from litestar import post
from litestar.types import Receive, Scope, Send

from adapters.errors import BackendError
from router.embedding import EmbeddingCall, EmbeddingExchange
from router.http.answering import backend_failure, header_value
from router.http.context import HttpRequest, gateway_of, principal_of, request_id_of
from router.http.errors import ApiError, ErrorBody, ErrorDetail
from router.http.limiting import limit_headers
from router.http.once import Ended, answer
from router.http.sending import send_whole
from router.moderating import Moderation
from router.wire.openai_embeddings import EmbeddingHeadgate, decode_embeddings, encode_embeddings

if TYPE_CHECKING:
    from policies.access import Principal
    from router.gateway import Gateway

log = structlog.get_logger("headgate.embeddings")


class EmbeddingsResponse:
    """An ASGI response that runs the exchange itself, so that a client that leaves stops the work within a tick."""

    heartbeat = b""
    streams = False

    def __init__(self, gateway: Gateway, principal: Principal, call: EmbeddingCall, request_id: str) -> None:
        self._gateway = gateway
        self._principal = principal
        self._call = call
        self._id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(self._gateway, self._principal, self, self._id, scope, receive, send)

    async def run(self, send: Send) -> Ended:
        exchange = EmbeddingExchange(self._gateway, self._principal, self._call, self._id)
        failure: ApiError | None = None
        self._gateway.metrics.active(1)
        rules = exchange.active.policy.moderation_rules(self._principal.tenant)
        try:
            async with self._gateway.interruptible():
                made = await exchange.answer()
            told = EmbeddingHeadgate(exchange.name, made.model, exchange.active.version, exchange.cost_usd, made.usage.source)
            await send_whole(send, 200, encode_embeddings(self._call, made, told), self._headers(exchange))
            return Ended(True)
        except ApiError as error:
            failure = error
        except BackendError as error:
            failure = backend_failure(error, Moderation(rules))
        finally:
            self._gateway.metrics.active(-1)
            self._log(exchange)
            self._gateway.recorder.embedded(exchange, None if failure is None else failure.code)
        assert failure is not None
        await self._refuse(failure, send, limit_headers(exchange.standings))
        return Ended(exchange.cost > 0, failure.detail, failure.status)

    def refusal(self, error: ErrorDetail, status: int) -> bytes:
        return msgspec.json.encode(ErrorBody(error))

    def broken(self, error: ErrorDetail, status: int) -> bytes:
        return self.refusal(error, status)

    async def refuse(self, error: ApiError, send: Send) -> None:
        await self._refuse(error, send, [])

    async def _refuse(self, error: ApiError, send: Send, limits: list[tuple[bytes, bytes]]) -> None:
        self._gateway.metrics.refused(error.code)
        await send_whole(send, error.status, error.body(), [*((name.encode(), header_value(value)) for name, value in error.headers.items()), *limits])

    def _headers(self, exchange: EmbeddingExchange) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"x-headgate-policy", header_value(str(exchange.active.version))),
            (b"x-headgate-backend", header_value(exchange.name)),
            (b"x-headgate-model", header_value(exchange.record.model or exchange.name)),
        ]
        headers += limit_headers(exchange.standings)
        if exchange.record.ignored:
            headers.append((b"x-headgate-ignored", header_value(",".join(exchange.record.ignored))))
        return headers

    def _log(self, exchange: EmbeddingExchange) -> None:
        log.info(
            "embedded",
            request_id=self._id,
            tenant=self._principal.tenant,
            key=self._principal.key_id,
            backend=exchange.name,
            texts=len(self._call.request.texts),
            outcome=exchange.outcome,
            ms=round((time.perf_counter() - exchange.started) * 1000, 1),
        )


@post("/v1/embeddings", status_code=200, tags=["embeddings"], summary="Texts to vectors")
async def create_embeddings(request: HttpRequest) -> EmbeddingsResponse:
    """OpenAI's embeddings. `model` is an embedder's name, or its model's; there is no routing and no fallback."""
    gateway, principal = gateway_of(request), principal_of(request)
    return EmbeddingsResponse(gateway, principal, decode_embeddings(await request.body()), request_id_of(request))
