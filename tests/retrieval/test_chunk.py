from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.embedding import SentenceEmbedder
from retrieval.chunk import MAX_TOKENS, chunk, embedding_text, estimate_tokens, heading_before
from retrieval.parse import parse
from retrieval.parse.base import Parsed


def test_chunks_of_a_pdf_say_their_page_and_the_pages_that_start_inside(pdf: bytes, embedder: SentenceEmbedder) -> None:
    parsed = parse("a.pdf", pdf)
    (only,) = chunk(parsed, embedder.count_tokens)
    assert (only.start, only.page) == (0, 1)
    assert only.marks == ((parsed.pages[1], 2), (parsed.pages[2], 3))
    per_page = chunk(parsed, embedder.count_tokens, max_tokens=36)
    found = {parsed.text[c.start : c.end].split()[0]: c.page for c in per_page}
    assert found["Delivery"] == 2
    assert per_page[-1].marks == ((parsed.pages[2], 3),)


def test_a_heading_opens_a_chunk_and_lends_its_words_to_the_rest_of_its_section() -> None:
    text = "# Refunds\n\n" + "Money is paid back. " * 60 + "\n\n# Delivery\n\nParcels leave at seven."
    parsed = parse("a.md", text.encode())
    chunks = chunk(parsed, max_tokens=100)
    assert all(not ("Money" in part and "Delivery" in part) for part in (parsed.text[c.start : c.end] for c in chunks))
    assert parsed.text[chunks[-1].start : chunks[-1].end] == "# Delivery\n\nParcels leave at seven."
    first, second = chunks[0], chunks[1]
    assert heading_before(parsed.headings, first.start) is None
    assert embedding_text(parsed.text, parsed.headings, second.start, second.end).startswith("# Refunds\nMoney")


def test_a_section_is_cut_into_pieces_of_about_equal_size() -> None:
    parsed = Parsed("text/plain", "Word goes here now. " * 60)
    sizes = estimate_tokens([parsed.text[c.start : c.end] for c in chunk(parsed, max_tokens=100)])
    assert max(sizes) - min(sizes) <= 10


def test_the_models_own_tokens_are_counted(embedder: SentenceEmbedder) -> None:
    parsed = Parsed("text/plain", "Donaudampfschifffahrtsgesellschaft xyzzyplugh. " * 100 + "a" * 3000 + " 東京" * 300)
    pieces = [parsed.text[c.start : c.end] for c in chunk(parsed, embedder.count_tokens)]
    assert max(embedder.count_tokens(pieces)) <= MAX_TOKENS
    assert "".join("".join(pieces).split()) == "".join(parsed.text.split())


@given(st.text(alphabet=st.sampled_from("ab .\n#東A1"), max_size=300), st.integers(3, 30), st.lists(st.integers(0, 300), max_size=4))
def test_chunks_are_exact_ordered_and_lose_nothing(text: str, limit: int, breaks: list[int]) -> None:
    pages = (0, *sorted({cut for cut in breaks if 0 < cut < len(text)})) if text else ()
    parsed = Parsed("text/plain", text, pages)
    end = 0
    covered: set[int] = set()
    for piece in chunk(parsed, max_tokens=limit):
        assert end <= piece.start < piece.end
        end = piece.end
        covered |= set(range(piece.start, piece.end))
        assert estimate_tokens([text[piece.start : piece.end]])[0] <= limit
        assert piece.page == sum(page <= piece.start for page in pages)
        assert all(piece.start < offset < piece.end and pages[number - 1] == offset for offset, number in piece.marks)
    assert {n for n, c in enumerate(text) if not c.isspace()} <= covered
