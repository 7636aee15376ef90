"""Long histories: what is dropped, what never is, and that the rest fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Message, Part, TextPart, ToolCallPart
from policies.history import droppable, shorten, transcript, turns


def said(role: str, text: str = "x", call: str | None = None, answers: str | None = None) -> Message:
    parts: tuple[Part, ...] = (TextPart(text),) if call is None else (TextPart(text), ToolCallPart(call, "look", "{}"))
    return Message(role, parts, tool_call_id=answers)  # type: ignore[arg-type]


def size(messages: tuple[Message, ...]) -> int:
    return sum(4 + len(message.text) for message in messages)


CHAT = (
    said("system"),
    said("user", "first"),
    said("assistant", call="a"),
    said("tool", answers="a"),
    said("assistant", "done"),
    said("user", "second"),
    said("developer", "note"),
    said("assistant", "yes"),
    said("user", "third"),
)


def test_a_turn_is_a_users_message_and_everything_up_to_the_next() -> None:
    assert turns(CHAT) == [[1, 2, 3, 4], [5, 7], [8]]


def test_users_messages_in_a_row_and_a_beginning_without_one_are_turns_too() -> None:
    messages = (said("assistant"), said("user"), said("user"), said("assistant"), said("user"))
    assert turns(messages) == [[0], [1, 2, 3], [4]]


def test_a_result_that_comes_late_keeps_what_lies_between() -> None:
    messages = (said("user"), said("assistant", call="a"), said("user"), said("tool", answers="a"), said("user"))
    assert turns(messages) == [[0, 1, 2, 3], [4]]


def test_the_last_turn_and_those_of_the_last_messages_are_kept() -> None:
    assert droppable(CHAT, 0) == [[1, 2, 3, 4], [5, 7]]
    assert droppable(CHAT, 2) == [[1, 2, 3, 4]]
    assert droppable(CHAT, 100) == []


def test_as_few_turns_as_reach_the_target_are_dropped_the_oldest_first() -> None:
    found = shorten(CHAT, 1, size(CHAT) - 1, size(CHAT) - 10, size)
    assert found is not None
    assert found.dropped == CHAT[1:5]
    assert found.messages == (CHAT[0], *CHAT[5:])


def test_what_fits_is_left_alone_and_what_cannot_fit_is_refused() -> None:
    whole = shorten(CHAT, 6, size(CHAT), 1, size)
    assert whole is not None
    assert (whole.messages, whole.dropped) == (CHAT, ())
    assert shorten(CHAT, 0, 3, 3, size) is None
    assert shorten((said("user", "x" * 99),), 0, 10, 10, size) is None


def test_a_transcript_names_calls_and_roles() -> None:
    assert transcript(CHAT[1:4]) == "user: first\n\nassistant: x [calls look with {}]\n\ntool: x"


@st.composite
def chats(draw: st.DrawFn) -> tuple[Message, ...]:
    messages: list[Message] = []
    open_calls: list[str] = []
    for number in range(draw(st.integers(1, 14))):
        kind = draw(st.sampled_from(["system", "developer", "user", "user", "assistant", "call", "result"]))
        text = "x" * draw(st.integers(0, 30))
        if kind == "call":
            open_calls.append(f"c{number}")
            messages.append(said("assistant", text, call=open_calls[-1]))
        elif kind == "result" and open_calls:
            messages.append(said("tool", text, answers=open_calls.pop(draw(st.integers(0, len(open_calls) - 1)))))
        else:
            messages.append(said("user" if kind in ("call", "result") else kind, text))
    return (*messages, said("user", "the question"))


@given(messages=chats(), keep_last=st.integers(0, 8), limit=st.integers(5, 300), share=st.floats(0.1, 1.0))
def test_whatever_is_kept_fits_in_order_with_its_pairs_and_everything_that_must_stay(
    messages: tuple[Message, ...], keep_last: int, limit: int, share: float
) -> None:
    found = shorten(messages, keep_last, limit, int(limit * share), size)
    if found is None:
        least = size(tuple(message for message in messages if message.role in ("system", "developer"))) + size(messages[-1:])
        assert size(messages) > limit
        assert (
            least > limit
            or droppable(messages, keep_last) == []
            or size(messages) - sum(size(tuple(messages[place] for place in turn)) for turn in droppable(messages, keep_last)) > limit
        )
        return
    kept = list(found.messages)
    assert size(found.messages) <= limit
    places = [next(i for i, one in enumerate(messages) if one is message) for message in kept]
    assert places == sorted(places)
    assert len(kept) + len(found.dropped) == len(messages)
    assert messages[-1] is kept[-1]
    assert all(message.role not in ("system", "developer") for message in found.dropped)
    spoken = [message for message in messages if message.role not in ("system", "developer")]
    assert all(any(message is one for one in kept) for message in (spoken[-keep_last:] if keep_last else []))
    calls = {part.id for message in kept for part in message.parts if isinstance(part, ToolCallPart)}
    results = {message.tool_call_id for message in kept if message.role == "tool"}
    answered = {message.tool_call_id for message in messages if message.role == "tool"}
    assert results <= calls
    assert calls & answered <= results
