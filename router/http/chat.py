"""`POST /v1/chat/completions`: OpenAI's chat completions."""

from __future__ import annotations

from litestar import post

from router.http.answering import AnswerResponse
from router.http.context import HttpRequest, gateway_of, principal_of, request_id_of
from router.http.memory import ToolMemory
from router.wire.openai_chat import decode_chat
from router.wire.openai_chat_out import ChatDialect, custom_tools


@post("/v1/chat/completions", status_code=200, tags=["chat"], summary="Answer a chat, streamed or whole")
async def chat_completions(request: HttpRequest) -> AnswerResponse:
    """OpenAI's chat completions. `model: "auto"` lets the policy choose; a backend's or a model's name pins it."""
    gateway, principal = gateway_of(request), principal_of(request)
    seal = gateway.sealer.of(principal.tenant)
    call = decode_chat(await request.body(), seal)
    dialect = ChatDialect(call.include_usage, seal, custom_tools(call.request))
    return AnswerResponse(gateway, principal, call, request_id_of(request), dialect, ToolMemory(gateway.remembered, principal.tenant))
