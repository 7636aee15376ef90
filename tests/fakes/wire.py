"""What the three providers put on the wire, built from plain values: event streams and error bodies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.provider import Reply


@dataclass
class Call:
    """A tool call with the pieces in which its arguments come."""

    id: str
    name: str
    pieces: Sequence[str]


@dataclass
class Answer:
    """An answer in no provider's words. Input tokens include `cached`; output tokens include `reasoning_tokens`."""

    texts: Sequence[str] = ("Hello", ", ", "world", ".")
    calls: Sequence[Call] = ()
    reasoning: Sequence[str] = ()
    input_tokens: int = 12
    cached: int = 0
    output_tokens: int = 7
    reasoning_tokens: int = 0
    finish: str | None = None
    """The provider's own word; None is its normal one."""
    model: str = "served-model"
    signature: str = ""
    """What the provider seals its reasoning with; empty is its usual one (for Gemini: none)."""
    extra: dict[str, Any] = field(default_factory=dict)


def sse(value: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def openai_chunk(delta: dict[str, Any] | None = None, *, finish: str | None = None, index: int = 0, usage: Any = None, model: str = "served-model") -> bytes:
    choices = [] if delta is None and finish is None else [{"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": finish}]
    return sse({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices, "usage": usage})


def openai_steps(answer: Answer) -> list[bytes]:
    steps = [openai_chunk({"role": "assistant", "content": ""}, model=answer.model)]
    steps += [openai_chunk({"reasoning_content": text}) for text in answer.reasoning]
    steps += [openai_chunk({"content": text}) for text in answer.texts]
    for index, call in enumerate(answer.calls):
        steps.append(openai_chunk({"tool_calls": [{"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}]}))
        steps += [openai_chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}) for piece in call.pieces]
    steps.append(openai_chunk(finish=answer.finish or ("tool_calls" if answer.calls else "stop")))
    usage = {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": answer.reasoning_tokens, "audio_tokens": 0},
    }
    return [*steps, openai_chunk(usage=usage), b"data: [DONE]\n\n"]


def anthropic_event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)


def anthropic_steps(answer: Answer) -> list[bytes]:
    usage = {
        "input_tokens": answer.input_tokens - answer.cached,
        "cache_read_input_tokens": answer.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": 1,
    }
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": answer.model, "content": [], "stop_reason": None, "usage": usage}
    steps = [anthropic_event("message_start", message=message), anthropic_event("ping")]
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if answer.reasoning:
        deltas = [{"type": "thinking_delta", "thinking": text} for text in answer.reasoning]
        blocks.append(({"type": "thinking", "thinking": "", "signature": ""}, [*deltas, {"type": "signature_delta", "signature": answer.signature or "c2ln"}]))
    if answer.texts:
        blocks.append(({"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in answer.texts]))
    for call in answer.calls:
        start = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        blocks.append((start, [{"type": "input_json_delta", "partial_json": piece} for piece in call.pieces]))
    for index, (start, deltas) in enumerate(blocks):
        steps.append(anthropic_event("content_block_start", index=index, content_block=start))
        steps += [anthropic_event("content_block_delta", index=index, delta=delta) for delta in deltas]
        steps.append(anthropic_event("content_block_stop", index=index))
    reason = answer.finish or ("tool_use" if answer.calls else "end_turn")
    steps.append(
        anthropic_event("message_delta", delta={"stop_reason": reason, "stop_sequence": None, **answer.extra}, usage={"output_tokens": answer.output_tokens})
    )
    return [*steps, anthropic_event("message_stop")]


def gemini_chunk(parts: list[dict[str, Any]], *, usage: dict[str, Any] | None = None, finish: str | None = None, model: str = "served-model") -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    body: dict[str, Any] = {"candidates": [candidate], "modelVersion": model, "responseId": "resp-1"}
    if usage is not None:
        body["usageMetadata"] = usage
    return sse(body).replace(b"\n", b"\r\n")


def gemini_steps(answer: Answer) -> list[bytes]:
    steps = [gemini_chunk([{"text": text, "thought": True}]) for text in answer.reasoning]
    steps += [gemini_chunk([{"text": text}], model=answer.model) for text in answer.texts]
    for index, call in enumerate(answer.calls):
        part: dict[str, Any] = {"functionCall": {"id": call.id, "name": call.name, "args": json.loads("".join(call.pieces))}}
        if answer.signature and index == 0:  # of parallel calls the first one carries it
            part["thoughtSignature"] = answer.signature
        steps.append(gemini_chunk([part]))
    usage = {
        "promptTokenCount": answer.input_tokens,
        "cachedContentTokenCount": answer.cached,
        "candidatesTokenCount": answer.output_tokens - answer.reasoning_tokens,
        "thoughtsTokenCount": answer.reasoning_tokens,
        "totalTokenCount": answer.input_tokens + answer.output_tokens,
    }
    return [*steps, gemini_chunk([{"text": ""}], usage=usage, finish=answer.finish or "STOP")]


STEPS = {"openai": openai_steps, "anthropic": anthropic_steps, "gemini": gemini_steps}
"""By backend kind: the steps of a whole answer."""

REQUEST_ID_HEADER = {"openai": "x-request-id", "anthropic": "request-id", "gemini": "x-request-id"}


def answering(kind: str, answer: Answer | None = None, *, request_id: str = "req-1") -> Reply:
    """A whole answer of that kind of provider."""
    return Reply(STEPS[kind](answer or Answer()), headers={"content-type": "text/event-stream", REQUEST_ID_HEADER[kind]: request_id})


def error_body(kind: str, status: int, code: str, message: str = "it went wrong") -> bytes:
    """`code` is the provider's own: OpenAI's `code`, Anthropic's `type`, Google's `status`."""
    errors: dict[str, dict[str, Any]] = {
        "openai": {"error": {"message": message, "type": "some_error", "code": code, "param": None}},
        "anthropic": {"type": "error", "error": {"type": code, "message": message}},
        "gemini": {"error": {"code": status, "message": message, "status": code}},
    }
    return json.dumps(errors[kind]).encode()


def failing(kind: str, status: int, code: str, message: str = "it went wrong", **headers: str) -> Reply:
    """An error answer. Underscores in the names of headers are dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(
        [error_body(kind, status, code, message)], status=status, headers={"content-type": "application/json", REQUEST_ID_HEADER[kind]: "req-1", **named}
    )
