"""The output limit of requests without one."""

from __future__ import annotations

import pytest

from adapters.output_limits import DEFAULT_OUTPUT_TOKENS, REASONING_OUTPUT_TOKENS, default_output_tokens


@pytest.mark.parametrize("model", ["gpt-5-mini", "o1", "o3-mini", "o4-mini", "gemini-2.5-pro", "gemini-3-pro", "models/gemini-2.5-flash", "openai/o3"])
def test_models_that_reason_get_room_for_it(model: str) -> None:
    assert default_output_tokens(model) == REASONING_OUTPUT_TOKENS


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4-turbo", "gpt-3.5-turbo", "claude-3-haiku-20240307", "gemini-2.0-flash", "mistral-large", "o", ""])
def test_other_models_get_what_every_one_of_them_allows(model: str) -> None:
    assert default_output_tokens(model) == DEFAULT_OUTPUT_TOKENS
