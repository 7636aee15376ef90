"""The interface of a backend, passed on: what every wrapper begins with."""

from __future__ import annotations

from adapters.backend import Backend
from adapters.types import BackendHealth, GenerateRequest, TokenCount


class Wrapper:
    """Passes everything on; subclasses change `generate`."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.name = inner.name
        self.provider = inner.provider
        self.model = inner.model
        self.capabilities = inner.capabilities

    def count(self, request: GenerateRequest, /) -> TokenCount:
        return self.inner.count(request)

    async def health(self) -> BackendHealth:
        return await self.inner.health()

    async def aclose(self) -> None:
        await self.inner.aclose()
