from __future__ import annotations

import pytest

from adapters.types import GenerateRequest, Message, TextPart, ToolCallPart
from policies.limits import Refusal, check_input
from policies.schema import InputLimits


def asked(*texts: str) -> GenerateRequest:
    return GenerateRequest(messages=tuple(Message("user", (TextPart(text),)) for text in texts))


def test_a_request_within_the_limits_passes() -> None:
    assert check_input(asked("a" * 10, "b" * 10), InputLimits(max_characters=20, max_messages=2, max_input_tokens=8), 8) is None


@pytest.mark.parametrize(
    ("request_", "tokens", "code"),
    [
        (GenerateRequest(messages=()), None, "invalid_request"),
        (asked("a", "b", "c"), None, "too_many_messages"),
        (asked("a" * 11, "b" * 10), None, "context_length_exceeded"),
        (asked("a"), 9, "context_length_exceeded"),
        (GenerateRequest(messages=(Message("assistant", (ToolCallPart("1", "f", "x" * 21),)),)), None, "context_length_exceeded"),
    ],
)
def test_each_limit_is_refused_with_status_code_and_field(request_: GenerateRequest, tokens: int | None, code: str) -> None:
    refusal = check_input(request_, InputLimits(max_characters=20, max_messages=2, max_input_tokens=8), tokens)
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.param) == (400, code, "messages")


@pytest.mark.parametrize("text", ["about Project Nightfall", "PROJECT  NIGHTFALL?", "project\u200b nightfall"])
def test_a_denied_term_is_refused_without_being_repeated(text: str) -> None:
    refusal = check_input(asked("hello", text), InputLimits(deny_list=("project nightfall",)))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "content_policy_violation"
    assert "nightfall" not in refusal.message.lower()


def test_other_texts_pass_the_deny_list() -> None:
    assert check_input(asked("night falls on the project"), InputLimits(deny_list=("project nightfall",))) is None
