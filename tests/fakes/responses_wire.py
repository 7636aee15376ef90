"""What OpenAI's responses API puts on the wire, built from plain values: the events of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from tests.fakes.provider import Reply
from tests.fakes.wire import Answer, sse


def responses_steps(answer: Answer, items: Sequence[dict[str, Any]] = (), refusal: str = "", encrypted: str = "gAAAA-opaque") -> list[bytes]:
    """`items` are items of OpenAI's own tools, before the message. `answer.finish` is the reason of an incomplete response."""
    numbers = count()
    head = {"id": "resp_1", "object": "response", "created_at": 1, "model": answer.model, "error": None, "incomplete_details": None}
    output: list[dict[str, Any]] = []

    def event(kind: str, **fields: Any) -> bytes:
        return sse({"type": kind, "sequence_number": next(numbers), **fields}, kind)

    def told(item: dict[str, Any], empty: dict[str, Any], between: Iterator[bytes]) -> Iterator[bytes]:
        index = len(output)
        yield event("response.output_item.added", output_index=index, item={**item, **empty})
        yield from between
        yield event("response.output_item.done", output_index=index, item=item)
        output.append(item)

    def deltas(kind: str, item_id: str, pieces: Sequence[str], **fields: Any) -> Iterator[bytes]:
        for piece in pieces:
            yield event(kind, item_id=item_id, output_index=len(output), delta=piece, **fields)

    steps = [event("response.created", response={**head, "status": "in_progress", "output": []})]
    if answer.reasoning:
        item = {"id": "rs_1", "type": "reasoning", "encrypted_content": encrypted, "summary": [{"type": "summary_text", "text": "".join(answer.reasoning)}]}
        steps += told(item, {"summary": []}, deltas("response.reasoning_summary_text.delta", "rs_1", answer.reasoning, summary_index=0))
    for each in items:
        steps += told(each, {}, iter(()))
    if refusal or answer.texts:
        content = (
            {"type": "refusal", "refusal": refusal} if refusal else {"type": "output_text", "text": "".join(answer.texts), "annotations": [], "logprobs": []}
        )
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [content]}
        kind, pieces = ("response.refusal.delta", [refusal]) if refusal else ("response.output_text.delta", answer.texts)
        steps += told(item, {"content": []}, deltas(kind, "msg_1", pieces, content_index=0))
    for place, call in enumerate(answer.calls):
        item = {"id": f"fc_{place}", "type": "function_call", "status": "completed", "call_id": call.id, "name": call.name, "arguments": "".join(call.pieces)}
        steps += told(item, {"arguments": ""}, deltas("response.function_call_arguments.delta", f"fc_{place}", call.pieces))
    usage = {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cached_tokens": answer.cached},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": answer.reasoning_tokens},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }
    status = "incomplete" if answer.finish else "completed"
    why = {"reason": answer.finish} if answer.finish else None
    return [*steps, event(f"response.{status}", response={**head, "status": status, "incomplete_details": why, "output": output, "usage": usage})]


def responding(answer: Answer | None = None, **told: Any) -> Reply:
    """A whole answer of the responses API."""
    return Reply(responses_steps(answer or Answer(), **told), headers={"content-type": "text/event-stream", "x-request-id": "req-1"})
