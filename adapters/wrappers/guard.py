"""The contract of a backend, enforced on every one of them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from adapters.backend import Backend, estimate_output_tokens
from adapters.errors import BackendError, BackendTimeout, ProviderFault, StreamBroken
from adapters.types import (
    AttemptRecord,
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)
from adapters.wrappers.base import Wrapper


def guarded(backend: Backend) -> Backend:
    """The backend, held to its contract.

    Only `BackendError`s leave it: any other exception becomes a `ProviderFault` with the original in `__cause__`, and a stream that ends
    without a `Finished` for every choice a `StreamBroken`. The `AttemptRecord` has its times, counts, outcome and usage on every exit; where the
    backend reported no usage, or the stream broke off after more output than it had reported, the usage is an estimate that covers at least
    what was delivered.
    """
    return _Guarded(backend)


class _Guarded(Wrapper):
    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        attempt.started_at = time.time()
        seen = _Seen()
        error: BackendError | None = None
        try:
            async with aclosing(self.inner.generate(request, attempt)) as events:
                async for event in events:
                    seen.note(event, attempt)
                    if not seen.reported and isinstance(event, Finished):
                        attempt.usage = self._covering(attempt.usage, request, attempt)
                        yield UsageReported(attempt.usage)
                    yield event
            if len(seen.finished) < request.n:
                raise StreamBroken(f"backend {self.name!r} ended its stream without a finish", backend=self.name)
        except BackendError as failure:
            error = failure
            error.backend = error.backend or self.name
            raise
        except Exception as failure:
            error = ProviderFault(f"backend {self.name!r} failed: {type(failure).__name__}", backend=self.name)
            raise error from failure
        finally:
            complete = error is None and len(seen.finished) >= request.n
            if seen.unreported and not complete and _may_be_billed(attempt, error):
                attempt.usage = self._covering(attempt.usage, request, attempt)
            attempt.outcome = "ok" if complete else "cancelled" if error is None else "error"
            attempt.error = None if error is None else error.code
            attempt.ended_at = time.time()

    def _covering(self, usage: Usage | None, request: GenerateRequest, attempt: AttemptRecord) -> Usage:
        """The usage so far, at least what was delivered. A backend that counts its own tokens as it goes is believed."""
        delivered = estimate_output_tokens(attempt.delivered_characters)
        if usage is None:
            return Usage(input_tokens=self.inner.count(request).n, output_tokens=delivered, source="estimated")
        if usage.source == "counted":
            return usage
        return msgspec.structs.replace(usage, output_tokens=max(usage.output_tokens, delivered), source="estimated")


class _Seen:
    """What went by: the choices that finished, whether any usage was reported, and whether output came after the last report."""

    __slots__ = ("finished", "reported", "unreported")

    def __init__(self) -> None:
        self.finished: set[int] = set()
        self.reported = False
        self.unreported = True

    def note(self, event: Event, attempt: AttemptRecord) -> None:
        attempt.events += 1
        if attempt.first_event_at is None:
            attempt.first_event_at = time.time()
        match event:
            case TextDelta() | ReasoningDelta() | RefusalDelta():
                attempt.delivered_characters += len(event.text)
                self.unreported = True
            case ToolCallDelta():
                attempt.delivered_characters += len(event.name or "") + len(event.arguments)
                self.unreported = True
            case UsageReported():
                attempt.usage = event.usage
                self.reported, self.unreported = True, False
            case ResponseStarted():
                attempt.called = True
                attempt.model = event.model or attempt.model
                attempt.provider_request_id = event.provider_request_id or attempt.provider_request_id
            case Finished():
                self.finished.add(event.choice)
            case ProviderItem() | CitationAdded():
                pass


def _may_be_billed(attempt: AttemptRecord, error: BackendError | None) -> bool:
    """Whether the provider may bill an attempt that did not end well: it worked, or it was left while it may have been working.

    An error answered before any event (a refused connection, a 429) costs nothing.
    """
    return attempt.events > 0 or (attempt.called and (error is None or isinstance(error, BackendTimeout | StreamBroken)))
