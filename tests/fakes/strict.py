"""What the real providers refuse: the rules of a request's shape that their documentation states, as checks on a body.

`refusal(kind, body, issued)` says why the provider would answer 400, or None. `issued` holds the opaque strings (signatures, encrypted
reasoning) that this provider gave out itself: any other is refused, as the real ones do.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
STAND_IN = base64.b64encode(b"skip_thought_signature_validator").decode()
"""Gemini's documented stand-in for the signature of a call that another model made."""

CHAT_FIELDS = {
    "messages", "model", "stream", "stream_options", "max_completion_tokens", "max_tokens", "temperature", "top_p", "stop", "seed", "n", "tools",
    "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "verbosity", "logprobs", "top_logprobs", "metadata", "store", "user",
    "safety_identifier", "prompt_cache_key", "frequency_penalty", "presence_penalty", "logit_bias",
}  # fmt: skip
CHAT_MESSAGE_FIELDS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "refusal", "audio"},
    "tool": {"role", "content", "tool_call_id"},
}
RESPONSES_FIELDS = {
    "input", "model", "stream", "instructions", "tools", "tool_choice", "parallel_tool_calls", "max_output_tokens", "temperature", "top_p",
    "top_logprobs", "text", "reasoning", "include", "metadata", "store", "truncation", "user", "safety_identifier", "prompt_cache_key",
}  # fmt: skip


class Refused(Exception):
    """The provider would answer 400 with these words."""


def refusal(kind: str, body: Any, issued: Collection[str] = ()) -> str | None:
    """Why a provider of that kind (`openai`, `responses`, `anthropic`, `gemini`) refuses the body; None where it takes it."""
    try:
        RULES[kind](body, issued)
    except Refused as refused:
        return str(refused)
    return None


def _need(condition: object, why: str) -> None:
    if not condition:
        raise Refused(why)


def _chat(body: Any, _: Collection[str]) -> None:
    unknown = set(body) - CHAT_FIELDS
    _need(not unknown, f"unknown parameters {sorted(unknown)}")
    open_calls: list[str] = []
    for place, message in enumerate(body["messages"]):
        role = message["role"]
        unknown = set(message) - CHAT_MESSAGE_FIELDS[role]
        _need(not unknown, f"messages[{place}]: unknown fields {sorted(unknown)}")
        if role == "tool":
            _need(message["tool_call_id"] in open_calls, f"messages[{place}]: a tool message must answer a call of the message before")
            open_calls.remove(message["tool_call_id"])
            _need(isinstance(message["content"], str) or all(part["type"] == "text" for part in message["content"]), "a tool's result is text")
            continue
        _need(not open_calls, f"messages[{place}]: calls {open_calls} have no answer")
        calls = message.get("tool_calls") or []
        # An empty text is content to OpenAI; nothing at all is not.
        _need(message.get("content") not in (None, []) or calls or message.get("refusal"), f"messages[{place}]: empty content")
        for call in calls:
            _need(len(call["id"]) <= 40, f"messages[{place}]: the call's id {call['id']!r} is longer than 40")
            _need(TOOL_NAME.fullmatch(call["function"]["name"]), "bad function name")
            _need(isinstance(call["function"]["arguments"], str), "arguments are JSON text")
        open_calls = [call["id"] for call in calls]
    _need(not open_calls, f"calls {open_calls} have no answer")


def _responses(body: Any, issued: Collection[str]) -> None:
    unknown = set(body) - RESPONSES_FIELDS
    _need(not unknown, f"unknown parameters {sorted(unknown)}")
    called: set[str] = set()
    answered: set[str] = set()
    for place, item in enumerate(body["input"] if isinstance(body["input"], list) else []):
        match item.get("type", "message"):
            case "function_call":
                _need(len(item["call_id"]) <= 64, f"input[{place}]: call_id is longer than 64")
                _need(TOOL_NAME.fullmatch(item["name"]), "bad function name")
                called.add(item["call_id"])
            case "function_call_output":
                _need(item["call_id"] in called, f"input[{place}]: no call {item['call_id']!r}")
                answered.add(item["call_id"])
            case "reasoning":
                _need(item.get("encrypted_content") in issued, f"input[{place}]: encrypted_content could not be verified")
            case "message":
                _need(item.get("role") in ("system", "developer", "user", "assistant") and item.get("content"), f"input[{place}]: bad message")
            case other:
                raise Refused(f"input[{place}]: unknown item {other!r}")
    _need(called == answered, f"no tool output for {sorted(called - answered)}")


def _anthropic(body: Any, issued: Collection[str]) -> None:
    _need(body.get("max_tokens", 0) >= 1, "max_tokens: field required")
    messages = body["messages"]
    _need(messages and messages[0]["role"] == "user", "first message must use the user role")
    awaited: set[str] = set()
    for place, message in enumerate(messages):
        blocks = _blocks(message["content"])
        results = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if message["role"] == "user":
            _need(results <= awaited, f"messages.{place}: unexpected tool_use_id in tool_result")
            _need(awaited <= results, f"messages.{place}: tool_use ids without tool_result: {sorted(awaited - results)}")
        else:
            _need(not awaited, f"messages.{place}: tool_use without tool_result")
        awaited = {block["id"] for block in blocks if block["type"] == "tool_use"}
        for block in blocks:
            _anthropic_block(f"messages.{place}", block, issued)
    _need(not awaited, "tool_use without tool_result")
    thinking = body.get("thinking") or {}
    if thinking.get("type") == "enabled":
        _anthropic_thinking(body, thinking)


def _anthropic_thinking(body: Any, thinking: Any) -> None:
    _need(1024 <= thinking["budget_tokens"] < body["max_tokens"], "max_tokens must be greater than thinking.budget_tokens, which is at least 1024")
    _need(body.get("temperature", 1) == 1 and "top_k" not in body, "temperature may only be set to 1 when thinking is enabled")
    _need(body.get("tool_choice", {}).get("type") not in ("any", "tool"), "thinking may not be enabled when tool_choice forces tool use")
    last = body["messages"][-1]
    if last["role"] == "user" and any(block["type"] == "tool_result" for block in _blocks(last["content"])):
        first = _blocks(body["messages"][-2]["content"])[0]["type"]
        _need(first in ("thinking", "redacted_thinking"), f"expected thinking or redacted_thinking, but found {first}")


def _anthropic_block(where: str, block: Any, issued: Collection[str]) -> None:
    match block["type"]:
        case "text":
            _need(block["text"].strip(), f"{where}: text content blocks must contain non-whitespace text")
        case "thinking":
            _need(block["signature"] in issued, f"{where}: invalid signature in thinking block")
        case "redacted_thinking":
            _need(block["data"] in issued, f"{where}: invalid data in redacted_thinking block")
        case "tool_use":
            _need(TOOL_ID.fullmatch(block["id"]), f"{where}: tool_use.id {block['id']!r} does not match the pattern")
            _need(TOOL_NAME.fullmatch(block["name"]) and isinstance(block["input"], dict), f"{where}: bad tool_use")
        case "tool_result":
            for inner in _blocks(block.get("content") or []):
                _need(inner["type"] in ("text", "image", "document"), f"{where}: bad tool_result content")
        case "image" | "document":
            _need(block["source"]["type"] in ("base64", "url", "text", "file", "content"), f"{where}: bad source")
        case other:
            raise Refused(f"{where}: unknown block {other!r}")


def _blocks(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _gemini(body: Any, issued: Collection[str]) -> None:
    contents = body["contents"]
    _need(contents and contents[0]["role"] == "user", "please ensure that the conversation starts with a user turn")
    calls: list[str] = []
    for place, turn in enumerate(contents):
        _need(turn["parts"], f"contents[{place}].parts: must not be empty")
        _need(place == 0 or turn["role"] != contents[place - 1]["role"], f"contents[{place}]: turns must alternate")
        answers = [part["functionResponse"]["name"] for part in turn["parts"] if "functionResponse" in part]
        _need(sorted(answers) == sorted(calls), f"contents[{place}]: function response parts must equal the function call parts of the turn before")
        calls = [part["functionCall"]["name"] for part in turn["parts"] if "functionCall" in part]
        _need(not calls or turn["role"] == "model", "only the model calls functions")
        for part in turn["parts"]:
            _need(part.get("thoughtSignature", STAND_IN) in {*issued, STAND_IN}, f"contents[{place}]: invalid thought signature")
        if calls:
            first = next(part for part in turn["parts"] if "functionCall" in part)
            _need("thoughtSignature" in first, f"contents[{place}]: function call is missing a thought_signature")
    _need(not calls, "a function call has no response")


def strings(value: Any) -> Iterator[str]:
    """Every string of a JSON value, keys left out."""
    match value:
        case str():
            yield value
        case list():
            for inner in value:
                yield from strings(inner)
        case dict():
            for inner in value.values():
                yield from strings(inner)


RULES: dict[str, Callable[[Any, Collection[str]], None]] = {"openai": _chat, "responses": _responses, "anthropic": _anthropic, "gemini": _gemini}
