from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.llama_engine.stops import StopMatcher


def deliver(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.feed(piece) for piece in pieces)
    return (text if matcher.found is not None else text + matcher.flush()), matcher.found


def by_definition(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Grow the text by one character until it ends with a stop string."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_the_text_up_to_the_first_complete_stop_is_delivered_however_it_was_cut(pieces: list[str], stops: list[str]) -> None:
    assert deliver(pieces, stops) == by_definition("".join(pieces), stops)


def test_no_more_is_held_back_than_could_become_a_stop() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("the E") == "the "
    assert matcher.feed("x") == "Ex"


def test_after_a_stop_nothing_is_delivered() -> None:
    matcher = StopMatcher(["."])
    assert matcher.feed("one. two") == "one"
    assert matcher.feed("three") == ""
    assert matcher.found == "."
