"""Anthropic (`kind: anthropic`). Importing this registers the kind."""

from adapters.anthropic.messages import AnthropicBackend, AnthropicSpec

__all__ = ["AnthropicBackend", "AnthropicSpec"]
