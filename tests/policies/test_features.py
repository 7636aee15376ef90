from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import GenerateRequest, ImagePart, Message, ResponseFormat, TextPart, Tool, ToolChoice
from policies.access import Principal
from policies.features import extract, highest, last_question, task_of

ME = Principal(role="member", tenant="acme")


def ask(text: str, **fields: object) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", (TextPart(text),)),), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Write a Python function that merges two sorted lists.", "code"),
        ("Why does this fail?\n```\nfoo(1)\n```", "code"),
        ("import numpy as np\nprint(np.zeros(3))", "code"),
        ("Fix the bug in this query", "code"),
        ("How do I configure docker to use a proxy?", "code"),
        ("Translate this to German: Good morning", "translate"),
        ("Please put this letter into French.", "translate"),
        ("Summarise the attached report in two sentences", "summarise"),
        ("Give me a summary of the meeting", "summarise"),
        ("Classify the following ticket as bug or feature", "classification"),
        ("Is this review positive or negative? I loved it", "classification"),
        ("Draft an e-mail to my boss about my holidays", "write"),
        ("Write a short poem about the sea", "write"),
        ("Extract all names and dates from the text below", "extraction"),
        ("Give me the addresses as JSON", "extraction"),
        ("Solve x^2 - 5x + 6 = 0", "math"),
        ("Tom has 3 apples and buys 4 more. How many apples has he now?", "math"),
        ("What is 17 * 23?", "math"),
        ("What is the capital of France?", "qa"),
        ("who wrote Faust", "qa"),
        ("Wo liegt Graz?", "qa"),
        ("Hello there", "chat"),
        ("thanks, that helped a lot", "chat"),
        ("Import duties on 2024-01-05 were high", "chat"),
        ("", "chat"),
    ],
)
def test_the_task_is_told_from_the_text(text: str, task: str) -> None:
    assert task_of(text) == task


def test_a_grounded_request_that_asks_nothing_special_is_a_question() -> None:
    assert task_of("the notice period", grounded=True) == "qa"


def test_features_name_what_the_request_needs() -> None:
    request = GenerateRequest(
        messages=(Message("user", (TextPart("What is this?"), ImagePart("https://x/y.png"))), Message("assistant"), Message("user", (TextPart("And that?"),))),
        tools=(Tool("look"),),
        response_format=ResponseFormat("json_schema", schema={}),
        logprobs=0,
        n=2,
        model="mini",
        max_output_tokens=7,
        grounded=True,
    )
    features = extract(request, ME, data_class="confidential", input_tokens=33, max_cost_usd=0.5)
    assert features.needs == ("tools", "vision", "json_schema", "logprobs", "multiple_choices")
    assert (features.tenant, features.role, features.data_class, features.model) == ("acme", "member", "confidential", "mini")
    assert (features.input_tokens, features.output_tokens, features.turns, features.grounded, features.max_cost_usd) == (33, 7, 2, True, 0.5)


def test_tools_that_may_not_be_called_are_no_need() -> None:
    assert extract(ask("hi", tools=(Tool("look"),), tool_choice=ToolChoice("none")), ME, input_tokens=1).needs == ()


def test_a_request_without_a_model_lets_the_policy_choose_and_one_without_text_has_no_complexity() -> None:
    request = GenerateRequest(messages=(Message("user", (ImagePart("https://x/y.png"),)),))
    features = extract(request, ME, input_tokens=1)
    assert features.model == "auto"
    assert features.complexity is None


def test_only_the_last_question_counts_and_its_middle_is_left_out_where_it_is_long() -> None:
    messages = (Message("user", (TextPart("first"),)), Message("assistant", (TextPart("answer"),)), Message("user", (TextPart("a" * 5_000 + "b" * 5_000),)))
    question = last_question(GenerateRequest(messages=messages))
    assert question == "a" * 1_000 + "\n" + "b" * 1_000


def test_the_highest_data_class_wins() -> None:
    assert highest("internal", "restricted", "public") == "restricted"
    assert highest("public", "internal") == "internal"
    assert highest() == "public"


@given(st.text(max_size=300))
def test_any_text_has_features(text: str) -> None:
    features = extract(ask(text), ME, input_tokens=1)
    assert features.complexity is None or 0 <= features.complexity <= 1
    assert features == extract(ask(text), ME, input_tokens=1)


def test_how_hard_a_question_is_stays_unknown_where_nothing_asks() -> None:
    request = ask("Why does the derivative of a constant vanish?")
    assert extract(request, ME, input_tokens=1).complexity is not None
    assert extract(request, ME, input_tokens=1, complexity=False).complexity is None
