"""`/v1/responses`: OpenAI's responses, answered, kept, shown and deleted."""

from __future__ import annotations

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery

from adapters.types import JsonObject
from retrieval.values import NotFound
from router.http.answering import AnswerResponse
from router.http.context import HttpRequest, gateway_of, principal_of, request_id_of
from router.http.conversations import listed
from router.http.errors import ApiError
from router.http.listing import Deleted, Listing, missing, page_request
from router.http.references import resolved
from router.http.turn_memory import TurnMemory
from router.wire.openai_responses import decode_responses
from router.wire.openai_responses_out import ResponsesDialect, request_of

MOST = 100


@post("/v1/responses", status_code=200, tags=["chat"], summary="Answer a response request, streamed or whole")
async def create_response(request: HttpRequest) -> AnswerResponse:
    """OpenAI's responses. `model: "auto"` lets the policy choose; a backend's or a model's name pins it."""
    gateway, principal = gateway_of(request), principal_of(request)
    seal = gateway.sealer.of(principal.tenant)
    body, data_class = await resolved(gateway.turns, principal, await request.body())
    asked = decode_responses(body, seal)
    memory = TurnMemory(gateway, principal, asked.call, body, data_class)
    return AnswerResponse(gateway, principal, asked.call, request_id_of(request), ResponsesDialect(asked.echo, seal), memory)


@get("/v1/responses", tags=["chat"], summary="The tenant's stored responses, newest first")
async def list_responses(
    request: HttpRequest,
    limit: FromQuery[int] = 20,
    order: FromQuery[str] = "desc",
    after: FromQuery[str | None] = None,
    before: FromQuery[str | None] = None,
) -> Listing[JsonObject]:
    gateway, principal = gateway_of(request), principal_of(request)
    wanted = page_request(limit, order, after, before, most=MOST)
    try:
        found, more = await gateway.turns.listed(principal.tenant, wanted, principal.max_data_class)
    except NotFound as error:
        raise missing(error, "after" if after else "before") from error
    return listed(found, more=more)


@get("/v1/responses/{response_id:str}", tags=["chat"], summary="A stored response")
async def get_response(request: HttpRequest, response_id: FromPath[str], stream: FromQuery[bool] = False) -> JsonObject:
    gateway, principal = gateway_of(request), principal_of(request)
    if stream:
        raise ApiError(400, "invalid_request", "stream: a stored response is shown whole; its stream is not kept.", param="stream")
    try:
        return (await gateway.turns.get(principal.tenant, response_id, principal.max_data_class)).response
    except NotFound as error:
        raise missing(error) from error


@delete("/v1/responses/{response_id:str}", status_code=200, tags=["chat"], summary="Delete a stored response")
async def delete_response(request: HttpRequest, response_id: FromPath[str]) -> Deleted:
    """Responses that continue it stay, and cannot be continued any more. What was kept for a retry of the request goes too."""
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        await gateway.turns.delete(principal.tenant, response_id, principal.max_data_class)
        await gateway.idempotency.erase(principal.tenant, request_of(response_id))
    except NotFound as error:
        raise missing(error) from error
    return Deleted(response_id, "response")


@get("/v1/responses/{response_id:str}/input_items", tags=["chat"], summary="What a stored response was asked, newest first")
async def list_input_items(
    request: HttpRequest,
    response_id: FromPath[str],
    limit: FromQuery[int] = 20,
    order: FromQuery[str] = "desc",
    after: FromQuery[str | None] = None,
) -> Listing[JsonObject]:
    """The input of that request alone; what it continued has its own response or conversation."""
    gateway, principal = gateway_of(request), principal_of(request)
    wanted = page_request(limit, order, after, None, most=MOST)
    try:
        items = (await gateway.turns.get(principal.tenant, response_id, principal.max_data_class)).items
        items = items if wanted.ascending else items[::-1]
        start = 0
        if after is not None:
            start = next((place + 1 for place, item in enumerate(items) if item["id"] == after), 0)
            if not start:
                raise NotFound("item in this response", after[:200])
    except NotFound as error:
        raise missing(error, "after" if error.kind != "response" else None) from error
    return listed(items[start : start + limit], more=len(items) > start + limit)


handlers = (create_response, list_responses, get_response, delete_response, list_input_items)
