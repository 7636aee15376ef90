"""Google's Gemini (`kind: gemini`). Importing this registers the kind."""

from adapters.gemini.content import GeminiBackend, GeminiSpec

__all__ = ["GeminiBackend", "GeminiSpec"]
