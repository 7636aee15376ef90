"""What the responses dialect remembers: the turns before this one, and this one for the next."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from adapters.backend import DataClass
from adapters.collect import Collector
from adapters.types import Event, JsonObject, Message, Part, RefusalPart, TextPart
from policies.features import highest
from retrieval.values import NotFound
from router.http.errors import ApiError
from router.http.items import kept_items, require_small
from router.http.listing import missing
from router.http.references import given_input
from router.kept.conversations import LARGEST_ITEM, Full, Item, answer_items, messages_of
from router.kept.keeping import LARGEST, TooLarge
from router.kept.turns import History, InConversation, Turn
from router.wire.call import Call
from router.wire.openai_responses_items import messages_of as decoded_items

if TYPE_CHECKING:
    from policies.access import Principal
    from router.gateway import Gateway
    from router.pipeline import Exchange

log = structlog.get_logger("headgate.turns")


LARGEST_STORED = LARGEST // 4
"""Bytes of a body that is stored: its input is kept as the client has it and as the next turn gets it, with the answer."""


class TurnMemory:
    """One response's. What the client asks to continue comes before its input, and raises the data class to what that had.

    The answer is kept as the client got it, moderated; opaque parts are kept with it, encrypted like everything, for their provider alone. Of
    an answer that moderation ended or that broke off, only the text is.
    """

    def __init__(self, gateway: Gateway, principal: Principal, call: Call, body: bytes, data_class: DataClass) -> None:
        self._gateway = gateway
        self._tenant = principal.tenant
        self._most = principal.max_data_class
        self._call = call
        self._body = body
        self._data_class = data_class
        self._collector = Collector()
        first = call.request.messages[:1]
        self._instructions = first if first and first[0].extra.get("instructions") is True else ()
        self._input = call.request.messages[len(self._instructions) :]

    async def recall(self, call: Call) -> Call:
        self._require_small()
        history = await self._history()
        messages = (*self._instructions, *history.messages, *self._input)
        if len(messages) == len(self._instructions):
            raise ApiError(400, "invalid_request", "input: the conversation is empty; say something.", param="input")
        hints = msgspec.structs.replace(call.hints, data_class=highest(call.hints.data_class or "public", history.data_class, self._data_class))
        return msgspec.structs.replace(call, request=msgspec.structs.replace(call.request, messages=messages), hints=hints)

    def _require_small(self) -> None:
        """Before anything is paid: raises `ApiError` 400 for what could not be kept."""
        if self._call.store and len(self._body) > LARGEST_STORED:
            message = f"store: a request of more than {LARGEST_STORED} bytes is not stored. Send less, or 'store': false."
            raise ApiError(400, "invalid_request", message, param="store")
        if self._call.conversation is not None and len(self._body) > LARGEST_ITEM:
            require_small(kept_items(given_input(self._body)), "input")

    async def _history(self) -> History:
        call, gateway = self._call, self._gateway
        if call.previous_response_id is not None:
            try:
                return await gateway.turns.history(self._tenant, call.previous_response_id, self._most)
            except NotFound as error:
                raise missing(error, "previous_response_id") from error
            except InConversation as error:
                message = f"The response belongs to the conversation {error.conversation!r}: continue with 'conversation'."
                raise ApiError(400, "invalid_request", message, param="previous_response_id") from error
            except TooLarge as error:
                message = "The responses before this one are more than one request may carry: go on without previous_response_id, with what matters as input."
                raise ApiError(400, "context_length_exceeded", message, param="previous_response_id") from error
        if call.conversation is not None:
            try:
                data_class, items = await gateway.conversations.items(self._tenant, call.conversation, self._most)
            except NotFound as error:
                raise missing(error, "conversation") from error
            except Full as error:
                message = "The conversation holds more than one request may carry: delete some of its items, or start another one."
                raise ApiError(400, "conversation_full", message, param="conversation") from error
            seal = gateway.sealer.of(self._tenant)
            return History(messages_of(items, lambda plain: decoded_items(list(plain), seal)), data_class)
        return History((), "public")

    def note(self, event: Event) -> None:
        if self._call.store or self._call.conversation:
            self._collector.add(event)

    async def keep(self, exchange: Exchange, said: bytes, *, failed: bool) -> None:
        """A database that fails is logged: what was answered and paid for is delivered all the same."""
        call, response = self._call, response_in(said)
        if not (call.store or call.conversation) or response is None:
            return
        items = kept_items(given_input(self._body))
        output = self._output(broken=failed or exchange.moderation.blocked)
        try:
            if call.store:
                turn = Turn(self._input, output, items, response)
                previous, data_class = call.previous_response_id, exchange.data_class
                await self._gateway.turns.keep(
                    self._tenant,
                    response["id"],
                    turn,
                    previous=previous,
                    conversation=call.conversation,
                    data_class=data_class,
                    user=exchange.principal.user,
                )
            if call.conversation is not None and not failed:
                said_items = answer_items(response["id"], response["output"], output[0]) if output else [Item(item) for item in response["output"]]
                added = (*(Item(item) for item in items), *said_items)
                await self._gateway.conversations.append(self._tenant, call.conversation, added, exchange.data_class, paid=True)
        except NotFound:
            log.info("conversation_deleted_meanwhile", tenant=self._tenant)
        except (SQLAlchemyError, OSError, TooLarge) as error:
            log.error("response_not_kept", tenant=self._tenant, response_id=response["id"], error=type(error).__name__)

    def _output(self, *, broken: bool) -> tuple[Message, ...]:
        choice = self._collector.result().choices[0]
        parts: tuple[Part, ...] = (*choice.parts, *([RefusalPart(choice.refusal)] if choice.refusal else ()))
        if broken:
            parts = tuple(part for part in parts if isinstance(part, TextPart | RefusalPart))
        return (Message("assistant", parts),) if parts else ()


def response_in(said: bytes) -> JsonObject | None:
    """The `Response` in a whole answer's body, or in the last of a stream's frames that holds one."""
    if said.startswith(b"{"):
        whole: JsonObject = msgspec.json.decode(said)
        return whole
    for line in reversed(said.splitlines()):
        if line.startswith(b"data: {"):
            with contextlib.suppress(msgspec.DecodeError):
                event = msgspec.json.decode(line[6:], type=dict[str, object])
                if isinstance(response := event.get("response"), dict):
                    return response
    return None
