"""The table of a backend of kind `openai`, and how its server is reached."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct

from adapters.backend import BackendContext, RemoteSpec
from adapters.remote import credentials
from adapters.sender import Endpoint, Sender
from adapters.types import JsonSupport

OFFICIAL_URL = "https://api.openai.com/v1"
OFFICIAL_HOST = "api.openai.com"
KEY_ENV = "OPENAI_API_KEY"


class OpenAISpec(RemoteSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`api` is what the server is asked for: chat completions, which many servers speak, or OpenAI's own responses.

    `max_tokens_field` is what a server of chat completions calls the output limit: `max_completion_tokens` at OpenAI itself, `max_tokens`
    elsewhere. `pass_through` names fields that are withheld from providers (the API's `NOT_SENT`) and that this server may get: what they cost
    must be in the backend's price. `json_schema` says how the server answers by a schema, where its model's name does not.
    """

    api: Literal["chat", "responses"] = "chat"
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] | None = None
    pass_through: tuple[str, ...] = ()
    json_schema: JsonSupport | None = None


class Connection(Struct, frozen=True):
    """`sender` is None while something is `missing`; `official` says that it is OpenAI itself. `at` tells another server from all others."""

    sender: Sender | None
    missing: str
    official: bool
    at: str

    def word(self, provider: str) -> str:
        """Whose word an opaque part of this server is, where `provider` is OpenAI's own: what one server sealed means nothing to another."""
        return provider if self.official else f"{provider}@{self.at}"


def connect(spec: OpenAISpec, context: BackendContext) -> Connection:
    """How the server is reached. Makes no call. Raises `ValueError` for a table that cannot work."""
    url, key, missing = credentials(spec, context.environ, OFFICIAL_URL, KEY_ENV)
    sender: Sender | None = None
    if not missing:
        from adapters.sender.sdk import openai_sender

        sender = openai_sender(Endpoint(url, key, spec.connect_s))
    place = urlsplit(url)
    host = place.hostname or ""
    # Its regions have hosts of their own: eu.api.openai.com.
    official = host == OFFICIAL_HOST or host.endswith(f".{OFFICIAL_HOST}")
    port = f":{place.port}" if place.port else ""
    return Connection(sender, missing, official, f"{host}{port}{place.path.rstrip('/')}")
