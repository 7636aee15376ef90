"""How long an answer may become where neither the request nor the backend's table says so."""

from __future__ import annotations

LONGEST_OUTPUT_TOKENS = 1_000_000
"""More than any model writes in one answer. A request's limit above it is lowered to it, so that a reservation stays a sum of money."""

DEFAULT_OUTPUT_TOKENS = 4_096
"""No chat model of OpenAI's, Anthropic's or Google's allows less, and a limit above a model's own is refused."""

REASONING_OUTPUT_TOKENS = 16_384
"""For models that spend output tokens on reasoning before they answer; all of them allow more than that."""

REASONING_MODELS = ("gpt-5", "o1", "o3", "o4", "gemini-2.5", "gemini-3")


def default_output_tokens(model: str) -> int:
    """The output limit of a paid request without one. A model is known to reason by how its name begins, behind any path (`openai/o3`)."""
    return REASONING_OUTPUT_TOKENS if model.rpartition("/")[2].startswith(REASONING_MODELS) else DEFAULT_OUTPUT_TOKENS
