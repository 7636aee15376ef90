"""What turns the tokens of a request's texts into a provider's count of its input: constants by provider and model. Pure.

Measured on recorded exchanges (`tests/adapters/tokens/test_recorded_counts.py` measures them anew) and, for OpenAI's function definitions,
taken from its cookbook, "How to count tokens with tiktoken".
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from adapters.tokens.vocabulary import Encoding

Api: TypeAlias = Literal["chat", "responses"]


class Profile(Struct, frozen=True, kw_only=True):
    """`text` is the provider's tokens for each of the vocabulary's; `base`, `message`, `call` and `tool` come with a request, each message, each
    tool call with its result, each tool; `tools` and `schema` are factors of their JSON's tokens, with `with_tools` and `with_schema` for having any.

    `exact`: the provider uses this vocabulary, so `text` is 1 and a text's tokens bound themselves. `typescript`: tools are rendered as OpenAI does.
    `thinking` comes with a request that asks for it. `hidden` is what a request with tools may have beyond all that, for the upper bound.
    """

    encoding: Encoding = "estimated"
    exact: bool = False
    typescript: bool = False
    text: float = 1.0
    base: int = 3
    message: int = 4
    call: int = 8
    tool: int = 8
    tools: float = 0.8
    with_tools: int = 10
    schema: float = 0.0
    with_schema: int = 0
    hidden: int = 0
    thinking: int = 0


_O200K = re.compile(r"(chatgpt-4o|gpt-4o|gpt-4\.[15]|gpt-5|o1|o3|o4)(?![a-z0-9])")
_CL100K = re.compile(r"(gpt-4|gpt-3\.5-turbo)(?![.a-z0-9])")
_REASONS = re.compile(r"(gpt-5|o1|o3|o4)(?![a-z0-9])")
_LATER_CLAUDE = re.compile(r"claude-(?:[a-z]+-(?:4-[7-9]|[5-9])|(?:fable|mythos))")

OTHER = Profile(text=1.1)
"""A server of which nothing is known but that it speaks OpenAI's API."""

LLAMA = Profile(base=1, message=5, tools=1.4, with_tools=90)
"""Llama 3's vocabulary is cl100k's with 28,000 words more; its template writes tools with indentation."""

GEMINI = Profile(text=1.02, base=0, message=1, call=8, tool=0, tools=1.0, with_tools=0)
CLAUDE = Profile(text=1.1, message=3, call=40, tool=14, tools=1.0, with_tools=0, schema=1.3, with_schema=110, thinking=29)
"""What Anthropic's own prompt for tools adds, its adapter counts."""

OLDER_GEMINI = msgspec.structs.replace(GEMINI, tools=0.4)
LATER_CLAUDE = msgspec.structs.replace(CLAUDE, text=1.4)
"""The vocabulary that came with Opus 4.7 writes a text in more tokens."""


def profile_of(provider: str, model: str, base_url: str | None, api: Api = "chat") -> Profile:
    """How to count for a backend. Only OpenAI's own address says that its model's name means its vocabulary."""
    match provider:
        case "anthropic":
            if _LATER_CLAUDE.search(model):
                return LATER_CLAUDE
            return CLAUDE
        case "gcp.gemini":
            return OLDER_GEMINI if model.removeprefix("models/").startswith(("gemini-1", "gemini-2.0")) else GEMINI
        case "openai" if _is_openai(base_url):
            return _openai(model, api)
        case _:
            return LLAMA if "llama" in model.lower() else OTHER


def _is_openai(base_url: str | None) -> bool:
    host = "" if base_url is None else urlsplit(base_url).hostname or ""
    return base_url is None or host == "api.openai.com" or host.endswith((".openai.com", ".openai.azure.com"))


def _openai(model: str, api: Api) -> Profile:
    if _CL100K.match(model):
        encoding: Encoding = "cl100k_base"
    elif _O200K.match(model):
        encoding = "o200k_base"
    else:
        return OTHER
    reasons = _REASONS.match(model) is not None
    return Profile(
        encoding=encoding,
        exact=True,
        typescript=True,
        base=2 if reasons else 3,
        call=13 if reasons else 8 if api == "chat" else 6,
        tool=4,
        with_tools=84 if reasons and api == "chat" else 3,
        schema=0.7,
        with_schema=3,
        hidden=320,
    )
