from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.words import spaced, words_of


@given(st.text(), st.sampled_from(("", "+#")))
def test_words_are_what_str_translate_would_give(text: str, keep: str) -> None:
    table = str.maketrans({chr(code): " " for code in range(128) if not (chr(code).isalnum() or chr(code) in keep)})
    assert words_of(text, spaced(keep)) == text.translate(table).split()
