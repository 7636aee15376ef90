"""OpenAI (`kind: openai`), and every server that speaks its dialects. Importing this registers the kind."""

from __future__ import annotations

from adapters.backend import Backend, BackendContext, register
from adapters.openai.chat import OpenAIBackend
from adapters.openai.responses import OpenAIResponsesBackend
from adapters.openai.spec import OpenAISpec

__all__ = ["OpenAIBackend", "OpenAIResponsesBackend", "OpenAISpec"]


@register("openai", OpenAISpec, remote=True, provider="openai")
def _backend(name: str, spec: OpenAISpec, context: BackendContext) -> Backend:
    match spec.api:
        case "chat":
            return OpenAIBackend(name, spec, context)
        case "responses":
            return OpenAIResponsesBackend(name, spec, context)
