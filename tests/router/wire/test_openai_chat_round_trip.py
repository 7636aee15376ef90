"""A chat request decoded and sent on to OpenAI says what it said: every recorded one, and generated ones."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backend import BackendContext
from adapters.openai.chat import OpenAIBackend
from adapters.openai.spec import OpenAISpec
from adapters.types import GenerateRequest
from router.kept.sealing import Sealer
from router.wire.openai_chat import decode_chat
from tests.adapters.remote.recordings import ABSENT, interactions, present

SEAL = Sealer(b"a secret of the tests, long enough").of("acme")
EXCEPTIONS: dict[str, str] = {}
"""Recorded requests that do not come out equal, each with the reason. None."""


def recorded() -> list[dict[str, Any]]:
    return [each for each in interactions() if each["path"].endswith("/chat/completions")]


def backend(model: str, *, official: bool = True, streaming: bool = True) -> OpenAIBackend:
    """`web_search_options` costs more, so a backend gets it only where its table says so."""
    table: dict[str, Any] = {"kind": "openai", "model": model, "streaming": streaming, "pass_through": ["web_search_options", "file_id", "audio"]}
    if not official:
        table["base_url"] = "http://127.0.0.1:1/v1"
    return OpenAIBackend("b", msgspec.convert(table, OpenAISpec), BackendContext(environ={"OPENAI_API_KEY": "sk-1"}))


def sent(request: GenerateRequest, to: OpenAIBackend) -> Any:
    return json.loads(to.encode(request).body)


def normal(body: dict[str, Any]) -> dict[str, Any]:
    """The same for requests that mean the same.

    `stream` and its options are the backend's business, n 1 and tool choice "auto" are what is meant without them, and so is a null. One text part is a
    text, one stop word a list of one, `max_tokens` the old name of `max_completion_tokens`, and a refusal beside the content its last part.
    """
    said = {name: value for name, value in body.items() if value is not None and name not in ("stream", "stream_options")}
    for name, default in (("n", 1), ("tool_choice", "auto"), ("response_format", {"type": "text"})):
        if said.get(name) == default:
            del said[name]
    if "max_tokens" in said:
        said["max_completion_tokens"] = said.pop("max_tokens")
    if isinstance(said.get("stop"), str):
        said["stop"] = [said["stop"]]
    said["messages"] = [_message(message) for message in said["messages"]]
    return said


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """With its content as a list of parts, a refusal beside it as the last of them."""
    said = {name: value for name, value in message.items() if value is not None}
    content = said.pop("content", [])
    refusal = [{"type": "refusal", "refusal": said.pop("refusal")}] if "refusal" in said else []
    said["content"] = [*([{"type": "text", "text": content}] if isinstance(content, str) else content), *refusal]
    return said


@pytest.mark.skipif(not present(), reason=ABSENT)
@pytest.mark.parametrize("recording", recorded(), ids=lambda each: each["id"])
def test_a_recorded_request_goes_out_as_it_came(recording: dict[str, Any]) -> None:
    asked = recording["req"]
    call = decode_chat(json.dumps(asked).encode(), SEAL)
    out = sent(call.request, backend(asked["model"], official=recording["provider"] == "openai", streaming=asked["stream"]))
    assert out["stream"] is asked["stream"]
    if recording["id"] not in EXCEPTIONS:
        assert normal(out) == normal(asked)


@pytest.mark.skipif(not present(), reason=ABSENT)
def test_at_least_98_of_100_recorded_requests_are_equal() -> None:
    assert len(recorded()) == 129
    assert len(EXCEPTIONS) / 129 <= 0.02


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAME = st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True)
VALUE = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | TEXT, lambda inner: st.lists(inner, max_size=2), max_leaves=3)
MARKED = {"prompt_cache_breakpoint": st.just({"mode": "explicit"}), "vendor_field": VALUE}
DATA_URL = st.just("data:image/png;base64,iVBORw0KGgo=")
TEXT_PART = st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}, optional=MARKED)
IMAGE = st.fixed_dictionaries(
    {"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": DATA_URL}, optional={"detail": st.sampled_from(["low", "high"]), "hint": VALUE})},
    optional=MARKED,
)
AUDIO = st.fixed_dictionaries({"type": st.just("input_audio"), "input_audio": st.just({"data": "AAAA", "format": "wav"})}, optional=MARKED)
FILE = st.fixed_dictionaries(
    {
        "type": st.just("file"),
        "file": st.fixed_dictionaries({"filename": NAME, "file_data": st.just("data:application/pdf;base64,JVBERg==")})
        | st.fixed_dictionaries({"file_id": NAME}),
    },
    optional=MARKED,
)
REFUSAL = st.fixed_dictionaries({"type": st.just("refusal"), "refusal": TEXT})
CALL = st.fixed_dictionaries(
    {"id": NAME, "type": st.just("function"), "function": st.fixed_dictionaries({"name": NAME, "arguments": TEXT})}, optional={"vendor_field": VALUE}
) | st.fixed_dictionaries({"id": NAME, "type": st.just("custom"), "custom": st.fixed_dictionaries({"name": NAME, "input": TEXT})})
BESIDE = {"name": NAME, "vendor_field": VALUE}
TEXTS = TEXT | st.lists(TEXT_PART, min_size=1, max_size=3)
MESSAGE = (
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer"]), "content": TEXTS}, optional=BESIDE)
    | st.fixed_dictionaries({"role": st.just("user"), "content": TEXT | st.lists(TEXT_PART | IMAGE | AUDIO | FILE, min_size=1, max_size=4)}, optional=BESIDE)
    | st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": TEXT | st.lists(TEXT_PART | REFUSAL, min_size=1, max_size=3)},
        optional={**BESIDE, "tool_calls": st.lists(CALL, min_size=1, max_size=3), "refusal": TEXT},
    )
    | st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": NAME, "content": TEXTS}, optional={"vendor_field": VALUE})
)
FUNCTION = st.fixed_dictionaries(
    {"name": NAME},
    optional={
        "description": TEXT,
        "strict": st.booleans(),
        "parameters": st.just({"type": "object", "properties": {"a": {"type": "string"}}}),
        "vendor": VALUE,
    },
)
TOOL = st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}, optional={"vendor_field": VALUE}) | st.fixed_dictionaries(
    {"type": st.just("custom"), "custom": st.fixed_dictionaries({"name": NAME}, optional={"format": st.just({"type": "text"})})}
)
CHOICE = (
    st.sampled_from(["auto", "none", "required"])
    | NAME.map(lambda name: {"type": "function", "function": {"name": name}})
    | NAME.map(lambda name: {"type": "custom", "custom": {"name": name}})
    | NAME.map(lambda name: {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": name}}]}})
)
SCHEMA_FORMAT = st.fixed_dictionaries(
    {"name": NAME, "schema": st.just({"type": "object", "additionalProperties": False})}, optional={"strict": st.booleans(), "description": TEXT}
).map(lambda schema: {"type": "json_schema", "json_schema": schema})
KNOBS = {
    "max_completion_tokens": st.integers(1, 2**31 - 1),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.01, 1),
    "stop": TEXT | st.lists(TEXT, min_size=1, max_size=4),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "n": st.integers(1, 16),
    "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", "of_tomorrow"]),
    "verbosity": st.sampled_from(["low", "medium", "high"]),
    "response_format": st.just({"type": "json_object"}) | SCHEMA_FORMAT | st.just({"type": "text"}),
    "user": TEXT,
    "prompt_cache_key": TEXT,
    "logit_bias": st.just({"5": 1}),
    "frequency_penalty": st.floats(-2, 2),
    "field_of_tomorrow": VALUE,
}
TOOLED = st.fixed_dictionaries({"tools": st.lists(TOOL, min_size=1, max_size=3)}, optional={"tool_choice": CHOICE, "parallel_tool_calls": st.booleans()})
LOGPROBS = st.just({"logprobs": True}) | st.integers(1, 20).map(lambda top: {"logprobs": True, "top_logprobs": top})
NOTHING: st.SearchStrategy[dict[str, Any]] = st.just({})
REQUEST = st.builds(
    lambda messages, knobs, tooled, logprobs: {"model": "gpt-5", "messages": messages, **knobs, **tooled, **logprobs},
    st.lists(MESSAGE, min_size=1, max_size=4),
    st.fixed_dictionaries({}, optional=KNOBS),
    NOTHING | TOOLED,
    NOTHING | LOGPROBS,
)


@given(REQUEST)
def test_any_request_goes_out_as_it_came_and_means_the_same_when_it_is_read_again(asked: dict[str, Any]) -> None:
    request = decode_chat(json.dumps(asked).encode(), SEAL).request
    out = sent(request, backend("gpt-5"))
    assert normal(out) == normal(asked)
    assert decode_chat(json.dumps(out).encode(), SEAL).request == request
