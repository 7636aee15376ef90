"""What OpenAI's models are believed to do with a schema."""

from __future__ import annotations

import pytest

from adapters.openai.formats import json_support


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-5-mini", ("guaranteed", "guaranteed")),
        ("gpt-4o-2024-08-06", ("guaranteed", "guaranteed")),
        ("gpt-4.1-nano", ("guaranteed", "guaranteed")),
        ("gpt-4o-2024-05-13", ("prompted", "guaranteed")),
        ("gpt-4-turbo", ("prompted", "guaranteed")),
        ("gpt-3.5-turbo", ("prompted", "guaranteed")),
        ("gpt-4", ("prompted", "prompted")),
        ("o1-mini", ("prompted", "prompted")),
        ("o3-mini", ("guaranteed", "guaranteed")),
    ],
)
def test_a_models_name_tells_how_it_answers_in_json(model: str, expected: tuple[str, str]) -> None:
    assert json_support(model, official=True, configured=None) == expected


def test_another_server_is_told_the_schema_and_the_table_has_the_last_word() -> None:
    assert json_support("gpt-5", official=False, configured=None) == ("native", "native")
    assert json_support("gpt-5", official=True, configured="prompted") == ("prompted", "prompted")
