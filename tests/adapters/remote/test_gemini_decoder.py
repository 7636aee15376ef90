"""What Gemini says that the recordings do not hold: several candidates, log probabilities, refusals, audio."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.errors import ContentRefused, ProviderFault, StreamBroken
from adapters.gemini.content_stream import ContentDecoder
from adapters.gemini.content_wire import FAILED, FINISH, UNEXPLAINED
from adapters.sse import SseEvent
from adapters.types import Event, Finished, ProviderItem, ReasoningDelta, TextDelta, TokenLogprob, Usage, UsageReported

USAGE = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10}


def fed(decoder: ContentDecoder, *chunks: dict[str, Any]) -> list[Event]:
    return [event for chunk in chunks for event in decoder.feed(SseEvent("message", json.dumps(chunk).encode()))]


def candidate(*parts: dict[str, Any], index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"index": index, "content": {"parts": list(parts), "role": "model"}, **fields}


def test_candidates_are_choices() -> None:
    decoder = ContentDecoder()
    events = fed(
        decoder,
        {"candidates": [candidate({"text": "a"}), candidate({"text": "b"}, index=1)]},
        {"candidates": [candidate({"text": "A"}, finishReason="STOP"), candidate({"functionCall": {"name": "f"}}, index=1)], "usageMetadata": USAGE},
    )
    assert [(event.text, event.choice) for event in events if isinstance(event, TextDelta)] == [("a", 0), ("b", 1), ("A", 0)]
    assert not decoder.usage_final
    with pytest.raises(StreamBroken):
        decoder.finish()
    fed(decoder, {"candidates": [candidate(index=1, finishReason="MAX_TOKENS")], "usageMetadata": USAGE})
    assert decoder.usage_final
    assert decoder.finish() == [Finished("stop", 0, "STOP"), Finished("length", 1, "MAX_TOKENS")]


def test_thoughts_are_told_as_they_come_and_given_back_as_one_part() -> None:
    events = fed(
        ContentDecoder(),
        {"candidates": [candidate({"text": "first ", "thought": True})]},
        {"candidates": [candidate({"text": "second", "thought": True, "thoughtSignature": "s"}, {"text": "said"})]},
    )[1:]
    part = {"text": "first second", "thought": True, "thoughtSignature": "s"}
    assert events == [ReasoningDelta("first "), ReasoningDelta("second"), ProviderItem("gcp.gemini", {"part": part}), TextDelta("said")]


def test_thoughts_that_end_the_answer_are_given_back_too() -> None:
    events = fed(ContentDecoder(), {"candidates": [candidate({"text": "hm", "thought": True}, finishReason="MAX_TOKENS")]})
    assert events[-1] == ProviderItem("gcp.gemini", {"part": {"text": "hm", "thought": True}})


def test_log_probabilities_go_with_the_text() -> None:
    chosen = [{"token": "a", "logProbability": -0.1}, {"token": "b", "logProbability": -0.2}]
    tops = [{"candidates": [{"token": "a", "logProbability": -0.1}, {"token": "c", "logProbability": -3}]}]
    result = {"chosenCandidates": chosen, "topCandidates": tops}
    events = fed(ContentDecoder(), {"candidates": [candidate({"text": "hm", "thought": True}, {"text": "ab"}, logprobsResult=result)]})
    told = (TokenLogprob("a", -0.1, (("a", -0.1), ("c", -3.0))), TokenLogprob("b", -0.2))
    assert TextDelta("ab", 0, told) in events
    assert fed(ContentDecoder(), {"candidates": [candidate(logprobsResult=result)]})[-1] == TextDelta("", 0, told)


def test_a_refused_prompt_is_an_error_and_its_usage_is_kept() -> None:
    decoder = ContentDecoder()
    events = fed(decoder, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 9}})
    assert events[-1] == UsageReported(Usage(9, 0))
    assert decoder.usage_final
    with pytest.raises(ContentRefused, match="PROHIBITED_CONTENT"):
        decoder.finish()


def test_tokens_of_sound_and_the_tier_are_told() -> None:
    decoder = ContentDecoder()
    details = [{"modality": "TEXT", "tokenCount": 3}, {"modality": "AUDIO", "tokenCount": 4}]
    usage = {**USAGE, "promptTokensDetails": details, "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 2}], "serviceTier": "priority"}
    reported = fed(decoder, {"candidates": [], "usageMetadata": usage})[-1]
    assert reported == UsageReported(Usage(7, 3, audio_input_tokens=4, audio_output_tokens=2))
    assert decoder.service_tier == "priority"


def test_every_finish_reason_of_the_sdk_is_known_by_name() -> None:
    from google.genai.types import FinishReason

    assert len(FinishReason) == 24
    assert {reason.name for reason in FinishReason} == set(FINISH) | FAILED | UNEXPLAINED


def test_what_the_model_says_of_a_failure_is_kept() -> None:
    decoder = ContentDecoder()
    fed(decoder, {"candidates": [candidate(finishReason="MALFORMED_FUNCTION_CALL", finishMessage="print(default_api.f())")]})
    with pytest.raises(ProviderFault, match="default_api"):
        decoder.finish()


def test_a_whole_body_is_decoded_like_its_stream() -> None:
    parts: list[dict[str, Any]] = [{"text": "one", "thoughtSignature": "s"}, {"executableCode": {"code": "1"}}, {"text": "two"}]
    decoder = ContentDecoder()
    events = decoder.whole(json.dumps({"candidates": [candidate(*parts, finishReason="STOP")], "usageMetadata": USAGE}).encode())
    assert events[1:] == [
        TextDelta("one"),
        ProviderItem("gcp.gemini", {"thoughtSignature": "s", "toolCallId": None, "onText": True}),
        ProviderItem("gcp.gemini", {"part": {"executableCode": {"code": "1"}}}),
        TextDelta("two"),
        UsageReported(Usage(7, 3)),
    ]
    assert decoder.finish() == [Finished("stop", provider_reason="STOP")]


@pytest.mark.parametrize("name", ["groundingMetadata", "urlContextMetadata", "citationMetadata"])
def test_what_describes_an_answer_is_kept(name: str) -> None:
    told: Any = {"some": ["detail"]}
    nothing: Any = {}
    events = fed(ContentDecoder(), {"candidates": [candidate({"text": "x"}, **{name: told}), candidate(index=1, **{name: nothing})]})
    assert [event for event in events if isinstance(event, ProviderItem)] == [ProviderItem("gcp.gemini", {name: told})]
