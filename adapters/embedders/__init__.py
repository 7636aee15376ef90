"""Texts to vectors over HTTP: the table of a configured embedder, one interface for all of them, OpenAI's and Gemini's behind it."""

from adapters.embedders.base import Embedded, EmbedRequest, TextEmbedder
from adapters.embedders.create import create_embedder
from adapters.embedders.spec import EmbedderSpec

__all__ = ["EmbedRequest", "Embedded", "EmbedderSpec", "TextEmbedder", "create_embedder"]
