"""The scripted backend (`kind: scripted`): answers by a script instead of a model. It ships, for tests, demos and load tests.

It is deterministic, makes no call and needs no key. It behaves like a provider that bills: tokens count from the start of an answer, and with
`bill_to` every request leaves one line in a file, however it ended, to hold a ledger against.

With `directives: true` the last user message may change the script for one request, so that one server plays many parts:
`[[scripted deltas=50 delay=0.01 fault=provider_error@3]]` (the keys are those of `adapters.script.Directives`).
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator

import msgspec
from msgspec import Struct

from adapters.backend import BackendContext, estimate_output_tokens, estimate_tokens, register, require_features
from adapters.errors import ERRORS, ContextTooLong
from adapters.script import Fault, Moment, ScriptedSpec, directed, length_of, turn
from adapters.types import (
    AttemptRecord,
    BackendHealth,
    Capabilities,
    Event,
    Finished,
    GenerateRequest,
    ReasoningDelta,
    ResponseStarted,
    TokenCount,
    Usage,
    UsageReported,
)

CAPABILITIES = Capabilities(streaming=True, tools=True, parallel_tools=True, vision=True, json_schema="native", reasoning=True, multiple_choices=True)


class Bill(Struct, frozen=True):
    """One line of the `bill_to` file: `final` says that the usage report with these numbers was sent; `reference` is our own name of the attempt."""

    id: str
    input_tokens: int
    output_tokens: int
    final: bool
    reference: str = ""


@register("scripted", ScriptedSpec, provider="local")
class ScriptedBackend:
    provider = "local"

    def __init__(self, name: str, spec: ScriptedSpec, context: BackendContext) -> None:
        self.name = name
        self.model = spec.model or "scripted"
        said = {name: ("native" if value else "none") for name, value in spec.capabilities.items() if name == "json_schema" and isinstance(value, bool)}
        fields = {**msgspec.structs.asdict(CAPABILITIES), "context_window": spec.context_window, **spec.capabilities, **said}
        self.capabilities = msgspec.convert(fields, Capabilities)
        self._spec = spec
        self._faults_left = spec.fault.times if spec.fault else None

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        require_features(request, self.capabilities, self.name)
        script = directed(self._spec, request, self.name)
        count = self.count(request)
        window = self.capabilities.context_window
        if window is not None and count.n > window:
            raise ContextTooLong(f"the prompt has about {count.n} tokens; {self.model} takes {window}", backend=self.name)
        fault = self._next_fault(script)
        attempt.ignored = tuple(knob for knob in ("temperature", "top_p") if getattr(request, knob) is not None)
        attempt.called = True
        attempt.model = self.model
        attempt.provider_request_id = identity = f"scripted-{uuid.uuid4().hex}"
        produced = Usage(source="estimated")
        final = False
        try:
            if script.first_delay_s:
                await asyncio.sleep(script.first_delay_s)
            self._fail(fault, "start", identity)
            attempt.usage = produced = Usage(input_tokens=count.n, source="estimated")
            yield ResponseStarted(provider_request_id=identity, model=self.model)
            self._fail(fault, "first", identity)
            turns = [turn(script, request, choice) for choice in range(request.n)]
            characters = thought = sent = 0
            for delta in (delta for each in turns for delta in each.deltas):
                await self._pause(script, sent)
                self._fail(fault, sent, identity)
                characters += length_of(delta)
                thought += length_of(delta) if isinstance(delta, ReasoningDelta) else 0
                attempt.usage = produced = _so_far(count.n, characters, thought)
                sent += 1
                yield delta
            await self._pause(script, sent if script.hang_after is None else script.hang_after)
            if fault is not None:
                self._fail(fault, fault.at, identity)
            attempt.usage = produced = _final_usage(script, produced)
            final = not script.no_usage
            yield UsageReported(produced)
            for choice, each in enumerate(turns):
                yield Finished(each.reason, choice=choice, provider_reason=each.reason, stop_sequence=each.stop_sequence)
        finally:
            self._bill(Bill(identity, produced.input_tokens, produced.output_tokens, final, attempt.reference))

    def count(self, request: GenerateRequest, /) -> TokenCount:
        return estimate_tokens(request)

    async def health(self) -> BackendHealth:
        return BackendHealth(ready=True)

    async def aclose(self) -> None:
        """There is nothing to release."""

    def _next_fault(self, script: ScriptedSpec) -> Fault | None:
        fault = script.fault
        if fault is None or fault.times is None or self._faults_left is None:
            return fault
        if self._faults_left == 0:
            return None
        self._faults_left -= 1
        return fault

    def _fail(self, fault: Fault | None, now: Moment, identity: str) -> None:
        if fault is None or fault.at != now:
            return
        error = ERRORS[fault.error]
        raise error(
            f"scripted fault: {fault.error}",
            backend=self.name,
            provider_status=error.http_status,
            provider_code=fault.error,
            provider_request_id=identity,
            retry_after=fault.retry_after,
        )

    async def _pause(self, script: ScriptedSpec, sent: int) -> None:
        if script.hang_after == sent:
            await asyncio.get_running_loop().create_future()
        # Without a delay too the loop gets its turn: a cancel must find a place to land.
        await asyncio.sleep(script.delay_s if sent else 0)

    def _bill(self, bill: Bill) -> None:
        """One write to a file opened for appending: lines of several workers never mix, and what is written outlives a kill."""
        if self._spec.bill_to is None:
            return
        descriptor = os.open(self._spec.bill_to, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(bill) + b"\n")
        finally:
            os.close(descriptor)


def _so_far(input_tokens: int, characters: int, thought: int) -> Usage:
    """Until the final report the usage is an estimate, as with a provider whose stream is cut."""
    output, reasoning = estimate_output_tokens(characters), estimate_output_tokens(thought)
    return Usage(input_tokens=input_tokens, output_tokens=output, reasoning_output_tokens=reasoning, source="estimated")


def _final_usage(script: ScriptedSpec, produced: Usage) -> Usage:
    if script.no_usage:
        return produced
    declared = script.usage
    if declared is None:
        return msgspec.structs.replace(produced, source="counted")
    return msgspec.structs.replace(
        produced,
        input_tokens=produced.input_tokens if declared.input is None else declared.input,
        output_tokens=produced.output_tokens if declared.output is None else declared.output,
        cache_read_input_tokens=declared.cache_read,
        source="provider",
    )
