"""OpenAI's chat dialect out: the pieces that a whole answer and a stream share."""

from __future__ import annotations

import re
from collections.abc import Iterable

from adapters.openai.chat_stream import PROVIDER
from adapters.types import Citation, JsonObject, ProviderItem, TokenLogprob, Usage

PLAIN = frozenset({"annotations", "audio", "moderation"})
"""What this dialect has a place for in an answer: it goes out as it came. Other opaque parts go out sealed."""

_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


def usage_object(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens,
            "cache_write_tokens": usage.cache_creation_input_tokens,
            "audio_tokens": usage.audio_input_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_output_tokens,
            "audio_tokens": usage.audio_output_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def url_citations(citations: Iterable[Citation]) -> list[JsonObject]:
    """Citations in the dialect's own form."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "url": f"/v1/files/{citation.file_id}/text#char={citation.start},{citation.end}",
                "title": citation.filename if citation.page is None else f"{citation.filename}, page {citation.page}",
                "start_index": citation.answer_start,
                "end_index": citation.answer_end,
            },
        }
        for citation in citations
    ]


def plain(item: ProviderItem) -> JsonObject | None:
    """What a client may see of an opaque part that this dialect has a place for; None for any other."""
    if item.provider.partition("@")[0] != PROVIDER or not item.item.keys() & PLAIN:
        return None
    return item.item if item.shown is None else item.shown


def logprobs_object(content: Iterable[TokenLogprob], refusal: Iterable[TokenLogprob] = ()) -> JsonObject | None:
    of_content, of_refusal = [_token(item) for item in content], [_token(item) for item in refusal]
    return {"content": of_content or None, "refusal": of_refusal or None} if of_content or of_refusal else None


def _token(item: TokenLogprob) -> JsonObject:
    top = [{"token": token, "logprob": value, "bytes": token_bytes(token)} for token, value in item.top]
    return {"token": item.token, "logprob": item.logprob, "bytes": token_bytes(item.token), "top_logprobs": top}


def token_bytes(token: str) -> list[int]:
    """The bytes of a token. One that is only part of a character comes from OpenAI with those bytes written as `\\xe2`."""
    if "\\x" in token:
        # Python's own spelling of bytes that are no text: lone surrogates, which the error handler turns back.
        raw = _ESCAPED.sub(lambda found: bytes.fromhex(found[1]).decode("utf-8", "surrogateescape"), token).encode("utf-8", "surrogateescape")
        try:
            raw.decode()
        except UnicodeDecodeError:
            return list(raw)
    return list(token.encode())
