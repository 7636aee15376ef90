from __future__ import annotations

import contextlib
import io
import unicodedata
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.parse import Limits, ParseError, parse
from retrieval.parse.base import clean


def test_a_pdf_keeps_its_pages_and_its_broken_words(pdf: bytes) -> None:
    parsed = parse("policy.pdf", pdf)
    assert parsed.media_type == "application/pdf"
    assert len(parsed.pages) == 3
    assert parsed.pages[0] == 0
    first, second, third = (parsed.text[a:b] for a, b in zip(parsed.pages, (*parsed.pages[1:], len(parsed.text)), strict=True))
    assert first.startswith("Refund policy\nRefunds are paid within fourteen days of the re-\nquest.")
    assert second.startswith("Delivery\n")
    assert third == "The warranty covers the battery for three years."


def test_a_pdf_is_known_by_its_content_whatever_its_name_says(pdf: bytes) -> None:
    assert parse("notes.txt", pdf).media_type == "application/pdf"


def test_an_encrypted_pdf_is_refused_as_such() -> None:
    from reportlab.lib import pdfencrypt
    from reportlab.pdfgen import canvas

    out = io.BytesIO()
    page = canvas.Canvas(out, encrypt=pdfencrypt.StandardEncryption("user", "owner"))
    page.drawString(50, 50, "secret")
    page.save()
    with pytest.raises(ParseError, match="encrypted") as caught:
        parse("a.pdf", out.getvalue())
    assert caught.value.code == "invalid_file"


def test_a_pdf_without_text_is_refused_with_a_hint() -> None:
    from reportlab.pdfgen import canvas

    out = io.BytesIO()
    page = canvas.Canvas(out)
    page.rect(10, 10, 50, 50)
    page.save()
    with pytest.raises(ParseError, match=r"no text.*OCR"):
        parse("scan.pdf", out.getvalue())


def test_a_word_document_keeps_document_order_headings_and_tables(word: bytes) -> None:
    parsed = parse("travel.docx", word)
    assert parsed.text == "Travel expenses\n\nTrain tickets are reimbursed in full. Café bills are not.\n\nCity | Daily rate\nLisbon\n\nAsk the travel desk."
    assert [parsed.text[a:b] for a, b in parsed.headings] == ["Travel expenses"]
    assert parsed.pages == ()


def test_html_loses_scripts_and_navigation_and_keeps_structure() -> None:
    page = b"""<!doctype html><html><head><title>ignored</title><style>p{}</style></head><body><nav>menu</nav><header>brand</header>
    <h1>Caf&eacute;  rules</h1><p>One <b>bold</b>\n word.<br>Two</p><ul><li>a</li><li>b</li></ul><table><tr><td>x</td><td>y</td></tr></table>
    <pre>k\n  v</pre><div>before <p>inside</p> after</div><script>alert(1)</script><!-- no --></body></html>"""
    parsed = parse("index", page)
    assert parsed.text == "Café rules\n\nOne bold word.\nTwo\n\na\nb\n\nx | y\n\nk\n  v\n\nbefore\n\ninside\n\nafter"
    assert [parsed.text[a:b] for a, b in parsed.headings] == ["Café rules"]


def test_deeply_nested_html_is_no_stack_overflow() -> None:
    assert parse("deep.html", b"<div>" * 20_000 + b"bottom" + b"</div>" * 20_000).text == "bottom"


def test_markdown_stays_as_it_was_written() -> None:
    source = "# Title\n\nSome *text*.\n\n```\n# not a heading\n```\n\nSetext\n======\n\nEnd."
    parsed = parse("a.md", source.encode())
    assert parsed.text == source
    assert [parsed.text[a:b] for a, b in parsed.headings] == ["# Title", "Setext\n======"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("größe\r\nzwei\rdrei".encode(), "größe\nzwei\ndrei"),
        ("\ufeffgröße".encode(), "größe"),
        ("größe".encode("utf-16"), "größe"),
        ("größe".encode("latin-1"), "größe"),
        ("e\u0301tude".encode(), "étude"),
        (b"a bell\x07 rings " * 9 + b".", "a bell rings " * 9 + "."),
    ],
)
def test_text_in_any_common_encoding_becomes_canonical(data: bytes, expected: str) -> None:
    assert parse("a.txt", data).text == expected


@pytest.mark.parametrize(
    ("name", "data", "code", "says"),
    [
        ("a.pdf", b"%PDF-1.4 garbage", "invalid_file", "damaged"),
        ("a.pdf", b"just words", "invalid_file", "plain text"),
        ("a.txt", b"", "invalid_file", "empty"),
        ("a.txt", b" \n ", "invalid_file", "no text"),
        ("a.docx", b"PK\x03\x04broken", "invalid_file", "damaged"),
        ("a.png", b"\x89PNG\r\n\x1a\n123", "unsupported_file", "PNG image.*Supported are: PDF"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "unsupported_file", "old or encrypted"),
        ("a.bin", bytes(range(256)), "unsupported_file", "binary"),
    ],
)
def test_what_cannot_be_read_is_refused_with_code_and_reason(name: str, data: bytes, code: str, says: str) -> None:
    with pytest.raises(ParseError, match=says) as caught:
        parse(name, data)
    assert caught.value.code == code


def archive(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return out.getvalue()


def test_archives_that_are_no_word_document_are_named() -> None:
    for members, name in (({"xl/workbook.xml": b""}, "Excel"), ({"ppt/a.xml": b""}, "PowerPoint"), ({"a": b""}, "ZIP")):
        with pytest.raises(ParseError, match=name) as caught:
            parse("a.docx", archive(members))
        assert caught.value.code == "unsupported_file"


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = archive({"word/document.xml": b" " * 5_000_000})
    assert len(bomb) < 10_000
    with pytest.raises(ParseError, match="unpacks to 5000000 bytes; at most 1000000"):
        parse("a.docx", bomb, Limits(expanded=1_000_000))


def test_limits_on_bytes_pages_and_characters_are_kept(pdf: bytes) -> None:
    with pytest.raises(ParseError, match="at most 100 can be read"):
        parse("a.pdf", pdf, Limits(bytes=100))
    with pytest.raises(ParseError, match="3 pages; at most 2"):
        parse("a.pdf", pdf, Limits(pages=2))
    with pytest.raises(ParseError, match="at most 5 can be indexed"):
        parse("a.txt", b"123456", Limits(characters=5))


@given(st.text(max_size=60))
def test_canonical_text_is_stable_and_clean(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in once)


@given(st.binary(max_size=200), st.sampled_from(["a.txt", "a.html", "a.md", "a.docx", "a.pdf"]))
def test_any_bytes_give_a_text_or_a_parse_error(data: bytes, name: str) -> None:
    with contextlib.suppress(ParseError):
        assert parse(name, data).text.strip()
