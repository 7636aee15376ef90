"""Google's Gemini (`kind: gemini`), through streamGenerateContent, or generateContent where it must not stream.

The SDK has no public raw stream, so the bytes go out over aiohttp. Its error classes are not imported either: they hold the same four
fields that `adapters.faults` reads, and importing them would stop the event loop for a third of a second at a provider's first error.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from adapters.backend import BackendContext, RemoteSpec, Tokens, register
from adapters.errors import UnsupportedFeature
from adapters.gemini.content_request import NO_SIGNATURE, contents, of_unknown_length, system_parts
from adapters.gemini.content_stream import PROVIDER, ContentDecoder
from adapters.gemini.knobs import cached_content, generation_config, ignored
from adapters.gemini.models import model_named
from adapters.gemini.tools import has_own_tools, tool_config, wire_tools
from adapters.remote import RemoteBackend, WireCall, credentials
from adapters.sender import Endpoint
from adapters.types import Capabilities, GenerateRequest, JsonObject, ResponseFormat, TokenCount

__all__ = ["NO_SIGNATURE", "GeminiBackend", "GeminiSpec"]

OFFICIAL_URL = "https://generativelanguage.googleapis.com"
KEY_ENV = "GEMINI_API_KEY"
CAPABILITIES = Capabilities(
    streaming=True,
    tools=True,
    parallel_tools=True,
    vision=True,
    files=True,
    audio=True,
    json_schema="native",
    logprobs=True,
    multiple_choices=True,
)


class GeminiSpec(RemoteSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`api_version` is the first part of the path.

    `cached_content_tokens` lets requests name content that was cached at Google beforehand (`google.cached_content`), and is the longest such
    content, in tokens: so much is reserved for a request that names one. All tenants of this backend share what is cached.
    """

    api_version: str = "v1beta"
    cached_content_tokens: Tokens | None = None


@register("gemini", GeminiSpec, remote=True, provider=PROVIDER)
class GeminiBackend(RemoteBackend):
    provider = PROVIDER

    def __init__(self, name: str, spec: GeminiSpec, context: BackendContext) -> None:
        url, key, missing = credentials(spec, context.environ, OFFICIAL_URL, KEY_ENV)
        sender = None
        if not missing:
            from adapters.sender.direct import DirectSender

            sender = DirectSender(Endpoint(url, key, spec.connect_s))
        self._known = model_named(spec.model or "")
        super().__init__(name, spec, msgspec.structs.replace(CAPABILITIES, reasoning=self._known.thinking != "none"), sender, missing)
        self._key = key
        self._limit = spec.max_output_tokens
        self._cached = spec.cached_content_tokens
        self._path = f"/{quote(spec.api_version)}/models/{quote(self._known.name)}:"

    def decoder(self, request: GenerateRequest, request_id: str | None) -> ContentDecoder:
        return ContentDecoder(request_id)

    def encode(self, request: GenerateRequest) -> WireCall:
        if request.functions and request.tool_choice.mode in ("required", "function"):  # the answer is a call, to which no format applies
            request = msgspec.structs.replace(request, response_format=ResponseFormat())
        body: JsonObject = {"contents": contents(request.messages, self._known)}
        if system := system_parts(request.messages):
            body["systemInstruction"] = {"parts": system}
        if request.tools:
            body["tools"] = wire_tools(request)
            body["toolConfig"] = tool_config(request, self._known)
            if request.response_format.kind != "text" and not self._known.signs:
                raise UnsupportedFeature("Gemini before 3 does not answer in JSON while it has tools", param="response_format")
        if config := generation_config(request, self._known, self._limit):
            body["generationConfig"] = config
        if self._cached is not None and (name := cached_content(request)):
            body["cachedContent"] = name
        path = self._path + ("streamGenerateContent?alt=sse" if self.streaming else "generateContent")
        return WireCall(path, msgspec.json.encode(body), {"x-goog-api-key": self._key}, ignored(request, self._known, self._cached is not None))

    def count(self, request: GenerateRequest, /) -> TokenCount:
        """What Google fetches by itself (a file, a search's results) may fill the window, and is reserved for; so is what it has cached."""
        counted = super().count(request)
        if of_unknown_length(request.messages) or has_own_tools(request):
            counted = TokenCount(counted.n, max(counted.upper, self.capabilities.context_window or self._known.window))
        if self._cached is not None and cached_content(request):
            counted = TokenCount(counted.n, counted.upper + self._cached)
        return counted
