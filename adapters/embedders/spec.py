"""The table of a configured embedder."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from adapters.backend import DataClass, RemoteSpec, Seconds
from config.prices import Price


class EmbedderSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A provider's embedding model. The keys mean what they mean for a backend; `timeout_s` is the longest wait for a whole answer.

    `kind: openai` is any server that speaks OpenAI's `/v1/embeddings` (`base_url` its `/v1` root), `kind: gemini` Google's.
    """

    kind: Literal["openai", "gemini"]
    model: Annotated[str, Meta(min_length=1)]
    base_url: str | None = None
    api_key_env: str | None = None
    price: Price | None = None
    clearance: DataClass | None = None
    timeout_s: Seconds = 60.0
    connect_s: Seconds = 5.0
    headers: dict[str, str] = {}

    def as_backend(self) -> RemoteSpec:
        """The table of a backend at the same place: what is checked and priced for one is checked and priced for the other."""
        return RemoteSpec(
            kind=self.kind,
            model=self.model,
            base_url=self.base_url,
            api_key_env=self.api_key_env,
            price=self.price,
            clearance=self.clearance,
            timeout_s=self.timeout_s,
            connect_s=self.connect_s,
            headers=self.headers,
        )
