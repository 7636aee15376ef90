from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import ProviderFault
from adapters.sse import MAX_EVENT_BYTES, SseEvent, SseParser

DOCUMENT = "\ufeff: hello\r\ndata: one\r\n\r\nevent: two\ndata:2\n\nid: 7\nretry: 10\ndata: a\ndata:  b\n\ndata: ünïcode ☃\n\nevent: empty\n\ndata: [DONE]\n\n"
EVENTS = [SseEvent("", b"one"), SseEvent("two", b"2"), SseEvent("", b"a\n b"), SseEvent("", "ünïcode ☃".encode()), SseEvent("", b"[DONE]")]


def parsed(pieces: list[bytes]) -> list[SseEvent]:
    parser = SseParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [*events, *parser.finish()]


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.integers(0, 10_000), max_size=30), st.sampled_from(["\n", "\r\n", "\r"]))
def test_the_events_do_not_depend_on_the_cuts_nor_on_the_kind_of_line_ends(places: list[int], line_end: str) -> None:
    body = DOCUMENT.replace("\r\n", "\n").replace("\n", line_end).encode()
    assert parsed(cut(body, places)) == EVENTS


def test_every_byte_alone_gives_the_same_events() -> None:
    body = DOCUMENT.encode()
    assert parsed([body[place : place + 1] for place in range(len(body))]) == EVENTS


def test_an_event_is_there_as_soon_as_its_blank_line_is() -> None:
    parser = SseParser()
    assert parser.feed(b"data: x\r\n") == []
    assert parser.feed(b"\r\n") == [SseEvent("", b"x")]
    assert parser.feed(b"data: y\n\ndata: z") == [SseEvent("", b"y")]


def test_the_end_of_the_stream_gives_out_an_event_without_its_blank_line() -> None:
    assert parsed([b"data: [DONE]"]) == [SseEvent("", b"[DONE]")]
    assert parsed([b"data: [DONE]\r"]) == [SseEvent("", b"[DONE]")]
    assert parsed([b"data: x\n"]) == [SseEvent("", b"x")]


@pytest.mark.parametrize("filler", [b"x" * 65_536, b"data: " + b"x" * 65_530 + b"\n"])
def test_an_event_without_end_is_a_fault_and_not_a_full_memory(filler: bytes) -> None:
    parser = SseParser()
    parser.feed(b"data: ")
    for _ in range(MAX_EVENT_BYTES // 65_536 - 2):
        assert parser.feed(filler) == []
    with pytest.raises(ProviderFault):
        parser.feed(filler * 4)
