"""How OpenAI's models, and servers that speak its API, answer in JSON. Pure."""

from __future__ import annotations

import re

from adapters.types import JsonSupport

_WITHOUT_SCHEMAS = re.compile(r"(ft:)?(gpt-3\.5|gpt-4(?![.o])|gpt-4o-2024-05-13|chatgpt-4o|o1-mini|o1-preview)")
"""Models of OpenAI's that refuse a JSON schema; all later ones guarantee an answer by a strict one."""

_WITHOUT_JSON_MODE = re.compile(r"gpt-4(-0613|-32k.*)?$|o1-mini|o1-preview|gpt-3\.5-turbo-instruct")


def json_support(model: str, *, official: bool, configured: JsonSupport | None) -> tuple[JsonSupport, JsonSupport]:
    """For a JSON schema, and for JSON mode. `configured` is what the backend's table says; another server is believed to be told the schema."""
    if configured is not None:
        return configured, configured
    if not official:
        return "native", "native"
    return (
        "prompted" if _WITHOUT_SCHEMAS.match(model) else "guaranteed",
        "prompted" if _WITHOUT_JSON_MODE.match(model) else "guaranteed",
    )
