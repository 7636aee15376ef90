"""`/v1/conversations`: what was said so far, kept for the next turns. OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from litestar import delete, get, post
from litestar.params import FromPath, FromQuery
from msgspec import Meta, Struct

from adapters.backend import DataClass
from adapters.types import JsonObject
from policies.access import may_handle
from retrieval.values import NotFound
from router.audit.log import Subject
from router.http.context import HttpRequest, actor_of, gateway_of, principal_of
from router.http.errors import ApiError, decode_body
from router.http.items import kept_items, require_small
from router.http.listing import Deleted, Listing, missing, page_request
from router.kept.conversations import Conversation, Full, Item
from router.kept.sealing import Seal
from router.wire.openai_responses_items import messages_of

MOST = 100
ADDED_AT_ONCE = 20

Metadata: TypeAlias = Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]


class CreateConversation(Struct):
    items: Annotated[list[JsonObject], Meta(max_length=ADDED_AT_ONCE)] | None = None
    metadata: Metadata | None = None


class UpdateConversation(Struct):
    metadata: Metadata


class AddItems(Struct):
    items: Annotated[list[JsonObject], Meta(min_length=1, max_length=ADDED_AT_ONCE)]


class ConversationObject(Struct, frozen=True, kw_only=True):
    id: str
    object: str = "conversation"
    created_at: int
    metadata: dict[str, str]


def _object(conversation: Conversation) -> ConversationObject:
    return ConversationObject(id=conversation.id, created_at=int(conversation.created_at), metadata=conversation.metadata)


def _checked(items: list[JsonObject] | None, seal: Seal) -> tuple[Item, ...]:
    """The items as they are kept. Raises `ApiError` 400 that names the one that could not be sent to any model."""
    try:
        messages_of(items or [], seal)
    except ApiError as error:
        named = (error.param or "input").replace("input", "items", 1)
        raise ApiError(400, "invalid_request", error.message.replace(error.param or "", named, 1), param=named) from error
    kept = kept_items(items)
    require_small(kept, "items")
    return tuple(Item(item) for item in kept)


def _full() -> ApiError:
    message = "The conversation would hold more than it may: add less, delete some of its items, or start another one."
    return ApiError(400, "conversation_full", message, param="items")


def _class_of(request: HttpRequest) -> DataClass:
    """The class of what this key's tenant sends, by the policy in force. Raises `ApiError` 403 where the key may not handle it, as for a chat."""
    gateway, principal = gateway_of(request), principal_of(request)
    data_class = gateway.policy.current.policy.tenant(principal.tenant).data_class
    if not may_handle(principal, data_class):
        raise ApiError(403, "not_permitted", f"This key may not touch {data_class} data.")
    return data_class


def listed(items: tuple[JsonObject, ...], *, more: bool) -> Listing[JsonObject]:
    return Listing(data=items, first_id=items[0]["id"] if items else None, last_id=items[-1]["id"] if items else None, has_more=more)


@post("/v1/conversations", status_code=200, tags=["chat"], summary="Create a conversation")
async def create_conversation(request: HttpRequest) -> ConversationObject:
    gateway, principal = gateway_of(request), principal_of(request)
    body = decode_body(await request.body() or b"{}", CreateConversation)
    items = _checked(body.items, gateway.sealer.of(principal.tenant))
    data_class = _class_of(request)
    try:
        return _object(await gateway.conversations.create(principal.tenant, body.metadata or {}, items, data_class, user=principal.user))
    except Full as error:
        raise _full() from error


@get("/v1/conversations", tags=["chat"], summary="The tenant's conversations, newest first")
async def list_conversations(
    request: HttpRequest,
    limit: FromQuery[int] = 20,
    order: FromQuery[str] = "desc",
    after: FromQuery[str | None] = None,
    before: FromQuery[str | None] = None,
) -> Listing[ConversationObject]:
    gateway, principal = gateway_of(request), principal_of(request)
    wanted = page_request(limit, order, after, before, most=MOST)
    try:
        found, more = await gateway.conversations.listed(principal.tenant, wanted, principal.max_data_class)
    except NotFound as error:
        raise missing(error, "after" if after else "before") from error
    ids = [each.id for each in found]
    return Listing(data=tuple(_object(each) for each in found), first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=more)


@get("/v1/conversations/{conversation_id:str}", tags=["chat"], summary="One conversation")
async def get_conversation(request: HttpRequest, conversation_id: FromPath[str]) -> ConversationObject:
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        return _object(await gateway.conversations.get(principal.tenant, conversation_id, principal.max_data_class))
    except NotFound as error:
        raise missing(error) from error


@post("/v1/conversations/{conversation_id:str}", status_code=200, tags=["chat"], summary="Change a conversation's metadata")
async def update_conversation(request: HttpRequest, conversation_id: FromPath[str]) -> ConversationObject:
    gateway, principal = gateway_of(request), principal_of(request)
    body = decode_body(await request.body(), UpdateConversation)
    try:
        return _object(await gateway.conversations.update(principal.tenant, conversation_id, body.metadata, principal.max_data_class))
    except NotFound as error:
        raise missing(error) from error


@delete("/v1/conversations/{conversation_id:str}", status_code=200, tags=["chat"], summary="Delete a conversation with its items")
async def delete_conversation(request: HttpRequest, conversation_id: FromPath[str]) -> Deleted:
    """Responses that were stored beside it stay: they are deleted one by one."""
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        await gateway.conversations.delete(principal.tenant, conversation_id, principal.max_data_class)
    except NotFound as error:
        raise missing(error) from error
    return Deleted(conversation_id, "conversation.deleted")


@post("/v1/conversations/{conversation_id:str}/items", status_code=200, tags=["chat"], summary="Add items to a conversation")
async def add_items(request: HttpRequest, conversation_id: FromPath[str]) -> Listing[JsonObject]:
    gateway, principal = gateway_of(request), principal_of(request)
    body = decode_body(await request.body(), AddItems)
    try:
        items = _checked(body.items, gateway.sealer.of(principal.tenant))
        added = await gateway.conversations.append(principal.tenant, conversation_id, items, _class_of(request), most=principal.max_data_class)
    except NotFound as error:
        raise missing(error) from error
    except Full as error:
        raise _full() from error
    return listed(tuple(each.item for each in added), more=False)


@get("/v1/conversations/{conversation_id:str}/items", tags=["chat"], summary="The items of a conversation, newest first")
async def list_items(
    request: HttpRequest,
    conversation_id: FromPath[str],
    limit: FromQuery[int] = 20,
    order: FromQuery[str] = "desc",
    after: FromQuery[str | None] = None,
) -> Listing[JsonObject]:
    gateway, principal = gateway_of(request), principal_of(request)
    wanted = page_request(limit, order, after, None, most=MOST)
    try:
        found, more = await gateway.conversations.page(principal.tenant, conversation_id, wanted, principal.max_data_class)
        await _read(request, conversation_id)
    except NotFound as error:
        raise missing(error, None if error.kind == "conversation" else "after") from error
    return listed(tuple(each.item for each in found), more=more)


@get("/v1/conversations/{conversation_id:str}/items/{item_id:str}", tags=["chat"], summary="One item of a conversation")
async def get_item(request: HttpRequest, conversation_id: FromPath[str], item_id: FromPath[str]) -> JsonObject:
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        item = (await gateway.conversations.item(principal.tenant, conversation_id, item_id, principal.max_data_class)).item
        await _read(request, conversation_id)
        return item
    except NotFound as error:
        raise missing(error) from error


@delete("/v1/conversations/{conversation_id:str}/items/{item_id:str}", status_code=200, tags=["chat"], summary="Delete an item of a conversation")
async def delete_item(request: HttpRequest, conversation_id: FromPath[str], item_id: FromPath[str]) -> ConversationObject:
    gateway, principal = gateway_of(request), principal_of(request)
    try:
        return _object(await gateway.conversations.delete_item(principal.tenant, conversation_id, item_id, principal.max_data_class))
    except NotFound as error:
        raise missing(error) from error


async def _read(request: HttpRequest, conversation_id: str) -> None:
    """Record that one of the tenant's administrators reads what was said."""
    gateway, principal = gateway_of(request), principal_of(request)
    if principal.role in ("owner", "admin"):
        await gateway.audit.note(actor_of(request), "response.read", Subject("conversation", conversation_id, principal.tenant))


handlers = (
    create_conversation,
    list_conversations,
    get_conversation,
    update_conversation,
    delete_conversation,
    add_items,
    list_items,
    get_item,
    delete_item,
)
