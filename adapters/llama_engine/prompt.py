"""From a request to prompt tokens: messages into the model's chat template, with nobody's text able to pose as the template's own marks."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

import msgspec

from adapters.errors import InvalidRequest
from adapters.llama_engine.loading import LoadedModel
from adapters.prompting import with_context
from adapters.types import GenerateRequest, JsonObject, Message, Tool, ToolCallPart


def prompt_ids(loaded: LoadedModel, request: GenerateRequest) -> list[int]:
    """The prompt's tokens. Raises `InvalidRequest` for a conversation the template refuses."""
    from jinja2.exceptions import TemplateError

    tools = request.functions if request.tool_choice.mode != "none" else ()
    guard = _Guard(loaded.specials)
    try:
        text = loaded.tokenizer.apply_chat_template(
            guard.cover(template_messages(with_context(request).messages)),
            tools=guard.cover([template_tool(tool) for tool in tools]) or None,
            add_generation_prompt=True,
            tokenize=False,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidRequest(f"the model's chat template refuses this conversation: {error}", param="messages") from error
    return guard.encode(loaded.tokenizer, text + guard.cover(forced_beginning(request)))


def forced_beginning(request: GenerateRequest) -> str:
    """How an answer that must be a tool call begins: the model goes on from there. Empty where it may say what it likes.

    It ends before a space, because the vocabulary joins a space to the word that follows it.
    """
    if not request.tools or request.tool_choice.mode in ("auto", "none"):
        return ""
    if request.tool_choice.mode == "required":
        return '{"name":'
    return f'{{"name": {json.dumps(request.tool_choice.name, ensure_ascii=False)}, "parameters":'


def template_messages(messages: tuple[Message, ...]) -> list[JsonObject]:
    """The messages as chat templates take them.

    System and developer messages at the start become one. Llama's template knows one tool call a message, so an assistant's parallel calls
    become a row of single calls, each followed by its result.
    """
    rendered: list[JsonObject] = []
    results = {message.tool_call_id: message for message in messages if message.role == "tool"}
    placed: set[str | None] = set()
    for message in messages:
        calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
        role = "system" if message.role == "developer" else message.role
        if role == "tool":
            if message.tool_call_id not in placed:
                rendered.append({"role": "tool", "content": message.text})
        elif role == "system" and len(rendered) == 1 and rendered[0]["role"] == "system":
            rendered[0]["content"] += "\n\n" + message.text
        elif message.text or not calls:
            rendered.append({"role": role, "content": message.text})
        for call in calls:
            rendered.append({"role": "assistant", "content": "", "tool_calls": [_template_call(call)]})
            if len(calls) > 1 and call.id in results:
                placed.add(call.id)
                rendered.append({"role": "tool", "content": results[call.id].text})
    return rendered


def template_tool(tool: Tool) -> JsonObject:
    return {"type": "function", "function": {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters}}


def _template_call(call: ToolCallPart) -> JsonObject:
    try:
        arguments: Any = msgspec.json.decode(call.arguments or "{}")
    except msgspec.DecodeError:
        arguments = call.arguments
    return {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": arguments}}


class _Guard:
    """Keeps special tokens out of people's text: a message that says `<|eot_id|>` is read as those characters, not as the end of a turn.

    Before the template runs, each such spelling is swapped for a placeholder nobody can guess; when the result is encoded, the spelling
    comes back as plain text, encoded in two halves so that no special token can match.
    """

    def __init__(self, specials: tuple[str, ...]) -> None:
        self._specials = specials
        self._pattern = re.compile("|".join(map(re.escape, specials))) if specials else None
        self._nonce = secrets.token_hex(8)

    def cover(self, value: Any) -> Any:
        """The same value with every string in it covered."""
        if self._pattern is None:
            return value
        if isinstance(value, str):
            return self._pattern.sub(lambda match: f"\ue000{self._nonce}:{self._specials.index(match.group())}\ue001", value)
        if isinstance(value, dict):
            return {self.cover(key): self.cover(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.cover(item) for item in value]
        return value

    def encode(self, tokenizer: Any, text: str) -> list[int]:
        pieces = re.split(f"\ue000{self._nonce}:(\\d+)\ue001", text)
        ids: list[int] = []
        for n, piece in enumerate(pieces):
            if n % 2 == 0:
                ids += tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
            else:
                special = self._specials[int(piece)]
                for half in (special[:1], special[1:]):
                    ids += tokenizer(half, add_special_tokens=False, verbose=False)["input_ids"]
        return ids
