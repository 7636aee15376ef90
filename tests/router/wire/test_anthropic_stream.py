"""The event stream of Anthropic's dialect: its grammar, and that nothing is lost, whatever order events come in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.anthropic.messages_stream import CALL_FIELDS, CITATIONS, MESSAGE_END
from adapters.collect import Collected, Collector
from adapters.types import Citation, Event, Finished, ProviderItem, ProviderPart, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from router.http.errors import ErrorDetail
from router.kept.sealing import Sealer
from router.wire.anthropic_messages import decode_messages
from router.wire.anthropic_messages_out import MessagesDialect
from router.wire.dialect import Ending, Opening
from router.wire.headgate import Headgate

SEAL = Sealer(b"a secret of the tests, long enough").of("acme")
OPENING = Opening("r1", 1, "some-model")
ABOUT = Headgate(backend="b", model="m", rule="default", reasons=(), policy_version=1, cost_usd=0.0, decision_id="r1")


class Reader:
    """Reads a stream strictly: one block at a time, numbered from 0, each begun, told and ended; one end."""

    def __init__(self, frames: bytes) -> None:
        self.blocks: list[dict[str, Any]] = []
        self.last: dict[str, Any] = {}
        self.kinds: list[str] = []
        self._open = False
        for frame in frames.decode().split("\n\n")[:-1]:
            name, data = frame.split("\n")
            value = json.loads(data.removeprefix("data: "))
            assert name == f"event: {value['type']}"
            self._read(value)
        assert (self.kinds[0], self.kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
        assert not self._open

    def _read(self, value: dict[str, Any]) -> None:
        self.kinds.append(value["type"])
        match value["type"]:
            case "message_start":
                assert self.kinds == ["message_start"]
            case "content_block_start":
                assert not self._open
                assert value["index"] == len(self.blocks)
                self._open = True
                self.blocks.append({**value["content_block"], "json": ""})
            case "content_block_delta":
                assert self._open
                assert value["index"] == len(self.blocks) - 1
                self._tell(self.blocks[-1], value["delta"])
            case "content_block_stop":
                assert self._open
                self._open = False
                block = self.blocks[-1]
                text = block.pop("json")
                if text:
                    block["input"] = json.loads(text)
            case "message_delta":
                self.last = value
            case "message_stop":
                pass
            case other:
                raise AssertionError(other)

    def _tell(self, block: dict[str, Any], delta: dict[str, Any]) -> None:
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
            case "thinking_delta":
                assert not block["signature"]
                block["thinking"] += delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "input_json_delta":
                block["json"] += delta["partial_json"]
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or []), delta["citation"]]
            case other:
                raise AssertionError(other)

    def joined(self, kind: str, field: str) -> str:
        return "".join(block[field] for block in self.blocks if block["type"] == kind)


def told(events: list[Event], *, moderated: bool = False, ending: Ending | None = None) -> Reader:
    stream = MessagesDialect(SEAL, moderated=moderated).stream(OPENING)
    frames = b"".join(stream.event(event) for event in events)
    return Reader(frames + stream.end(ending or Ending((Finished("stop"),), Usage(5, 3), ABOUT)))


def collected(events: list[Event]) -> Collected:
    collector = Collector()
    for event in events:
        collector.add(event)
    return collector.result()


def whole(events: list[Event], ending: Ending | None = None) -> dict[str, Any]:
    body = MessagesDialect(SEAL).whole(OPENING, collected(events), ending or Ending((Finished("stop"),), Usage(5, 3), ABOUT))
    message: dict[str, Any] = json.loads(body)
    return message


def sealed_parts(blocks: list[dict[str, Any]]) -> list[ProviderPart]:
    """What the service itself opens of a message that a client sends back."""
    body = {"model": "auto", "max_tokens": 9, "messages": [{"role": "assistant", "content": blocks}]}
    return [part for message in decode_messages(json.dumps(body).encode(), SEAL).request.messages for part in message.parts if isinstance(part, ProviderPart)]


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=6)
arguments = st.dictionaries(words, words | st.integers(), max_size=2).map(json.dumps)


@st.composite
def answers(draw: st.DrawFn) -> list[Event]:
    """Texts, thoughts, opaque items and calls; the pieces of the calls may be mixed with each other and with everything else."""
    events: list[Event] = []
    calls: list[list[ToolCallDelta]] = []
    for index in range(draw(st.integers(0, 3))):
        text = draw(arguments)
        cut = draw(st.integers(0, len(text)))
        calls.append([ToolCallDelta(index, f"c{index}", "f"), ToolCallDelta(index, arguments=text[:cut]), ToolCallDelta(index, arguments=text[cut:])])
    begun = 0
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["text", "reasoning", "item", "call"]))
        if kind == "text":
            events.append(TextDelta(draw(words)))
        elif kind == "reasoning":
            events.append(ReasoningDelta(draw(words)))
        elif kind == "item":
            events.append(ProviderItem(draw(st.sampled_from(["openai", "gcp.gemini"])), {"n": draw(st.integers(0, 9))}))
        elif calls:
            waiting = [place for place, call in enumerate(calls) if call and place <= begun]
            if waiting:
                place = draw(st.sampled_from(waiting))
                begun = max(begun, place + 1)
                events.append(calls[place].pop(0))
    return events + [piece for call in calls for piece in call]


@settings(max_examples=300, deadline=None)
@given(answers(), st.booleans())
def test_nothing_is_lost_and_the_grammar_holds_whatever_order_events_come_in(events: list[Event], moderated: bool) -> None:
    stream = told(events, moderated=moderated)
    (choice,) = collected(events).choices
    assert stream.joined("text", "text") == choice.text
    assert stream.joined("thinking", "thinking") == choice.reasoning
    calls = [(block["id"], block["name"], block["input"]) for block in stream.blocks if block["type"] == "tool_use"]
    assert calls == [(call.id, call.name, json.loads(call.arguments)) for call in choice.tool_calls]
    parts = [ProviderPart(item.provider, item.item) for item in choice.items]
    assert sealed_parts(stream.blocks) == parts
    message = whole(events)
    assert sealed_parts(message["content"]) == parts
    assert "".join(block["text"] for block in message["content"] if block["type"] == "text") == choice.text
    assert "".join(block["thinking"] for block in message["content"] if block["type"] == "thinking") == choice.reasoning
    assert message["stop_reason"] == stream.last["delta"]["stop_reason"] == "end_turn"


def test_under_moderation_the_held_end_of_a_text_still_comes_before_the_call() -> None:
    events: list[Event] = [TextDelta("Ask "), ToolCallDelta(0, "c", "f"), TextDelta("Ann"), ToolCallDelta(0, arguments="{}")]
    assert [(block["type"], block.get("text")) for block in told(events, moderated=True).blocks] == [("text", "Ask Ann"), ("tool_use", None)]


THOUGHT = {"type": "thinking", "thinking": "let me see", "signature": "sig"}


@pytest.mark.parametrize("late", [False, True])
def test_a_thought_is_whole_before_its_own_signature_even_where_moderation_holds_its_end(late: bool) -> None:
    first = [ReasoningDelta("let me "), ReasoningDelta("see")]
    item = ProviderItem("anthropic", THOUGHT)
    events: list[Event] = [first[0], item, TextDelta("ok"), first[1]] if late else [*first, item, TextDelta("ok")]
    stream = told(events, moderated=late)
    assert stream.blocks[0] == THOUGHT
    assert [block["type"] for block in stream.blocks] == ["thinking", "text"]
    assert whole([*first, item, TextDelta("ok")])["content"][0] == THOUGHT


def test_a_thought_that_moderation_changed_has_a_signature_of_ours() -> None:
    shown = {**THOUGHT, "thinking": "let me [X]"}
    events: list[Event] = [ReasoningDelta("let me [X]"), ProviderItem("anthropic", THOUGHT, shown=shown)]
    for blocks in (told(events, moderated=True).blocks, whole(events)["content"]):
        assert [block["thinking"] for block in blocks] == ["let me [X]"]
        assert blocks[0]["signature"].startswith("hgs1.")
        assert sealed_parts(blocks) == [ProviderPart("anthropic", THOUGHT)]


def test_a_signature_of_another_tenant_is_left_out() -> None:
    block = {"type": "thinking", "thinking": "x", "signature": Sealer(b"a secret of the tests, long enough").of("globex").close(ProviderPart("openai", {}))}
    assert sealed_parts([block, {"type": "text", "text": "ok"}]) == []


def test_blocks_of_anthropics_own_tools_and_its_citations_come_as_they_are() -> None:
    use = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "encrypted_content": "e"}]}
    cited = {"type": "web_search_result_location", "url": "https://example.org", "title": "t", "cited_text": "c", "encrypted_index": "i"}
    end = {"type": MESSAGE_END, "container": {"id": "k"}, "usage": {"server_tool_use": {"web_search_requests": 1}}}
    events: list[Event] = [
        ProviderItem("anthropic", use),
        ProviderItem("anthropic", found),
        TextDelta("yes"),
        ProviderItem("anthropic", {"type": CITATIONS, "citations": [cited]}),
        TextDelta(" and no"),
        ProviderItem("anthropic", end),
    ]
    stream, message = told(events), whole(events)
    assert stream.blocks[:3] == [use, found, {"type": "text", "text": "yes", "citations": [cited]}]
    assert [block.get("text") for block in stream.blocks[2:]] == ["yes", " and no"]
    assert message["content"] == stream.blocks
    assert stream.last["delta"]["container"] == message["container"] == {"id": "k"}
    assert stream.last["usage"]["server_tool_use"] == message["usage"]["server_tool_use"] == {"web_search_requests": 1}


def test_citations_of_documents_stand_on_the_text_by_page_or_by_character() -> None:
    citations = (
        Citation("file_a", "a.pdf", 4, 10, 20, "quote a", 0, 5),
        Citation("file_b", "b.txt", None, 30, 40, "quote b", 3, 5),
    )
    ending = Ending((Finished("stop"),), Usage(), Headgate(**{name: getattr(ABOUT, name) for name in ABOUT.__struct_fields__} | {"citations": citations}))
    expected = [
        {
            "type": "page_location",
            "start_page_number": 4,
            "end_page_number": 5,
            "cited_text": "quote a",
            "document_index": 0,
            "document_title": "a.pdf",
            "file_id": "file_a",
        },
        {
            "type": "char_location",
            "start_char_index": 30,
            "end_char_index": 40,
            "cited_text": "quote b",
            "document_index": 1,
            "document_title": "b.txt",
            "file_id": "file_b",
        },
    ]
    events: list[Event] = [TextDelta("Hello")]
    assert told(events, ending=ending).blocks == whole(events, ending)["content"] == [{"type": "text", "text": "Hello", "citations": expected}]
    after: list[Event] = [*events, ToolCallDelta(0, "c", "f", "{}")]
    assert told(after, ending=ending).blocks[-1] == {"type": "text", "text": "", "citations": expected}


def test_a_refusal_is_text_unless_its_details_say_it() -> None:
    ending = Ending((Finished("content_filter", provider_reason="refusal"),), Usage(), ABOUT)
    said: list[Event] = [RefusalDelta("I will not.")]
    assert told(said, ending=ending).joined("text", "text") == whole(said, ending)["content"][0]["text"] == "I will not."
    assert whole(said, ending)["stop_reason"] == "refusal"
    details = ProviderItem("anthropic", {"type": MESSAGE_END, "stop_details": {"type": "refusal", "explanation": "I will not."}, "usage": {}})
    native: list[Event] = [details, *said]
    assert told(native, ending=ending).blocks == whole(native, ending)["content"] == []
    assert told(native, ending=ending).last["delta"]["stop_details"]["explanation"] == "I will not."


@pytest.mark.parametrize(
    ("finished", "expected"),
    [
        (Finished("stop"), ("end_turn", None)),
        (Finished("stop", stop_sequence="END"), ("stop_sequence", "END")),
        (Finished("length", provider_reason="MAX_TOKENS"), ("max_tokens", None)),
        (Finished("length", provider_reason="model_context_window_exceeded"), ("model_context_window_exceeded", None)),
        (Finished("stop", provider_reason="pause_turn"), ("pause_turn", None)),
        (Finished("content_filter", provider_reason="end_turn"), ("refusal", None)),
        (Finished("tool_calls", provider_reason="STOP"), ("tool_use", None)),
    ],
)
def test_reasons_to_stop(finished: Finished, expected: tuple[str, str | None]) -> None:
    message = whole([TextDelta("x")], Ending((finished,), Usage(), ABOUT))
    assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_another_providers_refusal_has_the_dialects_reason() -> None:
    said: list[Event] = [RefusalDelta("I will "), RefusalDelta("not.")]
    ending = Ending((Finished("stop", provider_reason="stop"),), Usage(), ABOUT)
    assert whole(said, ending)["stop_reason"] == "refusal"
    assert told(said, ending=ending).last["delta"]["stop_reason"] == "refusal"


def test_usage_leaves_cached_tokens_out_of_the_input() -> None:
    usage = whole([TextDelta("x")], Ending((Finished("stop"),), Usage(100, 20, 60, 30, 8), ABOUT))["usage"]
    assert usage.pop("output_tokens_details") == {"thinking_tokens": 8}
    assert usage == {"input_tokens": 10, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 60, "output_tokens": 20}


def test_a_failure_is_one_error_event_also_before_the_first() -> None:
    frame = MessagesDialect(SEAL).stream(OPENING).failure(ErrorDetail("it broke", "server_error", "provider_error", None), 502, ABOUT)
    name, data = frame.decode().strip().split("\n")
    value = json.loads(data.removeprefix("data: "))
    assert name == "event: error"
    assert (value["type"], value["error"]["type"], value["request_id"], value["headgate"]["backend"]) == ("error", "api_error", "r1", "b")


def test_what_stands_on_a_call_is_told_as_moderation_lets_it_be_seen() -> None:
    fields = {"type": CALL_FIELDS, "id": "c1", "fields": {"toolset": "joe@example.com"}}
    events: list[Event] = [
        ProviderItem("anthropic", fields, shown={**fields, "fields": {"toolset": "[EMAIL]"}}),
        ToolCallDelta(0, id="c1", name="f", arguments="{}"),
    ]
    ending = Ending((Finished("tool_calls"),), Usage(), ABOUT)
    encoder = MessagesDialect(SEAL).stream(OPENING)
    streamed = b"".join(encoder.event(event) for event in events) + encoder.end(ending)
    collector = Collector()
    for event in events:
        collector.add(event)
    whole = MessagesDialect(SEAL).whole(OPENING, collector.result(), ending)
    for said in (streamed, whole):
        assert b"[EMAIL]" in said
        assert b"joe@example.com" not in said
