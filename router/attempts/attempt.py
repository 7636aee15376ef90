"""One attempt at one backend: what it may cost, what it has said so far, cited and moderated."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from adapters.backend import Backend
from adapters.errors import BackendUnavailable
from adapters.types import (
    AttemptRecord,
    Citation,
    CitationAdded,
    Event,
    Finished,
    GenerateRequest,
    JsonObject,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReported,
)
from router.attempts.citing import cited
from router.attempts.structured import StructuredAnswer
from router.moderating import Moderation
from router.money.settlement import AttemptPlan, Booking


class Attempt:
    """`events` is consumed once, and only after the plan's bound was reserved. Everything else may be read at any time, also after a failure."""

    def __init__(
        self,
        backend: Backend,
        request: GenerateRequest,
        plan: AttemptPlan,
        moderation: Moderation,
        structured: StructuredAnswer | None = None,
        history: JsonObject | None = None,
    ) -> None:
        self.backend = backend
        self.request = request
        self.plan = plan
        self.moderation = moderation
        self.structured = structured
        self.history = history
        """What was left out of the request's messages, to be said to the client."""
        self.clamped: int | None = None
        """The output tokens that the budget left to each choice, where it left less than was asked for."""
        self.record = AttemptRecord(backend=plan.backend)
        self.citations: list[Citation] = []
        self.finished: list[Finished] = []
        self.usage = Usage(source="counted")
        self.model = backend.model
        self.began = 0.0
        """When the backend was called, by `time.perf_counter()`."""
        self.answered = False
        """Whether its first event has come."""
        self.first_delta_s: float | None = None
        """How long its first word took."""

    def grant(self, booking: Booking) -> None:
        """Take the plan for which something was set aside; with less output than was asked for, the request asks for that."""
        plan = booking.plan
        self.record.reference = booking.reference
        if plan.output_bound < self.plan.output_bound:
            self.clamped = plan.output_bound // plan.choices
            self.request = msgspec.structs.replace(self.request, max_output_tokens=self.clamped)
        self.plan = plan

    async def events(self) -> AsyncGenerator[Event, None]:
        """Deltas and opaque items, cited and moderated. `Finished`, citations and usage stay here."""
        self.began = time.perf_counter()
        form = self.structured
        async with (
            aclosing(self.backend.generate(self.request, self.record)) as raw,
            aclosing(raw if form is None else form.tap(raw)) as tapped,
            aclosing(cited(tapped, self.request.context)) as checked,
            aclosing(self.moderation.stage(checked)) as moderated,
            aclosing(moderated if form is None else form.stage(moderated)) as events,
        ):
            async for event in events:
                self.answered = True
                match event:
                    case TextDelta() | ReasoningDelta() | RefusalDelta() | ToolCallDelta() | ProviderItem():
                        if self.first_delta_s is None:
                            self.first_delta_s = time.perf_counter() - self.began
                        yield event
                    case Finished():
                        self.finished.append(event)
                    case CitationAdded():
                        self.citations.append(event.citation)
                    case ResponseStarted():
                        self.model = event.model or self.model
                    case UsageReported():
                        self.usage = event.usage
        if not self.finished:
            raise BackendUnavailable(f"backend {self.backend.name!r} ended without an answer", backend=self.backend.name)
        followed = [self.moderation.follow(citation) for citation in self.citations]
        self.citations = followed if form is None else form.placed(followed)
