"""Counting a request with a profile, and learning from what the provider reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from adapters.backend import IMAGE_TOKENS, estimate_tokens
from adapters.tokens.profiles import Profile
from adapters.tokens.vocabulary import Encoding, count_text, load
from adapters.types import (
    AudioPart,
    FilePart,
    GenerateRequest,
    ImagePart,
    JsonObject,
    ProviderPart,
    ProviderTool,
    RefusalPart,
    TextPart,
    TokenCount,
    Tool,
    ToolCallPart,
)

LEAST_RATIO, MOST_RATIO = 0.5, 2.0
FIRST_STEPS = 10
"""Reports after which a new one moves the ratio by a tenth of the difference, no longer by its share of all."""

EVERY = 8
"""After those first ones, one report of so many is learned from: to count again for each would cost more than it tells."""

LEAST_LEARNED, FULL_WEIGHT = 64, 500
"""Tokens of a request that says something about the text's ratio, and of one that says no more about what stands around the text."""


class TokenCounter:
    """Counts for one backend. `n` follows the provider's own reports: a running ratio of reported to counted, between 0.5 and 2.

    `upper` never follows them. It is the bound of bytes that `estimate_tokens` proves, and, where the vocabulary is the provider's own, its
    tokens in place of the texts' bytes.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.ratio = 1.0
        self._reports = 0
        self._seen = 0

    def prepare(self) -> None:
        """Load now what the first count would otherwise wait for."""
        if self.profile.encoding != "estimated":
            load(self.profile.encoding)

    def count(self, request: GenerateRequest) -> TokenCount:
        """The request's context must stand in its messages."""
        bound = estimate_tokens(request).upper
        measured = _Measured(request, self.profile.encoding)
        n = max(1, round(self._estimate(request, measured) * self.ratio))
        if self.profile.exact:
            bound += measured.text_tokens - measured.text_bytes + (self.profile.hidden if request.tools else 0)
        return TokenCount(n=min(n, bound), upper=bound)

    def wants_report(self) -> bool:
        """Whether what the provider now reports is worth counting its request once more, for `learn`: never for an exact count."""
        if self.profile.exact:
            return False
        self._seen += 1
        return self._reports < FIRST_STEPS or self._seen % EVERY == 0

    def learn(self, counted: int, reported: int, request: GenerateRequest) -> None:
        """The provider reported so many input tokens for a request that was counted as `counted`. Not learned from: what no text tells, and an exact count."""
        if self.profile.exact or counted < LEAST_LEARNED or reported <= 0 or not _is_text(request):
            return
        self._reports += 1
        share = max(1 / (self._reports + 1), 1 / FIRST_STEPS) * min(1.0, counted / FULL_WEIGHT)
        wanted = min(MOST_RATIO, max(LEAST_RATIO, self.ratio * reported / counted))
        self.ratio += share * (wanted - self.ratio)

    def _estimate(self, request: GenerateRequest, measured: _Measured) -> float:
        profile, encoding = self.profile, self.profile.encoding
        total = profile.base + profile.message * (len(request.messages)) + profile.text * (measured.text_tokens + measured.other_tokens)
        total += profile.call * measured.calls + measured.images * IMAGE_TOKENS + measured.file_bytes // 32
        if profile.thinking and request.reasoning is not None and request.reasoning.enabled is not False and request.reasoning.effort != "none":
            total += profile.thinking
        if request.tools:
            total += profile.with_tools + profile.tool * len(request.tools)
            own = [msgspec.json.encode(tool.item).decode() for tool in request.tools if isinstance(tool, ProviderTool)]
            total += profile.text * sum(count_text(text, encoding) for text in own)
            if profile.typescript:
                total += 12 + sum(_rendered(tool, lambda text: count_text(text, encoding)) for tool in request.functions)
            else:
                total += profile.tools * sum(count_text(_lean(tool), encoding) for tool in request.functions)
        if request.response_format.schema is not None:
            total += profile.with_schema + profile.schema * count_text(msgspec.json.encode(request.response_format.schema).decode(), encoding)
        return total


class _Measured:
    """`text_tokens` and `text_bytes` are of the texts and the calls' arguments, `other_tokens` of names and opaque parts."""

    def __init__(self, request: GenerateRequest, encoding: Encoding) -> None:
        self.text_tokens = self.text_bytes = self.other_tokens = self.calls = self.images = self.file_bytes = 0
        for message in request.messages:
            if message.name:
                self.other_tokens += 1 + count_text(message.name, encoding)
            for part in message.parts:
                match part:
                    case TextPart() | RefusalPart():
                        self._text(part.text, encoding)
                    case ToolCallPart():
                        self._text(part.arguments, encoding)
                        self.other_tokens += count_text(part.name, encoding)
                        self.calls += 1
                    case ImagePart():
                        self.images += 1
                    case FilePart():
                        self.file_bytes += len(part.url)
                    case AudioPart():
                        self.file_bytes += len(part.data)
                    case ProviderPart():
                        self.other_tokens += count_text(msgspec.json.encode(part.item).decode(), encoding) // 2  # signatures are dense, and partly not billed

    def _text(self, text: str, encoding: Encoding) -> None:
        self.text_tokens += count_text(text, encoding)
        self.text_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _is_text(request: GenerateRequest) -> bool:
    plain = (TextPart, RefusalPart, ToolCallPart)
    parts = all(isinstance(part, plain) for message in request.messages for part in message.parts)
    return parts and len(request.functions) == len(request.tools) and not request.extra


def _lean(tool: Tool) -> str:
    return msgspec.json.encode((tool.name, tool.description or "", tool.parameters)).decode()


def _rendered(tool: Tool, count: Callable[[str], int]) -> int:
    """A function's definition as OpenAI shows it to its models: as TypeScript."""
    return count(f"{tool.name}:{(tool.description or '').rstrip('.')}") + _properties(tool.parameters, count, 0)


def _properties(schema: JsonObject, count: Callable[[str], int], depth: int) -> int:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties or depth > 8:
        return 0
    return 3 + sum(_property(name, inner, count, depth) for name, inner in properties.items())


def _property(name: str, schema: Any, count: Callable[[str], int], depth: int) -> int:
    if not isinstance(schema, dict):
        return 3 + count(name)
    total = 3 + count(f"{name}:{schema.get('type', '')}:{str(schema.get('description', '')).rstrip('.')}")
    options = schema.get("enum")
    if isinstance(options, list):
        total += sum(3 + count(str(option)) for option in options) - 3
    return total + sum(_properties(inner, count, depth + 1) for inner in _inner(schema))


def _inner(schema: JsonObject) -> Iterable[JsonObject]:
    items = schema.get("items")
    return (schema, items) if isinstance(items, dict) else (schema,)
