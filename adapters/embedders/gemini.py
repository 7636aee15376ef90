"""Gemini's batchEmbedContents."""

from __future__ import annotations

from urllib.parse import quote

import msgspec
from msgspec import Struct

from adapters.embedders.base import Answer, Call, EmbedRequest, RemoteEmbedder
from adapters.embedders.spec import EmbedderSpec
from adapters.embedders.vectors import packed
from adapters.sender import Sender
from adapters.types import JsonObject, Usage


class _Embedding(Struct, frozen=True):
    values: list[float]


class _Usage(Struct, frozen=True, rename="camel"):
    prompt_token_count: int = 0


class _Answer(Struct, frozen=True, rename="camel"):
    embeddings: list[_Embedding]
    usage_metadata: _Usage | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class GeminiEmbedder(RemoteEmbedder):
    provider = "gcp.gemini"
    max_inputs = 100

    def __init__(self, name: str, spec: EmbedderSpec, sender: Sender | None, unavailable: str, key: str) -> None:
        super().__init__(name, spec, sender, unavailable)
        self._key = {"x-goog-api-key": key}
        self._id = self.model.removeprefix("models/")

    def encode(self, request: EmbedRequest) -> Call:
        shape: JsonObject = {"model": f"models/{self._id}"}
        if request.dimensions is not None:
            shape["outputDimensionality"] = request.dimensions
        body = {"requests": [{**shape, "content": {"parts": [{"text": text}]}} for text in request.texts]}
        ignored = () if request.user is None else ("user",)
        return Call(f"/v1beta/models/{quote(self._id)}:batchEmbedContents", msgspec.json.encode(body), self._key, ignored)

    def decode(self, body: bytes) -> Answer:
        """Older models do not say what they counted."""
        said = _decode(body)
        usage = None if said.usage_metadata is None else Usage(input_tokens=said.usage_metadata.prompt_token_count)
        return Answer(tuple(packed(each.values) for each in said.embeddings), usage)
