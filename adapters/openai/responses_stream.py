"""The decoder that turns one of OpenAI's responses, streamed or whole, into events.

What an item says beyond a delta of the core is told in notes (`responses_items`); items of OpenAI's own tools come whole. What was told in
pieces is not told again when its item is done, and what never came in pieces (a whole answer, a sparing server) comes then.
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.errors import BackendError, ProviderFault, StreamBroken
from adapters.faults import WireError, to_error, wire_failure
from adapters.openai.chat_wire import Logprob, token_logprobs
from adapters.openai.responses_items import PROVIDER
from adapters.openai.responses_wire import Response, WireEvent, decode_event, decode_response, usage_of
from adapters.sse import SseEvent
from adapters.types import (
    Event,
    Finished,
    FinishReason,
    JsonObject,
    ProviderItem,
    ReasoningDelta,
    RefusalDelta,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)

INCOMPLETE: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}
"""Why a response is incomplete. An unknown reason is a stop, and stands in `Finished.provider_reason`."""

_ENDED = frozenset({"completed", "complete", "incomplete"})
_CLIENTS_FAULT = ("invalid_", "image_", "unsupported_", "empty_image_file", "failed_to_download_image", "bio_policy")

_CALL_FIELDS = frozenset({"type", "id", "call_id", "name", "arguments", "status"})
_MESSAGE_FIELDS = frozenset({"type", "role", "content", "status"})

Logprobs = list[Logprob]


class _Item:
    """What has been told of one item of the output."""

    def __init__(self) -> None:
        self.begun = False
        self.done = False
        self.call = -1
        self.told: dict[str, int] = {}
        """By kind of text: how many characters."""


class ResponsesDecoder:
    """Decodes one response. A failed one raises from `finish`, after the usage that its event reported.

    `provider` is whose words its opaque parts are: another server's than OpenAI's are its own.
    """

    def __init__(self, request_id: str | None = None, provider: str = PROVIDER) -> None:
        self.done = False
        self._provider = provider
        self.usage_final = False
        self.service_tier: str | None = None
        self._request_id = request_id
        self._started = False
        self._items: dict[int, _Item] = {}
        self._calls = 0
        self._in_text = False
        self._end: Finished | BackendError | None = None

    def feed(self, event: SseEvent) -> list[Event]:
        if event.data == b"[DONE]":
            return []
        said = decode_event(event.data)
        events: list[Event] = []
        match said.type:
            case "response.output_text.delta" | "response.refusal.delta":
                self._piece(said, "text" if said.type == "response.output_text.delta" else "refusal", events)
            case "response.reasoning_summary_text.delta":
                self._piece(said, "summary", events)
            case "response.reasoning_text.delta":
                self._piece(said, "reasoning", events)
            case "response.reasoning_summary_part.added":
                self._next_summary_part(said, events)
            case "response.function_call_arguments.delta":
                self._piece(said, "arguments", events)
            case "response.output_item.added" if said.item is not None:
                self._begin(said.output_index, said.item, events)
            case "response.output_item.done" if said.item is not None:
                self._finish_item(said.output_index, said.item, events)
            case "error":
                error = said.error or WireError(message=said.message, code=said.code, param=said.param)
                raise to_error(wire_failure(error, request_id=self._request_id))
            case _ if said.response is not None:
                self._response(said.response, events, last=said.type in ("response.completed", "response.incomplete", "response.failed", "response.cancelled"))
            case _:
                pass
        return events

    def whole(self, body: bytes) -> list[Event]:
        response = decode_response(body)
        if response.error is None and response.status is None and response.output is None:
            raise ProviderFault("the provider's answer is no response", provider_request_id=self._request_id)
        events: list[Event] = []
        self._response(response, events, last=True)
        return events

    def finish(self) -> list[Event]:
        match self._end:
            case Finished():
                return [self._end]
            case BackendError():
                raise self._end
            case None:
                raise StreamBroken("the stream ended before its answer was finished", provider_request_id=self._request_id)

    # --- items -----------------------------------------------------------------------------------------------------------------------

    def _begin(self, index: int, item: JsonObject, events: list[Event]) -> _Item:
        known = self._items.setdefault(index, _Item())
        if known.begun:
            return known
        known.begun = True
        match item.get("type"):
            case "message":
                beyond = {key: value for key, value in item.items() if key not in _MESSAGE_FIELDS and key != "id" and value is not None}
                if beyond or self._in_text:  # a second message right behind the first
                    own_id = {"id": item["id"]} if "id" in item else {}
                    events.append(ProviderItem(self._provider, {"type": "message", **own_id, **beyond}))
                self._in_text = True
            case "function_call":
                self._in_text = False
                known.call = self._calls
                self._calls += 1
                call_id = str(item.get("call_id") or item.get("id") or f"call_{known.call}")
                beyond = {key: value for key, value in item.items() if key not in _CALL_FIELDS and value is not None}
                if beyond:
                    own_id = {"id": item["id"]} if "id" in item else {}
                    events.append(ProviderItem(self._provider, {"type": "function_call", "call_id": call_id, **own_id, **beyond}))
                events.append(ToolCallDelta(known.call, id=call_id, name=str(item.get("name") or "")))
            case _:
                self._in_text = False
        return known

    def _piece(self, said: WireEvent, kind: str, events: list[Event]) -> None:
        if isinstance(said.delta, str):
            item = self._items.setdefault(said.output_index, _Item())
            if kind == "arguments" and item.call < 0:
                return  # of a call that was never said to begin: it is told when its item comes whole
            self._tell(item, kind, said.delta, events, said.logprobs)

    def _tell(self, item: _Item, kind: str, text: str, events: list[Event], logprobs: Logprobs | None = None) -> None:
        """One more piece of a text. A model's raw thoughts count only where it gives no summary of them, which says the same again."""
        if not text and not logprobs:
            return
        if kind == "reasoning" and "summary" in item.told:
            return
        item.told[kind] = item.told.get(kind, 0) + len(text)
        match kind:
            case "text":
                events.append(TextDelta(text, logprobs=token_logprobs(logprobs)))
            case "refusal":
                events.append(RefusalDelta(text))
            case "arguments":
                events.append(ToolCallDelta(item.call, arguments=text))
            case _:
                events.append(ReasoningDelta(text))

    def _next_summary_part(self, said: WireEvent, events: list[Event]) -> None:
        item = self._items.setdefault(said.output_index, _Item())
        if item.told.get("summary"):
            self._tell(item, "summary", "\n\n", events)

    def _finish_item(self, index: int, item: JsonObject, events: list[Event]) -> None:
        known = self._begin(index, item, events)
        if known.done:
            return
        known.done = True
        match item.get("type"):
            case "message":
                self._message(known, item, events)
            case "function_call":
                if known.call < 0:
                    raise ProviderFault("the provider's item ended as a call and had begun as something else", provider_request_id=self._request_id)
                self._tell(known, "arguments", str(item.get("arguments") or "")[known.told.get("arguments", 0) :], events)
            case "reasoning":
                if not ({"summary", "reasoning"} & known.told.keys()):
                    kind = "summary" if item.get("summary") else "reasoning"
                    self._tell(known, kind, "\n\n".join(_texts(item.get("summary")) or _texts(item.get("content"))), events)
                if item.get("encrypted_content") or item.get("content"):
                    events.append(ProviderItem(self._provider, item))
            case _:
                events.append(ProviderItem(self._provider, item))

    def _message(self, known: _Item, item: JsonObject, events: list[Event]) -> None:
        content = [part for part in item.get("content") or () if isinstance(part, dict)]
        for part in content:
            if part.get("type") == "output_text" and "text" not in known.told:
                self._tell_whole(known, part, events)
            elif part.get("type") == "refusal" and "refusal" not in known.told:
                events.append(RefusalDelta(str(part.get("refusal") or "")))
        annotations = [note for part in content for note in part.get("annotations") or ()]
        if annotations:
            events.append(ProviderItem(self._provider, {"type": "annotations", "annotations": annotations}))

    def _tell_whole(self, known: _Item, part: JsonObject, events: list[Event]) -> None:
        logprobs = msgspec.convert(part.get("logprobs") or [], Logprobs)
        text = str(part.get("text") or "")
        if text or logprobs:
            events.append(TextDelta(text, logprobs=token_logprobs(logprobs)))

    # --- the response --------------------------------------------------------------------------------------------------------------------

    def _response(self, said: Response, events: list[Event], *, last: bool) -> None:
        if not self._started:
            self._started = True
            events.append(ResponseStarted(provider_request_id=self._request_id or said.id, model=said.model))
        if said.service_tier is not None:
            self.service_tier = said.service_tier
        if not last:
            return
        for index, item in enumerate(said.output or ()):
            self._finish_item(index, item, events)
        if said.usage is not None:
            self.usage_final = True
            events.append(UsageReported(usage_of(said.usage)))
        self.done = True
        self._end = self._ending(said)

    def _ending(self, said: Response) -> Finished | BackendError:
        status = said.status or ""
        if status in _ENDED:
            reason = said.incomplete_details.reason if said.incomplete_details else None
            if status == "incomplete" or reason:
                return Finished(INCOMPLETE.get(reason or "", "stop"), provider_reason=reason or status)
            return Finished("tool_calls" if self._calls else "stop", provider_reason=status)
        if said.error is None and status != "failed":
            # `queued`, `in_progress`, `cancelled`: it was to be answered later, and is not.
            return ProviderFault(f"the provider's answer is {status or 'of no known status'}, not complete", provider_request_id=self._request_id)
        error = said.error or WireError(message="the response failed", code="server_error")
        code = error.code if isinstance(error.code, str) else ""
        return to_error(wire_failure(error, status=400 if code.startswith(_CLIENTS_FAULT) else None, request_id=self._request_id))


def _texts(parts: Any) -> list[str]:
    return [str(part.get("text") or "") for part in parts or () if isinstance(part, dict)]
