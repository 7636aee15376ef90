"""PDF through pdfium: the text of every page, in pdfium's reading order."""

from __future__ import annotations

import threading

from retrieval.parse.base import Builder, Limits, Parsed, ParseError

_PDFIUM = threading.Lock()  # the library keeps global state and is not thread-safe
_FORMAT_ERROR, _PASSWORD_ERROR, _SECURITY_ERROR = 3, 4, 5
_LINE_END_HYPHEN = "\ufffe"  # pdfium's sign for a hyphen that ends a line; it drops the line end


def parse(data: bytes, limits: Limits) -> Parsed:
    """Words broken at a line end stay broken, as printed. Raises `ParseError` for damaged and encrypted files."""
    import pypdfium2

    with _PDFIUM:
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            raise _refusal(error.err_code) from error
        try:
            return _text_of(document, limits)
        finally:
            document.close()


def _text_of(document: object, limits: Limits) -> Parsed:
    import pypdfium2

    assert isinstance(document, pypdfium2.PdfDocument)
    if len(document) > limits.pages:
        raise ParseError("invalid_file", f"The PDF has {len(document)} pages; at most {limits.pages} can be read.")
    builder = Builder()
    characters = 0
    for number in range(len(document)):
        try:
            page = document[number]
            text_page = page.get_textpage()
            text: str = text_page.get_text_range()
        except pypdfium2.PdfiumError as error:
            raise ParseError("invalid_file", f"Page {number + 1} of the PDF is damaged.") from error
        text_page.close()
        page.close()
        characters += len(text)
        if characters > limits.characters:
            raise ParseError("invalid_file", f"The PDF holds more than {limits.characters} characters of text.")
        builder.page(text.replace(_LINE_END_HYPHEN, "-\n"))
    return builder.parsed("application/pdf")


def _refusal(code: int | None) -> ParseError:
    if code in (_PASSWORD_ERROR, _SECURITY_ERROR):
        return ParseError("invalid_file", "The PDF is encrypted: it cannot be read without its password.")
    return ParseError("invalid_file", "The PDF is damaged and cannot be opened.")
