"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's messages."""

from __future__ import annotations

from litestar import post
from msgspec import Struct

from router.http.answering import AnswerResponse
from router.http.context import HttpRequest, gateway_of, principal_of, request_id_of
from router.pipeline import Exchange
from router.wire.anthropic_messages import decode_count, decode_messages
from router.wire.anthropic_messages_out import MessagesDialect


class CountedTokens(Struct, frozen=True):
    """A prompt's length in tokens."""

    input_tokens: int


@post("/v1/messages", status_code=200, tags=["chat"], summary="Answer Anthropic's messages, streamed or whole")
async def create_message(request: HttpRequest) -> AnswerResponse:
    """Anthropic's messages. `model: "auto"` lets the policy choose; a backend's or a model's name pins it."""
    gateway, principal = gateway_of(request), principal_of(request)
    seal = gateway.sealer.of(principal.tenant)
    call = decode_messages(await request.body(), seal, _betas(request))
    moderated = bool(gateway.policy.current.policy.moderation_rules(principal.tenant).rules)
    return AnswerResponse(gateway, principal, call, request_id_of(request), MessagesDialect(seal, moderated=moderated))


@post("/v1/messages/count_tokens", status_code=200, tags=["chat"], summary="Count the tokens of a prompt")
async def count_message_tokens(request: HttpRequest) -> CountedTokens:
    """The body of a message without `max_tokens`, counted for the backend that the policy chooses. Nothing is called or billed."""
    gateway, principal = gateway_of(request), principal_of(request)
    call = decode_count(await request.body(), gateway.sealer.of(principal.tenant), _betas(request))
    exchange = Exchange(gateway, principal, call, request_id_of(request))
    try:
        await exchange.prepare()
        return CountedTokens(exchange.input_tokens())
    finally:
        exchange.close()


def _betas(request: HttpRequest) -> tuple[str, ...]:
    """The betas of the `anthropic-beta` headers."""
    said = ",".join(request.headers.getall("anthropic-beta", []))
    return tuple(name for piece in said.split(",") if (name := piece.strip()))
