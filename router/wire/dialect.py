"""What a dialect must be able to say: the one interface between an answer and the shape in which a client gets it."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from adapters.collect import Collected
from adapters.types import Event, Finished, JsonObject, Usage
from router.http.errors import ErrorDetail
from router.wire.headgate import Headgate


class Opening(Struct, frozen=True):
    """What is known when an answer begins. `request_id` is ours, `created` in seconds of the epoch."""

    request_id: str
    created: int
    model: str


OPENAI_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")


class Ending(Struct, frozen=True):
    """What is known when it has ended well. `finished` has one entry for every choice, by choice.

    `service_tier` is the provider's word for how it served the request, where it said one.
    """

    finished: tuple[Finished, ...]
    usage: Usage
    headgate: Headgate
    service_tier: str | None = None

    @property
    def openai_tier(self) -> JsonObject:
        """The service tier as a field of OpenAI's answers; empty for a word that OpenAI does not have."""
        return {"service_tier": self.service_tier} if self.service_tier in OPENAI_TIERS else {}


class StreamEncoder(Protocol):
    """Says one streamed answer, piece by piece, as the bytes of server-sent events.

    `event` comes for every delta, for a `ProviderItem`, never for `Finished` or usage. Exactly one of `end` and `failure` comes last, and its
    bytes end the stream: `failure` where the answer broke off after the response had begun, maybe before the first event.
    """

    def event(self, event: Event) -> bytes: ...

    def end(self, ending: Ending) -> bytes: ...

    def failure(self, error: ErrorDetail, status: int, headgate: Headgate | None) -> bytes: ...


class Dialect(Protocol):
    """Says the answer of one request. Made anew for each; it may remember what the request said.

    `heartbeat` keeps a stream alive. `opening` comes late in a stream that began before its first event: `stream` is called once, with what is
    known then.
    """

    name: str
    heartbeat: bytes

    def whole(self, opening: Opening, answer: Collected, ending: Ending) -> bytes: ...

    def stream(self, opening: Opening) -> StreamEncoder: ...

    def refusal(self, error: ErrorDetail, status: int, request_id: str) -> bytes: ...
