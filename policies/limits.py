"""What a request must keep to before anything is looked up or paid: pure checks with a typed refusal."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from msgspec import Struct

from adapters.types import GenerateRequest, ImagePart, ProviderPart, TextPart, ToolCallPart
from policies.moderation import RuleSet, compile_rules, find
from policies.schema import InputLimits


class Refusal(Struct, frozen=True):
    """Why a request is refused: HTTP status, stable code, the request's parameter and a sentence for people."""

    status: int
    code: str
    param: str | None
    message: str


def check_input(request: GenerateRequest, limits: InputLimits, input_tokens: int | None = None) -> Refusal | None:
    """The first limit that the request breaks, or None. `input_tokens` is the estimate, where there is one. The answer repeats none of the text."""
    if not request.messages:
        return Refusal(400, "invalid_request", "messages", "messages must not be empty")
    if len(request.messages) > limits.max_messages:
        return Refusal(400, "too_many_messages", "messages", f"the request has {len(request.messages)} messages; at most {limits.max_messages} are accepted")
    characters = sum(map(len, texts_of(request)))
    if characters > limits.max_characters:
        return Refusal(400, "context_length_exceeded", "messages", f"the messages have {characters} characters; at most {limits.max_characters} are accepted")
    if limits.max_input_tokens is not None and input_tokens is not None and input_tokens > limits.max_input_tokens:
        message = f"the request has about {input_tokens} tokens; at most {limits.max_input_tokens} are accepted"
        return Refusal(400, "context_length_exceeded", "messages", message)
    if limits.deny_list and any(find(_terms(limits.deny_list), _folded(text)) for text in texts_of(request)):
        return Refusal(400, "content_policy_violation", "messages", "the request holds a term that the policy does not allow")
    return None


def texts_of(request: GenerateRequest) -> list[str]:
    """Every text that the client put into the messages."""
    found = []
    for message in request.messages:
        for part in message.parts:
            match part:
                case TextPart():
                    found.append(part.text)
                case ToolCallPart():
                    found.append(part.arguments)
                case ImagePart() | ProviderPart():
                    pass
    return found


_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


def _folded(text: str) -> str:
    """The text as a reader sees it: no invisible characters, compatible forms made one, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).split())


@lru_cache(maxsize=64)
def _terms(deny_list: tuple[str, ...]) -> RuleSet:
    return compile_rules(("deny-list",), [_folded(term) for term in deny_list])
