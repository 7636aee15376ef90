"""OpenAI (`kind: openai`), and every server that speaks its dialects. Importing this registers the kind."""

from adapters.openai.chat import OpenAIBackend, OpenAISpec

__all__ = ["OpenAIBackend", "OpenAISpec"]
