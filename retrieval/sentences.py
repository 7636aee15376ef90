"""The sentence splitter of `adapters.sentences`, under the name retrieval uses: one splitter for chunks, highlights, citations and answers."""

from adapters.sentences import STOP_WORDS, Span, content_words, paragraphs, sentences, stem, unspaced_grams, words

__all__ = ["STOP_WORDS", "Span", "content_words", "paragraphs", "sentences", "stem", "unspaced_grams", "words"]
