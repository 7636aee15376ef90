"""OpenAI's `/v1/embeddings`: a body in, vectors out."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from adapters.embedders import Embedded, EmbedRequest
from adapters.embedders.vectors import to_base64, unpacked
from router.embedding import EmbeddingCall
from router.http.errors import ApiError, decode_body
from router.wire.call import Hints

TOKENS = 100_256
"""Tokens of cl100k_base that are text: the vocabulary of OpenAI's embedding models, in which clients that count tokens send them."""

Text: TypeAlias = Annotated[str, Meta(min_length=1)]
Token: TypeAlias = Annotated[int, Meta(ge=0, lt=TOKENS)]
Input: TypeAlias = str | Annotated[list[str | int | list[Token]], Meta(min_length=1)]


class EmbeddingsBody(Struct):
    """`input`: a text, a list of texts, or one or several lists of tokens of cl100k_base."""

    model: Annotated[str, Meta(min_length=1)]
    input: Input
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    user: str | None = None
    headgate: Hints | UnsetType = UNSET


class _Vector(Struct):
    index: int
    embedding: str | list[float]
    object: Literal["embedding"] = "embedding"


class _Usage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingHeadgate(Struct):
    """What Headgate says about the answer. `usage_source` as in the ledger."""

    backend: str
    model: str
    policy_version: int
    cost_usd: float
    usage_source: str


class EmbeddingList(Struct):
    data: list[_Vector]
    model: str
    usage: _Usage
    headgate: EmbeddingHeadgate
    object: Literal["list"] = "list"


def decode_embeddings(body: bytes) -> EmbeddingCall:
    """Raises `ApiError` 400 that names the field at fault."""
    asked = decode_body(body, EmbeddingsBody)
    texts = _texts(asked.input)
    for place, text in enumerate(texts):
        if not text:
            where = "input" if isinstance(asked.input, str) else f"input[{place}]"
            raise ApiError(400, "invalid_request", f"{where}: an empty text has no embedding.", param=where)
    return EmbeddingCall(
        model=asked.model,
        request=EmbedRequest(texts, asked.dimensions, asked.user),
        base64=asked.encoding_format == "base64",
        hints=Hints() if asked.headgate is UNSET else asked.headgate,
    )


def _texts(given: str | list[str | int | list[int]]) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    tokens = [each for each in given if isinstance(each, int)]
    if len(tokens) == len(given):
        return (_decoded(tokens, "input"),)
    texts = []
    for place, each in enumerate(given):
        if isinstance(each, int):
            where = f"input[{place}]"
            raise ApiError(400, "invalid_request", f"{where}: one list holds either texts, or tokens, or lists of tokens.", param=where)
        texts.append(each if isinstance(each, str) else _decoded(each, f"input[{place}]"))
    return tuple(texts)


def _decoded(tokens: list[int], where: str) -> str:
    """Raises `ApiError` 400 where the tokens are no text: a number that is no token, or a character cut in two."""
    from adapters.tokens.vocabulary import load

    if any(not 0 <= token < TOKENS for token in tokens):
        raise ApiError(400, "invalid_request", f"{where}: a token of cl100k_base is a number from 0 to {TOKENS - 1}.", param=where)
    try:
        text: str = load("cl100k_base").decode(tokens)
    except ValueError as error:
        raise ApiError(400, "invalid_request", f"{where}: these tokens of cl100k_base are no text; send the text itself.", param=where) from error
    return text


def encode_embeddings(call: EmbeddingCall, made: Embedded, headgate: EmbeddingHeadgate) -> bytes:
    vectors = [_Vector(index, to_base64(vector) if call.base64 else unpacked(vector)) for index, vector in enumerate(made.vectors)]
    usage = _Usage(made.usage.input_tokens, made.usage.input_tokens)
    return msgspec.json.encode(EmbeddingList(vectors, made.model, usage, headgate))
