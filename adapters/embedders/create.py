"""From a table to an embedder."""

from __future__ import annotations

from collections.abc import Mapping

from adapters.embedders.base import RemoteEmbedder
from adapters.embedders.gemini import GeminiEmbedder
from adapters.embedders.openai import OpenAIEmbedder
from adapters.embedders.spec import EmbedderSpec
from adapters.remote import credentials
from adapters.sender import Endpoint, Sender

_OFFICIAL = {
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "gemini": ("https://generativelanguage.googleapis.com", "GEMINI_API_KEY"),
}


def create_embedder(name: str, spec: EmbedderSpec, environ: Mapping[str, str]) -> RemoteEmbedder:
    """Makes no call; a missing key shows in `health`. Raises `ValueError` for an address that is not HTTP."""
    url, key, missing = credentials(spec.as_backend(), environ, *_OFFICIAL[spec.kind])
    sender: Sender | None = None
    if not missing:
        from adapters.sender.direct import DirectSender

        sender = DirectSender(Endpoint(url, key, spec.connect_s))
    match spec.kind:
        case "openai":
            return OpenAIEmbedder(name, spec, sender, missing, key)
        case "gemini":
            return GeminiEmbedder(name, spec, sender, missing, key)
