"""What is remembered around an answer: what earlier requests left for this one, and what this one leaves for later ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from adapters.collect import Collector
from adapters.types import Event, ProviderItem, ToolCallDelta
from router.kept.remembering import RememberedParts
from router.wire.call import Call

if TYPE_CHECKING:
    from router.pipeline import Exchange


class Memory(Protocol):
    """One request's. `recall` comes before everything else and may raise `ApiError`; `note` comes for every event that the client gets.

    `keep` comes before the end of the answer goes out: `said` is a whole answer's body, or the last frames of a stream. `failed` says that the
    stream broke off there.
    """

    async def recall(self, call: Call) -> Call: ...

    def note(self, event: Event) -> None: ...

    async def keep(self, exchange: Exchange, said: bytes, *, failed: bool) -> None: ...


class ToolMemory:
    """For a dialect that has no place for opaque parts: those of tool calls are kept here, for clients that do not send them back."""

    def __init__(self, parts: RememberedParts, tenant: str, user: str = "") -> None:
        self._parts = parts
        self._tenant = tenant
        self._user = user
        self._collector = Collector()

    async def recall(self, call: Call) -> Call:
        messages = await self._parts.recall(self._tenant, call.request.messages)
        return call if messages is call.request.messages else msgspec.structs.replace(call, request=msgspec.structs.replace(call.request, messages=messages))

    def note(self, event: Event) -> None:
        if isinstance(event, ToolCallDelta | ProviderItem):
            self._collector.add(event)

    async def keep(self, exchange: Exchange, said: bytes, *, failed: bool) -> None:
        if not failed and not exchange.moderation.blocked:
            await self._parts.remember(self._tenant, self._collector.result().choices, self._user)
