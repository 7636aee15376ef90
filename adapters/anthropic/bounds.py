"""How many input tokens a request to Anthropic can become: the figure that is reserved. Pure.

A byte-level token is at least one byte, so what is sent as text is bounded by its size. What is not sent as text is bounded by other means: an
image by the providers' dearest rule, a PDF or a file of which only an address is known by the model's whole window (a longer prompt is refused),
and tools that Anthropic runs itself by a window for every round, because every round of its loop is billed anew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.anthropic.messages_stream import PROVIDER
from adapters.anthropic.models import Traits
from adapters.backend import IMAGE_TOKENS, MAX_IMAGE_TOKENS
from adapters.types import (
    AudioPart,
    FilePart,
    GenerateRequest,
    ImagePart,
    JsonObject,
    Part,
    ProviderPart,
    ProviderTool,
    RefusalPart,
    TextPart,
    TokenCount,
    ToolCallPart,
)

TOOL_PROMPT_TOKENS = 700
"""A request with tools or a schema is charged for a system prompt of the provider's own: 264 to 530 tokens by model, as its documentation lists."""

USUAL_TOOL_PROMPT_TOKENS = 490
"""What it was in recorded exchanges with tools, by the median. A schema's own prompt is counted with the schema."""

OWN_TOOL_TOKENS = 3_000
"""One of Anthropic's own tools brings its definition along: 1,565 tokens for `memory` as its counting endpoint says, less for the others listed."""

PDF_TOKENS = 4_000
"""A PDF as a rule, for the estimate."""

SERVER_ROUNDS = 11
"""Anthropic's own loop of its tools stops after ten rounds; each is billed with the whole prompt so far."""

CLIENT_RUN = ("bash_", "text_editor_", "computer_", "browser_toolset_", "memory_", "tool_search_tool_")


def input_bound(request: GenerateRequest, counted: TokenCount, traits: Traits, extra: JsonObject) -> TokenCount:
    """`counted` is the count of what every provider is sent; `extra` are the unknown fields that go out beside it."""
    size = _size(extra) + sum(_beside(part) for message in request.messages for part in message.parts)
    size += sum(_size(message.extra) for message in request.messages)
    n, upper = counted.n + size // 4, counted.upper + size
    if request.tools:
        n += USUAL_TOOL_PROMPT_TOKENS
    if request.tools or request.response_format.kind != "text":
        upper += TOOL_PROMPT_TOKENS
    own = [tool for tool in request.tools if isinstance(tool, ProviderTool)]
    n, upper = n + OWN_TOOL_TOKENS // 2 * len(own), upper + OWN_TOOL_TOKENS * len(own)
    images, files = _by_reference(request)
    n, upper = n + images * IMAGE_TOKENS + files * PDF_TOKENS, upper + images * MAX_IMAGE_TOKENS
    if files:
        upper = max(upper, traits.window)
    rounds = _rounds(own) + (SERVER_ROUNDS if "mcp_servers" in extra else 0)
    return TokenCount(n=n, upper=max(upper, rounds * traits.window))


def _beside(part: Part) -> int:
    """Bytes of what goes out with a part and is not counted as its text."""
    match part:
        case TextPart() | ImagePart() | ToolCallPart():
            return _size(part.extra)
        case FilePart():
            return _size(part.extra) + len((part.filename or "").encode())
        case RefusalPart() | AudioPart() | ProviderPart():
            return 0


def _size(value: JsonObject) -> int:
    return len(msgspec.json.encode(value)) if value else 0


def _by_reference(request: GenerateRequest) -> tuple[int, int]:
    """Images and files of which the request holds only an id or an address, or whose bytes say nothing of their tokens."""
    images = files = 0
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, FilePart):
                files += not part.url.startswith("data:text/")
            elif isinstance(part, ProviderPart) and part.provider == PROVIDER:
                more_images, more_files = _inside(part.item)
                images, files = images + more_images, files + more_files
    return images, files


def _inside(value: Any) -> tuple[int, int]:
    if isinstance(value, dict):
        kind = value.get("type")
        if kind == "image":
            return 1, 0
        if kind == "document":
            source = value.get("source")
            text = isinstance(source, dict) and source.get("type") == "text"
            if not text and not (isinstance(source, dict) and source.get("type") == "content"):
                return 0, 1
        found = [_inside(inner) for inner in value.values()]
    elif isinstance(value, list):
        found = [_inside(inner) for inner in value]
    else:
        return 0, 0
    return sum(images for images, _ in found), sum(files for _, files in found)


def _rounds(own: list[ProviderTool]) -> int:
    """How often Anthropic's loop of its own tools can bill the prompt: once more than the tools may be used, 0 where it runs none."""
    run = [tool.item for tool in own if not str(tool.item.get("type", "")).startswith(CLIENT_RUN)]
    if not run:
        return 0
    uses = [item.get("max_uses") for item in run]
    limited = [use for use in uses if isinstance(use, int)]
    return min(SERVER_ROUNDS, sum(limited) + 1) if len(limited) == len(uses) else SERVER_ROUNDS
