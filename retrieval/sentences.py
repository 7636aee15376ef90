"""The sentence splitter of `adapters.sentences`, under the name retrieval uses: one splitter for chunks, highlights, citations and answers."""

from adapters.sentences import Span, content_words, paragraphs, sentences, stem, unspaced_grams, words

__all__ = ["Span", "content_words", "paragraphs", "sentences", "stem", "unspaced_grams", "words"]
