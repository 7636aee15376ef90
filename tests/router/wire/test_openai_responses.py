"""The responses dialect without a network: what a request means, and that a stream tells exactly what its last event says."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.collect import Collector
from adapters.types import (
    Citation,
    Event,
    FilePart,
    Finished,
    ImagePart,
    ProviderItem,
    ProviderPart,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallPart,
    ToolChoice,
    Usage,
)
from router.http.errors import ApiError, ErrorDetail
from router.kept.sealing import Sealer
from router.wire.dialect import Ending, Opening
from router.wire.headgate import Headgate
from router.wire.openai_responses import ResponsesCall, decode_responses
from router.wire.openai_responses_out import ResponsesDialect
from tests.openai_schema import present, require_valid

SEALER = Sealer(b"a secret of the tests, long enough")
SEAL = SEALER.of("acme")
ABOUT = Headgate("mini", "some-model", "default", (), 1, 0.0, "abc")


def decoded(**body: Any) -> ResponsesCall:
    return decode_responses(json.dumps({"model": "auto", **body}).encode(), SEAL)


def test_one_turn_of_the_assistant_is_one_message() -> None:
    asked = decoded(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "Weather?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
            {"type": "message", "role": "assistant", "id": "msg_1", "phase": "commentary", "content": [{"type": "output_text", "text": "Looking."}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}", "id": "fc_hg_abc_2", "namespace": "world"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]},
        ],
    )
    instructions, user, assistant, tool = asked.call.request.messages
    assert (instructions.text, instructions.extra) == ("Be brief.", {"instructions": True})
    assert user.text == "Weather?"
    reasoning, note, text, call = assistant.parts
    assert isinstance(reasoning, ProviderPart)
    assert note == ProviderPart("openai", {"type": "message", "id": "msg_1", "phase": "commentary"})
    assert assistant.text == "Looking."
    assert call == ToolCallPart("c1", "weather", "{}", extra={"namespace": "world"})
    assert text.text == "Looking."  # type: ignore[union-attr]
    assert tool.tool_call_id == "c1"
    assert tool.parts == (ImagePart("data:image/png;base64,AA=="),)


def test_store_is_true_unless_the_request_says_no() -> None:
    assert decoded(input="Hi").call.store
    assert not decoded(input="Hi", store=False).call.store
    assert decoded(input="Hi", conversation={"id": "conv_1"}).call.conversation == "conv_1"
    assert decoded(previous_response_id="resp_1").call.previous_response_id == "resp_1"


def test_a_file_search_is_headgates_own_and_other_tools_are_the_providers() -> None:
    asked = decoded(
        input="Hi",
        tools=[{"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 3}, {"type": "web_search"}],
        tool_choice={"type": "allowed_tools", "mode": "auto", "tools": []},
    ).call
    assert (asked.stores, asked.search_limit, asked.stores_param) == (("vs_1",), 3, "tools[0].vector_store_ids")
    assert [tool.qualified for tool in asked.request.tools] == ["openai/web_search"]  # type: ignore[union-attr]
    assert asked.request.tool_choice == ToolChoice("auto", item={"type": "allowed_tools", "mode": "auto", "tools": []})
    with pytest.raises(ApiError, match="filters"):
        decoded(input="Hi", tools=[{"type": "file_search", "vector_store_ids": ["vs_1"], "filters": {"type": "eq", "key": "a", "value": 1}}])


def test_files_come_by_data_or_address_and_by_id_only_for_their_keeper() -> None:
    parts = [
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "input_file", "file_id": "file-1"},
    ]
    (message,) = decoded(input=[{"role": "user", "content": parts}]).call.request.messages
    assert message.parts == (
        FilePart("data:application/pdf;base64,AA==", "a.pdf"),
        FilePart("https://example.com/a.pdf"),
        ProviderPart("openai", {"type": "input_file", "file_id": "file-1"}, required=True),
    )


def test_reasoning_sealed_for_another_tenant_is_left_out() -> None:
    part = ProviderPart("anthropic", {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"})
    mine, foreign = SEAL.close(part), SEALER.of("globex").close(part)
    items = [{"type": "reasoning", "id": f"rs_hg_{n}", "summary": [], "encrypted_content": sealed} for n, sealed in enumerate((mine, foreign))]
    (message,) = decoded(input=[*items, {"role": "assistant", "content": "Yes."}]).call.request.messages
    assert [each for each in message.parts if isinstance(each, ProviderPart)] == [part]


texts = st.text(max_size=8)
logprobs = st.lists(st.builds(TokenLogprob, token=texts, logprob=st.floats(-9, 0)), max_size=2).map(tuple)
items = st.sampled_from(
    [
        ProviderItem("openai", {"type": "message", "phase": "commentary"}),
        ProviderItem("openai", {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "gAAAA"}),
        ProviderItem("openai", {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}}),
        ProviderItem(
            "openai", {"type": "annotations", "annotations": [{"type": "url_citation", "url": "https://a.b", "title": "a", "start_index": 0, "end_index": 1}]}
        ),
        ProviderItem("anthropic", {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}),
        ProviderItem("gemini", {"thoughtSignature": "c2ln"}),
    ]
)
events = st.lists(
    st.one_of(
        st.builds(TextDelta, text=texts, logprobs=logprobs),
        st.builds(ReasoningDelta, text=texts),
        st.builds(RefusalDelta, text=texts),
        st.builds(lambda index, text: ToolCallDelta(index, f"call_{index}", "f", text), st.integers(0, 2), texts),
        st.builds(ToolCallDelta, index=st.integers(0, 2), arguments=texts),
        items,
    ),
    max_size=12,
)
endings = st.sampled_from(["stop", "length", "content_filter", "tool_calls"])
citations = st.lists(
    st.builds(Citation, st.just("file-1"), st.just("a.pdf"), st.none(), st.just(0), st.just(3), st.just("abc"), st.just(0), st.integers(1, 40)), max_size=2
)


def frames(said: bytes) -> list[dict[str, Any]]:
    return [json.loads(block.split("\n")[1].removeprefix("data: ")) for block in said.decode().split("\n\n") if block]


def replayed(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output as a reader of the deltas alone would put it together; every end must repeat what was told."""
    output: list[dict[str, Any]] = []
    for event in stream:
        match event["type"]:
            case "response.output_item.added":
                assert event["output_index"] == len(output)
                output.append(event["item"])
            case "response.content_part.added":
                assert event["content_index"] == len(output[event["output_index"]]["content"])
                output[event["output_index"]]["content"].append(event["part"])
            case "response.output_text.delta":
                output[event["output_index"]]["content"][event["content_index"]]["text"] += event["delta"]
            case "response.refusal.delta":
                output[event["output_index"]]["content"][event["content_index"]]["refusal"] += event["delta"]
            case "response.output_text.annotation.added":
                output[event["output_index"]]["content"][event["content_index"]]["annotations"].append(event["annotation"])
            case "response.reasoning_summary_part.added":
                output[event["output_index"]]["summary"].append(event["part"])
            case "response.reasoning_summary_text.delta":
                output[event["output_index"]]["summary"][0]["text"] += event["delta"]
            case "response.function_call_arguments.delta":
                output[event["output_index"]]["arguments"] += event["delta"]
            case "response.output_text.done":
                assert output[event["output_index"]]["content"][event["content_index"]]["text"] == event["text"]
            case "response.function_call_arguments.done":
                assert output[event["output_index"]]["arguments"] == event["arguments"]
            case "response.output_item.done":
                item = output[event["output_index"]]
                assert said_of(item) == said_of(event["item"])
                assert item["id"] == event["item"]["id"]
    return output


def said_of(item: dict[str, Any]) -> Any:
    parts = [*item.get("content", ()), *item.get("summary", ())]
    return item["type"], [part.get("text", part.get("refusal")) for part in parts], item.get("arguments"), item.get("call_id")


@settings(deadline=None, max_examples=50)
@given(said=events, reason=endings, cited=citations)
def test_a_stream_tells_exactly_what_its_last_event_says(said: list[Event], reason: Any, cited: list[Citation]) -> None:
    asked = decoded(input="Hi", tools=[{"type": "function", "name": "f"}], text={"verbosity": "low"})
    opening = Opening("0123456789abcdef", 1, "some-model")
    ending = Ending((Finished(reason),), Usage(3, 4), msgspec.structs.replace(ABOUT, citations=tuple(cited)))
    encoder = ResponsesDialect(asked.echo, SEAL).stream(opening)
    stream = frames(b"".join(encoder.event(event) for event in said) + encoder.end(ending))
    final = stream[-1]["response"]
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    assert [said_of(item) for item in replayed(stream)] == [said_of(item) for item in final["output"]]
    assert {item.get("status", "completed") for item in final["output"]} <= {"completed", "incomplete"}
    assert len({item["id"] for item in final["output"] if "_hg_" in item["id"]}) == len([item for item in final["output"] if "_hg_" in item["id"]])
    collector = Collector()
    for event in said:
        collector.add(event)
    whole = json.loads(ResponsesDialect(asked.echo, SEAL).whole(opening, collector.result(), ending))
    assert whole["status"] == final["status"] == ("incomplete" if reason in ("length", "content_filter") else "completed")
    if present():
        require_valid("Response", whole)
        for told in stream:
            require_valid("ResponseStreamEvent", told)


def test_a_failure_before_the_first_event_is_an_error_event() -> None:
    dialect = ResponsesDialect(decoded(input="Hi").echo, SEAL)
    error = ErrorDetail("The provider is overloaded.", "server_error", "backend_overloaded", None)
    (only,) = frames(dialect.stream(Opening("abc", 1, "auto")).failure(error, 503, None))
    assert (only["type"], only["code"], only["sequence_number"]) == ("error", "backend_overloaded", 0)
    if present():
        require_valid("ResponseStreamEvent", only)


def test_a_web_citation_of_chat_completions_is_an_annotation_here() -> None:
    inner = {"url": "https://a.b", "title": "a", "start_index": 0, "end_index": 1}
    encoder = ResponsesDialect(decoded(input="Hi").echo, SEAL).stream(Opening("abc", 1, "m"))
    item = ProviderItem("openai.chat", {"annotations": [{"type": "url_citation", "url_citation": inner}]})
    stream = frames(encoder.event(TextDelta("W")) + encoder.event(item) + encoder.end(Ending((Finished("stop"),), Usage(), ABOUT)))
    (message,) = stream[-1]["response"]["output"]
    assert message["content"][0]["annotations"] == [{"type": "url_citation", **inner}]


def test_citations_are_annotations_of_the_text_that_holds_them() -> None:
    cited = Citation("file-1", "a.pdf", 2, 0, 3, "abc", 0, 5)
    encoder = ResponsesDialect(decoded(input="Hi").echo, SEAL).stream(Opening("abc", 1, "m"))
    stream = frames(encoder.event(TextDelta("Words.")) + encoder.end(Ending((Finished("stop"),), Usage(), msgspec.structs.replace(ABOUT, citations=(cited,)))))
    (added,) = [event for event in stream if event["type"] == "response.output_text.annotation.added"]
    assert added["annotation"] == {"type": "file_citation", "file_id": "file-1", "filename": "a.pdf", "index": 5}
    assert stream[-1]["response"]["output"][0]["content"][0]["annotations"] == [added["annotation"]]


def test_thoughts_that_moderation_changed_after_their_item_told_them_swallow_nothing_later() -> None:
    encoder = ResponsesDialect(decoded(input="Hi").echo, SEAL).stream(Opening("abc", 1, "some-model"))
    item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "it is 4111"}], "encrypted_content": "gA"}
    said = encoder.event(ProviderItem("openai", item)) + encoder.event(ReasoningDelta("[CARD]")) + encoder.event(ReasoningDelta("it is "))
    deltas = [json.loads(line[6:]) for line in said.decode().splitlines() if line.startswith("data: ")]
    assert "".join(each["delta"] for each in deltas if each["type"] == "response.reasoning_summary_text.delta") == "[CARD]it is "
