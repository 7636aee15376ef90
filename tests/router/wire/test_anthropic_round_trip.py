"""Requests in Anthropic's dialect, to core values and back: what was recorded, and what can be generated."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adapters.anthropic  # noqa: F401 - importing an adapter registers it
from adapters.anthropic.messages import AnthropicBackend
from adapters.backend import BackendContext, create_backend, kind_named, missing_features
from router.kept.sealing import Sealer
from router.wire.anthropic_messages import decode_count, decode_messages
from tests.adapters.remote.recordings import ABSENT, interactions, present

SEAL = Sealer(b"a secret of the tests, long enough").of("acme")
ALLOWED = ["container", "mcp_servers", "context_management", "task_budget", "file_id"]
"""What the recorded requests hold that costs more than tokens: sent only where the backend's table allows it."""


def backend(model: str, **table: Any) -> AnthropicBackend:
    spec = msgspec.convert({"kind": "anthropic", "model": model, "base_url": "http://127.0.0.1:1", **table}, kind_named("anthropic").spec)
    made = create_backend("claude", spec, BackendContext(environ={}))
    assert isinstance(made, AnthropicBackend)
    return made


def through(body: dict[str, Any], **table: Any) -> dict[str, Any]:
    """The body that the adapter sends for a body that a client sent."""
    count = "max_tokens" not in body
    request = (decode_count if count else decode_messages)(json.dumps(body).encode(), SEAL).request
    claude = backend(body["model"], **table)
    assert not missing_features(request, claude.capabilities)
    sent: dict[str, Any] = json.loads(claude.encode(request).body)
    if count:
        del sent["max_tokens"]
    return sent


def normal(value: Any, key: str = "") -> Any:
    """What means the same becomes the same: a text is one block of text, an absent field may be null, `auto` is what no choice means."""
    if isinstance(value, dict):
        if key == "tool_choice" and value == {"type": "auto"}:
            return None
        made = {name: normal(inner, name) for name, inner in value.items()}
        return {name: inner for name, inner in made.items() if inner is not None and not (name == "stream" and key == "") and inner != []}
    if isinstance(value, list):
        return [normal(inner, "block") for inner in value]
    if key in ("content", "system") and isinstance(value, str):
        return [{"type": "text", "text": value}] if value.strip() else []
    return value


RECORDED = [each for each in interactions() if each["provider"] == "anthropic" and each["path"].startswith("/v1/messages")]


@pytest.mark.skipif(not present(), reason=ABSENT)
@pytest.mark.parametrize("recorded", RECORDED, ids=lambda each: each["id"])
def test_a_recorded_request_is_sent_as_it_came(recorded: dict[str, Any]) -> None:
    body = recorded["req"]
    assert normal(through(body, pass_through=ALLOWED, provider_tools=["anthropic/*"])) == normal(body)


@pytest.mark.skipif(not present(), reason=ABSENT)
def test_without_leave_only_what_costs_more_is_missing() -> None:
    changed = {}
    for each in RECORDED:
        sent = normal(through(each["req"], provider_tools=["anthropic/*"], pass_through=["file_id"]))
        if sent != (asked := normal(each["req"])):
            changed[each["id"]] = {key for key in {*asked, *sent} if asked.get(key) != sent.get(key)}
    assert len(changed) <= 8
    assert all(keys <= {"container", "mcp_servers", "context_management", "output_config"} for keys in changed.values()), changed


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(lambda text: text.strip() == text)
marks = st.just({"type": "ephemeral"}) | st.just({"type": "ephemeral", "ttl": "5m"})
objects = st.dictionaries(words, st.integers(-(2**53), 2**53) | words | st.booleans() | st.lists(words, max_size=2), max_size=3)
ids = st.text("abcXYZ019_-", min_size=1, max_size=12)


def block(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    optional = {"cache_control": marks}
    return st.fixed_dictionaries({"type": st.just(kind), **fields}, optional=optional)


texts = block("text", text=words)
images = block(
    "image", source=st.fixed_dictionaries({"type": st.just("base64"), "media_type": st.sampled_from(["image/png", "image/jpeg"]), "data": ids})
) | block("image", source=st.builds(lambda end: {"type": "url", "url": f"https://example.org/{end}"}, ids))
documents = st.fixed_dictionaries(
    {
        "type": st.just("document"),
        "source": st.builds(lambda text: {"type": "text", "media_type": "text/plain", "data": text}, words)
        | st.builds(lambda data: {"type": "base64", "media_type": "application/pdf", "data": data}, ids)
        | st.builds(lambda file: {"type": "file", "file_id": file}, ids),
    },
    optional={"title": words, "context": words, "citations": st.just({"enabled": True}), "cache_control": marks},
)
results = st.fixed_dictionaries(
    {"type": st.just("tool_result"), "tool_use_id": ids},
    optional={"content": st.lists(texts | images | documents, min_size=1, max_size=2), "is_error": st.booleans(), "cache_control": marks},
)
calls = block("tool_use", id=ids, name=ids, input=objects)
thoughts = st.builds(lambda said, signed: {"type": "thinking", "thinking": said, "signature": signed}, words, ids)
user_turns = st.builds(
    lambda first, more: {"role": "user", "content": [*first, *more]},
    st.lists(results, max_size=2),
    st.lists(texts | images | documents, min_size=1, max_size=2),
)
assistant_turns = st.builds(lambda thought, more: {"role": "assistant", "content": [thought, *more]}, thoughts, st.lists(texts | calls, min_size=1, max_size=3))
tools = st.fixed_dictionaries(
    {"name": ids, "input_schema": st.just({"type": "object", "properties": {"a": {"type": "string"}}})},
    optional={"description": words, "strict": st.booleans(), "cache_control": marks, "defer_loading": st.booleans(), "eager_input_streaming": st.booleans()},
)
bodies = st.fixed_dictionaries(
    {
        "model": st.just("claude-sonnet-4-5"),
        "max_tokens": st.integers(2_000, 100_000),
        "messages": st.lists(st.tuples(user_turns, assistant_turns), max_size=2).flatmap(
            lambda pairs: user_turns.map(lambda last: [turn for pair in pairs for turn in pair] + [last])
        ),
    },
    optional={
        "system": words | st.lists(texts, min_size=1, max_size=2),
        "stop_sequences": st.lists(words, min_size=1, max_size=2),
        "temperature": st.floats(0, 1, allow_nan=False),
        "top_k": st.integers(1, 500),
        "metadata": st.builds(lambda user: {"user_id": user}, ids),
        "output_config": st.builds(lambda schema: {"format": {"type": "json_schema", "schema": schema}}, objects),
        "cache_control": marks,
    },
)


@settings(max_examples=120, deadline=None)
@given(
    bodies,
    st.lists(tools, min_size=1, max_size=3),
    st.sampled_from([None, {"type": "any"}, {"type": "tool", "name": "f"}, {"type": "none"}, {"type": "auto", "disable_parallel_tool_use": True}]),
)
def test_any_request_of_the_dialect_comes_out_as_it_went_in(body: dict[str, Any], offered: list[dict[str, Any]], choice: dict[str, Any] | None) -> None:
    body = {**body, "tools": offered, **({} if choice is None else {"tool_choice": choice})}
    assert normal(through(body, pass_through=["file_id"])) == normal(body)


@settings(max_examples=60, deadline=None)
@given(st.integers(1_024, 8_000), st.integers(9_000, 20_000), st.sampled_from([{}, {"display": "omitted"}]))
def test_a_budget_for_thinking_comes_out_as_it_went_in(budget: int, limit: int, shown: dict[str, str]) -> None:
    body = {
        "model": "claude-sonnet-4-5",
        "max_tokens": limit,
        "messages": [{"role": "user", "content": "Hi"}],
        "thinking": {"type": "enabled", "budget_tokens": budget, **shown},
    }
    assert normal(through(body)) == normal(body)
