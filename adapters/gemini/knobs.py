"""The settings of a generation in Gemini's words, and which of a request's settings Gemini does not have. Pure."""

from __future__ import annotations

from typing import Any

from adapters.errors import InvalidRequest
from adapters.gemini.models import Model, thinking_config
from adapters.types import GenerateRequest, ImagePart, JsonObject, TextPart, ToolCallPart

_PENALTIES = {"presence_penalty": "presencePenalty", "frequency_penalty": "frequencyPenalty"}
"""Of OpenAI's chat: the same numbers in the same range."""

_THINKING = {"thinking_budget": "thinkingBudget", "thinking_level": "thinkingLevel", "include_thoughts": "includeThoughts"}


def generation_config(request: GenerateRequest, model: Model, limit: int | None) -> JsonObject:
    """`generationConfig`. `limit` holds where the request has none of its own. Thoughts count into the output limit."""
    wanted = request.response_format
    settings: JsonObject = {
        "maxOutputTokens": request.max_output_tokens or limit,
        "temperature": request.temperature,
        "topP": request.top_p,
        "topK": request.top_k,
        "stopSequences": list(request.stop) or None,
        "seed": request.seed,
        "candidateCount": request.n if request.n > 1 else None,
        "responseMimeType": None if wanted.kind == "text" else "application/json",
        "responseJsonSchema": wanted.schema if wanted.kind == "json_schema" else None,
        "responseLogprobs": True if request.logprobs is not None else None,
        "logprobs": request.logprobs or None,
        "thinkingConfig": {**thinking_config(model, request.reasoning)[0], **_google_thinking(request)} or None,
    }
    if request.dialect == "openai.chat":
        settings |= {wire: request.extra[knob] for knob, wire in _PENALTIES.items() if request.extra.get(knob) is not None}
    return {key: value for key, value in settings.items() if value is not None}


def google(request: GenerateRequest) -> JsonObject:
    """The request's `google` object, where Google's own OpenAI-compatible endpoint has it: beside the other fields, or in `extra_body`."""
    holder: Any = request.extra.get("extra_body")
    found: Any = request.extra.get("google", holder.get("google") if isinstance(holder, dict) else None)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidRequest("google: expected an object", param="google")
    return found


def cached_content(request: GenerateRequest) -> str | None:
    """The name of content cached at Google that the request builds on. Raises `InvalidRequest` where it is no text."""
    name = google(request).get("cached_content")
    if name is not None and not isinstance(name, str):
        raise InvalidRequest("google.cached_content: expected a string", param="google.cached_content")
    return name


def _google_thinking(request: GenerateRequest) -> JsonObject:
    said = google(request).get("thinking_config")
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise InvalidRequest("google.thinking_config: expected an object", param="google.thinking_config")
    return {wire: said[key] for key, wire in _THINKING.items() if said.get(key) is not None}


def ignored(request: GenerateRequest, model: Model, allows_cached: bool) -> tuple[str, ...]:
    """The names of what the request asks for and this model does not have, its unknown fields among them."""
    names = []
    if not thinking_config(model, request.reasoning)[1]:
        names.append("reasoning")
    if request.parallel_tool_calls is False and request.functions:
        names.append("parallel_tool_calls")
    if request.verbosity is not None:
        names.append("verbosity")
    if any(tool.strict for tool in request.functions) and request.tool_choice.mode in ("auto", "none"):
        names.append("strict")
    if _marks_cache(request):
        names.append("cache_control")
    known = {"google", "extra_body"} | (set(_PENALTIES) if request.dialect == "openai.chat" else set())
    names += [name for name in request.extra if name not in known]
    taken = {"thinking_config"} | ({"cached_content"} if allows_cached else set())
    return (*names, *(f"google.{name}" for name in google(request) if name not in taken))


def _marks_cache(request: GenerateRequest) -> bool:
    """Whether something is marked for a prompt cache: Gemini caches by itself."""
    parts = (part for message in request.messages for part in message.parts)
    return any(isinstance(part, TextPart | ImagePart | ToolCallPart) and part.cache is not None for part in parts) or any(
        tool.cache is not None for tool in request.functions
    )
