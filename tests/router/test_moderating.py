"""Moderation as a stage: every kind of event ends well, and nothing that a client sees goes past the rules."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.errors import RateLimited
from adapters.types import Citation, Event, Finished, ReasoningDelta, RefusalDelta, TextDelta, TokenLogprob, ToolCallDelta
from policies.moderation import RuleSet, compile_rules
from router.http.answering import LONGEST_WAIT_S, backend_failure, header_value
from router.moderating import Moderation

REDACT = compile_rules(["pii", "deny-list"], ["Müller"])
BLOCK = compile_rules(["pii", "deny-list"], ["Müller"], on_match="block")
NONE = compile_rules([])


async def staged(rules: RuleSet, *events: Event) -> tuple[list[Event], Moderation]:
    async def given() -> AsyncIterator[Event]:
        for event in events:
            yield event

    moderation = Moderation(rules)
    return [event async for event in moderation.stage(given())], moderation


@pytest.mark.parametrize(
    "event",
    [
        ReasoningDelta("about Müller, then", 1),
        RefusalDelta("about Müller, then", 1),
        TextDelta("about Müller, then", 1),
        ToolCallDelta(0, "c", "f", '{"a": "M\\u00fcller"}', 1),
        ToolCallDelta(0, "c", "Müller", "", 1),
    ],
)
async def test_a_block_in_any_kind_of_text_finishes_its_choice(event: Event) -> None:
    out, moderation = await staged(BLOCK, event, TextDelta("more", 1))
    assert moderation.blocked
    assert out[-1] == Finished("content_filter", 1)
    assert sum(isinstance(event, Finished) for event in out) == 1
    assert "ller" not in repr(out)


async def test_a_match_in_a_tools_name_blocks_also_where_it_would_be_redacted() -> None:
    out, moderation = await staged(REDACT, ToolCallDelta(0, "c", "mail_joe@example.com", "{}"), Finished("tool_calls"))
    assert out == [Finished("content_filter")]
    assert moderation.report() == {"blocked": True, "matches": [{"rule": "email", "count": 1}]}


async def test_arguments_are_judged_by_what_their_escapes_stand_for() -> None:
    pieces = ['{"a":"M\\u0', '0fcller","n":41111111', "11111111}"]
    out, _ = await staged(REDACT, ToolCallDelta(0, "c", "f"), *(ToolCallDelta(0, arguments=piece) for piece in pieces), Finished("tool_calls"))
    assert "".join(event.arguments for event in out if isinstance(event, ToolCallDelta)) == '{"a":"[REDACTED]","n":"[CARD]"}'


async def test_log_probabilities_come_only_without_rules() -> None:
    delta = TextDelta("some text ", 0, (TokenLogprob("some", -1.0, (("Müller", -2.0),)),))
    for rules, kept in ((NONE, True), (REDACT, False)):
        out, _ = await staged(rules, delta, Finished("stop"))
        assert [bool(event.logprobs) for event in out if isinstance(event, TextDelta)] == [kept]


def test_a_citations_file_name_is_moderated() -> None:
    cited = Citation(file_id="f", filename="Müller joe@example.com.pdf", page=1, start=0, end=3, quote="abc", answer_start=0, answer_end=1)
    assert "joe" not in Moderation(REDACT).follow(cited).filename
    assert Moderation(REDACT).follow(cited).filename.startswith("[REDACTED] [EMAIL]")
    assert "ller" not in Moderation(BLOCK).follow(cited).filename


@pytest.mark.parametrize(
    ("wait", "told"),
    [(None, None), (float("inf"), None), (float("nan"), None), (1e300, str(LONGEST_WAIT_S)), (-5.0, "1"), (0.0, "1"), (7.2, "7")],
)
def test_a_backends_failure_tells_a_sane_wait_and_moderated_words(wait: float | None, told: str | None) -> None:
    error = backend_failure(RateLimited("no more for joe@example.com", retry_after=wait, param="joe@example.com"), Moderation(REDACT))
    assert error.headers.get("retry-after") == told
    assert (error.message, error.param) == ("no more for [EMAIL]", "[EMAIL]")
    assert "joe" not in backend_failure(RateLimited("no more for joe@example.com"), Moderation(BLOCK)).message


def test_a_headers_value_is_printable_ascii() -> None:
    assert header_value("naïve 日本\r\nx: y\x7f") == b"na?ve ????x: y?"
