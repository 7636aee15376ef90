from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.sentences import content_words, paragraphs, sentences, unspaced_grams, words


def texts(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid $3.50 to J. Doe. He left.", ["Dr. Smith paid $3.50 to J. Doe.", "He left."]),
        ("See Fig. 3 and no. 5. No. That is all.", ["See Fig. 3 and no. 5.", "No.", "That is all."]),
        ('He asked "Really?" Then he left!', ['He asked "Really?"', "Then he left!"]),
        ("Money back, e.g. in cash, etc. by Friday.", ["Money back, e.g. in cash, etc. by Friday."]),
        ("a wing in a slipstream . an experimental study .", ["a wing in a slipstream .", "an experimental study ."]),
        ("東京は大きい。京都は古い。", ["東京は大きい。", "京都は古い。"]),
        ("3. Refunds are paid. 4. No more.", ["3. Refunds are paid.", "4.", "No more."]),
        ("Terms:\n- first thing\n- second thing", ["Terms:", "- first thing", "- second thing"]),
        ("One line of text that\ngoes on here. Done.", ["One line of text that\ngoes on here.", "Done."]),
        ("Refund policy\nRefunds are paid within fourteen days of the request.", ["Refund policy", "Refunds are paid within fourteen days of the request."]),
        ("Title without stop\n\nA paragraph.", ["Title without stop", "A paragraph."]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_text_is_split_where_a_reader_would_pause(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


@given(st.text(alphabet=st.sampled_from("ab .!?\n\"'A1。東)-#é"), max_size=80))
def test_every_character_that_is_no_space_is_in_exactly_one_sentence(text: str) -> None:
    covered: list[int] = []
    for start, end in sentences(text):
        assert start < end
        assert not text[start].isspace()
        assert not text[end - 1].isspace()
        covered += range(start, end)
    assert covered == sorted(set(covered))
    assert {n for n, character in enumerate(text) if not character.isspace()} <= set(covered)


def test_a_window_of_a_text_gives_offsets_of_the_whole_text() -> None:
    text = "Skip this. One here. Two here."
    assert [text[a:b] for a, b in sentences(text, 11, len(text))] == ["One here.", "Two here."]
    assert list(paragraphs("a\n\nb", 1)) == [(3, 4)]


def test_words_of_scripts_without_spaces_come_as_pairs() -> None:
    assert words("Don't visit 東京タワー in 2024") == ["don't", "visit", "東京", "京タ", "タワ", "ワー", "in", "2024"]
    assert unspaced_grams("go 東京") == ["東", "京", "東京"]


def test_content_words_match_across_endings_and_drop_function_words() -> None:
    assert content_words("the policies") == content_words("a policy")
    assert content_words("running caches") & content_words("cache runs") == content_words("cache runs")
    assert content_words("what is it") == set()
