"""Counting tokens: exact where the vocabulary is the provider's, learning elsewhere, bounded everywhere."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backend import BackendContext, create_backend, kind_named
from adapters.tokens import TokenCounter, counting_once, profile_of
from adapters.tokens import counter as counting
from adapters.tokens import vocabulary as words
from adapters.tokens.profiles import OTHER
from adapters.types import GenerateRequest, ImagePart, Message, ResponseFormat, TextPart, Tool, ToolCallPart
from config.settings import Settings
from router.backends import load_kinds as register_kinds

GPT = profile_of("openai", "gpt-4o", None)
texts = st.text(max_size=60) | st.sampled_from(["Hello, world!", "<|endoftext|>", "日本語のテキスト", "    \n\n\t", "a" * 200, '{"a": [1, 2, 3]}'])
messages = st.lists(
    st.builds(lambda role, text: Message(role, (TextPart(text),)), st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=5
)


def asking(*said: str) -> GenerateRequest:
    return GenerateRequest(messages=tuple(Message("user", (TextPart(text),)) for text in said))


@pytest.mark.parametrize(
    ("model", "encoding", "exact"),
    [
        ("gpt-4o-2024-08-06", "o200k_base", True),
        ("gpt-5.2-mini", "o200k_base", True),
        ("o3", "o200k_base", True),
        ("gpt-4-turbo", "cl100k_base", True),
        ("gpt-4", "cl100k_base", True),
        ("gpt-3.5-turbo", "cl100k_base", True),
        ("gpt-4.1-nano", "o200k_base", True),
        ("gpt-9", "estimated", False),
        ("o39", "estimated", False),
    ],
)
def test_a_models_name_tells_its_vocabulary_only_where_it_is_known(model: str, encoding: str, exact: bool) -> None:
    found = profile_of("openai", model, None)
    assert (found.encoding, found.exact) == (encoding, exact)


def test_at_another_address_a_name_says_nothing() -> None:
    assert profile_of("openai", "gpt-4o", "https://cluster.example.com/v1") == OTHER
    assert profile_of("openai", "gpt-4o", "https://api.openai.com/v1").exact
    assert not profile_of("openai", "meta-llama/Llama-3.1-8B", "https://cluster.example.com/v1").exact


def test_a_chat_of_openai_counts_as_its_cookbook_says() -> None:
    counted = TokenCounter(GPT).count(asking("What is the capital of France?"))
    assert counted.n == 14  # as a recorded exchange reports
    assert counted.upper < 100


def test_what_looks_like_a_control_token_is_text() -> None:
    assert words.count_text("<|endoftext|>", "o200k_base") == 7
    assert words.count_text("\ud800", "o200k_base") >= 1


@given(messages=messages, model=st.sampled_from(["gpt-4o", "gpt-4", "gpt-9"]))
def test_the_estimate_is_within_the_bound_and_a_further_message_never_costs_less(messages: list[Message], model: str) -> None:
    counter = TokenCounter(profile_of("openai", model, None))
    request = GenerateRequest(messages=tuple(messages))
    fewer = counter.count(msgspec.structs.replace(request, messages=request.messages[:-1])) if len(messages) > 1 else None
    found = counter.count(request)
    assert 0 < found.n <= found.upper
    if fewer is not None:
        assert fewer.n <= found.n
        assert fewer.upper <= found.upper


@given(text=texts)
def test_the_vocabulary_never_needs_more_tokens_than_bytes(text: str) -> None:
    assert words.count_text(text, "o200k_base") <= len(text.encode("utf-8", "replace"))


def test_tools_calls_images_and_a_schema_count_and_widen_the_bound() -> None:
    counter = TokenCounter(GPT)
    plain = counter.count(asking("Hi"))
    tool = Tool("look", "Look something up", {"type": "object", "properties": {"what": {"type": "string", "enum": ["a", "b"]}}})
    richer = [
        msgspec.structs.replace(asking("Hi"), tools=(tool,)),
        msgspec.structs.replace(asking("Hi"), response_format=ResponseFormat("json_schema", "x", {"type": "object", "required": ["a"]})),
        GenerateRequest(messages=(*asking("Hi").messages, Message("assistant", (ToolCallPart("c1", "look", '{"what":"a"}'),)))),
        GenerateRequest(messages=(Message("user", (TextPart("Hi"), ImagePart("https://example.com/x.png"))),)),
    ]
    for request in richer:
        found = counter.count(request)
        assert found.n > plain.n
        assert found.upper > plain.upper


def test_an_estimate_follows_what_the_provider_reports_within_bounds() -> None:
    counter = TokenCounter(profile_of("anthropic", "claude-sonnet-4-5", None))
    request = asking("The quick brown fox jumps over the lazy dog. " * 100)
    first = counter.count(request)
    for _ in range(40):
        counter.learn(counter.count(request).n, round(first.n * 1.3), request)
    assert counter.count(request).n == pytest.approx(first.n * 1.3, rel=0.02)
    assert counter.count(request).upper == first.upper
    for _ in range(40):
        counter.learn(counter.count(request).n, first.n * 50, request)
    assert counter.ratio <= 2.0
    assert counter.count(request).n <= first.upper


def test_an_exact_count_and_one_with_images_teach_nothing() -> None:
    exact, estimated = TokenCounter(GPT), TokenCounter(OTHER)
    exact.learn(1_000, 5_000, asking("x" * 5_000))
    estimated.learn(1_000, 5_000, GenerateRequest(messages=(Message("user", (ImagePart("https://example.com/x.png"),)),)))
    estimated.learn(10, 500, asking("x"))
    assert exact.ratio == estimated.ratio == 1.0


def test_after_the_first_reports_one_in_eight_is_counted_again_and_none_of_an_exact_count() -> None:
    exact, estimated = TokenCounter(GPT), TokenCounter(OTHER)
    request = asking("The quick brown fox jumps over the lazy dog. " * 20)
    wanted = 0
    for _ in range(10 + 80):
        if estimated.wants_report():
            wanted += 1
            estimated.learn(200, 260, request)
        assert not exact.wants_report()
    assert wanted == 10 + 10
    assert estimated.ratio == pytest.approx(1.3, abs=0.2)


def test_only_a_backend_that_can_be_called_and_counts_exactly_takes_a_vocabularys_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(counting, "load", loaded.append)
    register_kinds(Settings())
    tables: tuple[dict[str, object], ...] = (
        {"kind": "openai", "model": "gpt-4o", "base_url": "https://cluster.example.com/v1"},
        {"kind": "anthropic", "model": "claude-sonnet-4-5"},
        {"kind": "gemini", "model": "gemini-2.5-pro"},
        {"kind": "openai", "model": "gpt-4o"},
    )
    for table in tables:
        spec = msgspec.convert(table, kind_named(str(table["kind"])).spec)
        create_backend("one", spec, BackendContext(environ={"ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k"}))
    assert loaded == []
    create_backend("one", spec, BackendContext(environ={"OPENAI_API_KEY": "k"}))
    assert loaded == ["o200k_base"]


async def test_a_request_counts_each_text_once_for_each_way_of_counting_and_keeps_none_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = words._count
    monkeypatch.setattr(words, "_count", lambda text, encoding: seen.append(text) or real(text, encoding))
    long = "A text that is long enough to be looked up again."
    counters = [TokenCounter(GPT), TokenCounter(profile_of("anthropic", "claude-sonnet-4-5", None)), TokenCounter(OTHER)]

    async def one_request() -> None:
        counting_once()
        for counter in counters:
            counter.count(asking(long))
            counter.count(asking(long))

    await asyncio.create_task(one_request())
    assert seen == [long, long]
    await asyncio.create_task(one_request())
    assert seen == [long] * 4


def test_counting_two_thousand_characters_takes_well_under_a_millisecond() -> None:
    counter = TokenCounter(GPT)
    request = asking("Headgate routes each request by a policy that an admin writes in YAML. " * 28)
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        counter.count(request)
        taken.append(time.perf_counter() - began)
    assert min(taken) < 0.001
