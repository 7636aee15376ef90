"""OpenAI's `/v1/embeddings`, and any server that speaks it."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from adapters.embedders.base import Answer, Call, EmbedRequest, RemoteEmbedder
from adapters.embedders.spec import EmbedderSpec
from adapters.embedders.vectors import from_base64, packed
from adapters.sender import Sender
from adapters.types import JsonObject, Usage


class _Embedding(Struct, frozen=True):
    embedding: str | list[float]
    index: int = 0


class _Usage(Struct, frozen=True):
    prompt_tokens: int = 0


class _Answer(Struct, frozen=True):
    data: list[_Embedding]
    model: str | None = None
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class OpenAIEmbedder(RemoteEmbedder):
    provider = "openai"
    max_inputs = 2048

    def __init__(self, name: str, spec: EmbedderSpec, sender: Sender | None, unavailable: str, key: str) -> None:
        super().__init__(name, spec, sender, unavailable)
        self._authorization = {"authorization": f"Bearer {key}"}

    def encode(self, request: EmbedRequest) -> Call:
        body: JsonObject = {"model": self.model, "input": list(request.texts), "encoding_format": "base64"}
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        if request.user is not None:
            body["user"] = request.user
        return Call("/embeddings", msgspec.json.encode(body), self._authorization)

    def decode(self, body: bytes) -> Answer:
        """Servers that do not know base64 answer numbers."""
        said = _decode(body)
        ordered = sorted(said.data, key=lambda each: each.index)
        places = [each.index for each in ordered]
        if places != list(range(len(places))) and any(places):  # a server that counts none says 0 everywhere
            raise ValueError("an embedding's place is missing or taken twice")
        vectors = tuple(from_base64(each.embedding) if isinstance(each.embedding, str) else packed(each.embedding) for each in ordered)
        return Answer(vectors, None if said.usage is None else Usage(input_tokens=said.usage.prompt_tokens), said.model)
