from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.types import Passage
from retrieval.cite import cite, claims, verify

TEXT = "Refund policy\n\nRefunds are paid within fourteen days. The desk approves each refund. Parcels leave the warehouse at seven every morning."
MARKS = ((TEXT.index("Parcels"), 4),)
PASSAGE = Passage(chunk_id="chunk-1", file_id="file-1", filename="policy.pdf", text=TEXT[15:], start=15, end=len(TEXT), page=3, pages=MARKS)
OTHER = Passage(chunk_id="chunk-2", file_id="file-2", filename="b.md", text="The battery is covered for three years.", start=0, end=39)


def test_a_marked_claim_gets_the_sentence_that_carries_it() -> None:
    answer = "You are refunded within fourteen days [1]. Batteries are covered for three years [2]."
    first, second = cite(answer, [PASSAGE, OTHER])
    assert first.quote == "Refunds are paid within fourteen days."
    assert (first.file_id, first.page) == ("file-1", 3)
    assert answer[first.answer_start : first.answer_end] == "You are refunded within fourteen days"
    assert verify(first, TEXT)
    assert second.quote == OTHER.text
    assert second.page is None


def test_a_claim_over_two_sentences_gets_both() -> None:
    (citation,) = cite("Refunds are paid within fourteen days once the desk approves each one. [1]", [PASSAGE])
    assert citation.quote == "Refunds are paid within fourteen days. The desk approves each refund."


def test_the_page_is_the_one_on_which_the_quote_starts() -> None:
    (citation,) = cite("Parcels leave the warehouse at seven [1].", [PASSAGE])
    assert citation.page == 4


def test_a_mark_that_the_passage_does_not_bear_out_gives_no_citation() -> None:
    assert cite("Penguins live in Antarctica [1].", [PASSAGE]) == ()
    assert cite("Refunds are paid [7].", [PASSAGE]) == ()
    assert cite("Refunds are paid [0].", [PASSAGE]) == ()
    assert cite("Refunds are paid within fourteen days.", [PASSAGE]) == ()
    assert cite("[1]", [PASSAGE]) == ()


def test_marks_in_every_usual_form_are_read() -> None:
    for mark in ("[1][2]", "[1, 2]", "[1;2]", "[1] [2]", "【1】【2】"):
        (claim,) = claims(f"Refunds are paid {mark}.")
        assert claim.numbers == (1, 2)


def test_a_mark_after_the_full_stop_speaks_of_the_sentence_before_it() -> None:
    answer = "Parcels leave at seven. Refunds take fourteen days. [1] Ask the desk."
    (claim,) = claims(answer)
    assert answer[claim.start : claim.end] == "Refunds take fourteen days."


def test_a_sentence_with_two_marks_makes_two_claims() -> None:
    answer = "Refunds take fourteen days [1] and batteries are covered for three years [2]."
    assert [answer[c.start : c.end] for c in claims(answer)] == ["Refunds take fourteen days", "and batteries are covered for three years"]


SOUP = st.text(alphabet=st.sampled_from("refund days paid. [12]\n東京。é"), max_size=120)


@given(SOUP, SOUP, st.integers(0, 50))
def test_a_quote_is_always_verbatim_and_its_claim_is_inside_the_answer(answer: str, body: str, before: int) -> None:
    text = "x" * before + body
    passages = [Passage(chunk_id="c", file_id="f", filename="n", text=body, start=before, end=len(text))] * 2
    for citation in cite(answer + " refund [1] days [2].", passages):
        assert verify(citation, text)
        assert 0 <= citation.answer_start < citation.answer_end <= len(answer) + 21


def test_a_changed_quote_is_not_verified() -> None:
    (citation,) = cite("Batteries are covered for three years [1].", [OTHER])
    assert not verify(citation, "The battery is covered for three weeks.")
    assert not verify(citation, "short")
