"""A provider's own items under moderation: what a client may see of them holds nothing that a rule takes out; the original stays whole."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Event, Finished, ProviderItem, ReasoningDelta
from policies.moderation import RuleSet, compile_rules
from router.moderating import Moderation
from router.moderating_items import moderate_item

SECRET = "4111 1111 1111 1111"
REDACT = compile_rules(["pii", "secrets", "deny-list"], ["Müller"])
BLOCK = compile_rules(["pii"], on_match="block")
FLAG = compile_rules(["pii"], on_match="flag")


async def staged(rules: RuleSet, *events: Event) -> tuple[list[Event], Moderation]:
    async def given_events() -> AsyncIterator[Event]:
        for event in events:
            yield event

    moderation = Moderation(rules)
    return [event async for event in moderation.stage(given_events())], moderation


def visible(event: ProviderItem) -> Any:
    return event.item if event.shown is None else event.shown


THINKING = {"type": "thinking", "thinking": f"the card is {SECRET}, so", "signature": "EqQBCkYIBRgCKkDjoe@example.com"}


async def test_thoughts_are_shown_redacted_and_kept_whole() -> None:
    (item, _), _ = await staged(REDACT, ProviderItem("anthropic", THINKING), Finished("stop"))
    assert isinstance(item, ProviderItem)
    assert item.item == THINKING
    assert item.shown == {**THINKING, "thinking": "the card is [CARD], so"}


async def test_an_item_without_a_match_and_an_item_without_rules_are_as_they_were() -> None:
    harmless = ProviderItem("openai", {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "joe@example.com"})
    for rules, event in ((REDACT, harmless), (compile_rules([]), ProviderItem("anthropic", THINKING)), (FLAG, ProviderItem("anthropic", THINKING))):
        (item, _), _ = await staged(rules, event, Finished("stop"))
        assert item == event


async def test_a_match_to_block_in_an_item_blocks_the_answer() -> None:
    out, moderation = await staged(BLOCK, ProviderItem("anthropic", THINKING, choice=1), ReasoningDelta("more", 1))
    assert out == [Finished("content_filter", 1)]
    assert moderation.blocked


async def test_a_secret_that_the_thoughts_told_in_pieces_is_not_in_the_item_either_and_counts_once() -> None:
    pieces = [ReasoningDelta("the card is 4111 11"), ReasoningDelta("11 1111 1111, so")]
    out, moderation = await staged(REDACT, *pieces, ProviderItem("anthropic", THINKING), Finished("stop"))
    seen = [event.text if isinstance(event, ReasoningDelta) else visible(event) for event in out if isinstance(event, ReasoningDelta | ProviderItem)]
    assert len(seen) >= 2
    assert "1111" not in repr(seen)
    assert moderation.report() == {"blocked": False, "matches": [{"rule": "card", "count": 1}]}


@pytest.mark.parametrize(
    ("provider", "item", "shown"),
    [
        ("openai", {"type": "reasoning", "summary": [{"type": "summary_text", "text": "4111 1111 "}, {"type": "summary_text", "text": "1111 1111 it is"}]},
         {"type": "reasoning", "summary": [{"type": "summary_text", "text": "[CARD]"}, {"type": "summary_text", "text": " it is"}]}),
        ("openai", {"type": "mcp_call", "id": "mcp_1", "arguments": '{"name": "M\\u00fcller"}'},
         {"type": "mcp_call", "id": "mcp_1", "arguments": '{"name": "[REDACTED]"}'}),
        ("anthropic", {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"id": "joe@example.com", "Müller": 4111111111111111}},
         {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"id": "[EMAIL]", "[REDACTED]": "[CARD]"}}),
        ("gcp.gemini", {"part": {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": f"{SECRET}\n"}, "thoughtSignature": "Cv4111111111111111"}},
         {"part": {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "[CARD]\n"}, "thoughtSignature": "Cv4111111111111111"}}),
        ("gcp.gemini", {"part": {"inlineData": {"mimeType": "text/csv", "data": base64.b64encode(SECRET.encode()).decode()}}},
         {"part": {"inlineData": {"mimeType": "text/csv", "data": base64.b64encode(b"[CARD]").decode()}}}),
    ],
)  # fmt: skip
def test_each_place_where_an_item_can_be_read_is_moderated(provider: str, item: dict[str, Any], shown: dict[str, Any]) -> None:
    assert moderate_item(REDACT, item).shown == shown, provider


def test_what_nobody_reads_stays() -> None:
    item = {"part": {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(SECRET.encode()).decode()}}}
    assert moderate_item(REDACT, item).shown is None
    assert moderate_item(REDACT, {"thoughtSignature": "joe@example.com", "toolCallId": "4111111111111111"}).shown is None


def test_sound_is_heard_only_if_its_transcript_may_be_read() -> None:
    spoken = {"audio": {"id": "audio_1", "data": "UklGRjE0MTE=", "transcript": "hello", "expires_at": 1}}
    assert moderate_item(REDACT, spoken).shown is None
    shown = moderate_item(REDACT, {"audio": {**spoken["audio"], "transcript": f"it is {SECRET}"}}).shown
    assert shown == {"audio": {"id": "audio_1", "data": "", "transcript": "it is [CARD]", "expires_at": 1}}


WORDS = st.text('ab M-{["\\:\n', max_size=8)
VALUES = st.recursive(
    WORDS | st.integers(0, 99) | st.none() | st.booleans(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3)
)


@given(
    st.sampled_from(["thinking", "summary", "input", "output", "content", "title", "other"]),
    VALUES,
    WORDS,
    WORDS,
    st.sampled_from([SECRET, "joe@example.com", "Müller"]),
    st.sampled_from(["string", "list", "key", "nested", "json"]),
)
def test_no_planted_secret_is_in_what_is_shown(field: str, around: Any, before: str, after: str, secret: str, place: str) -> None:
    text = f"{before} {secret} {after}"
    planted: Any = {
        "string": text,
        "list": [around, text],
        "key": {"input": {text: around}},
        "nested": {"deep": [{"deeper": text}, around]},
        "json": json.dumps({"a": [text]}),
    }[place]
    judged = moderate_item(REDACT, {"type": "made-up", field: planted, "around": around})
    if judged.blocked:
        return  # nothing of it is shown
    assert judged.shown is not None
    assert secret not in json.dumps(judged.shown, ensure_ascii=False)


@given(st.lists(st.integers(1, len(SECRET) - 1), min_size=1, max_size=4, unique=True), st.sampled_from(["text", "logs"]))
def test_no_secret_cut_over_the_pieces_of_a_list_is_in_what_is_shown(cuts: list[int], field: str) -> None:
    edges = [0, *sorted(cuts), len(SECRET)]
    pieces = [SECRET[start:end] for start, end in pairwise(edges)]
    judged = moderate_item(REDACT, {"type": "reasoning", "summary": [{field: piece} for piece in pieces]})
    assert judged.shown is not None
    assert "".join(piece[field] for piece in judged.shown["summary"]) == "[CARD]"


@given(st.integers(1, len(SECRET) - 1))
def test_a_secret_that_goes_on_in_the_next_item_of_its_kind_is_taken_out_there(cut: int) -> None:
    ends: dict[tuple[str, ...], str] = {}
    first, second = ({"type": "thinking", "thinking": text, "signature": "c2ln"} for text in (f"it is {SECRET[:cut]}", f"{SECRET[cut:]}, so"))
    assert moderate_item(REDACT, first, ends).shown is None
    assert moderate_item(REDACT, second, ends).shown == {**second, "thinking": ", so"}
    assert moderate_item(REDACT, second, {}).shown is None
    assert moderate_item(BLOCK, second, {("thinking",): f"it is {SECRET[:cut]}"}).blocked


async def test_items_of_two_choices_are_not_read_as_one() -> None:
    halves = [ProviderItem("anthropic", {"type": "thinking", "thinking": text}, choice) for choice, text in enumerate((SECRET[:9], SECRET[9:]))]
    (first, second, *_), _ = await staged(REDACT, *halves, Finished("stop"), Finished("stop", 1))
    assert (first, second) == tuple(halves)
