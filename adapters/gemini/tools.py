"""Tools and the choice among them in Gemini's words. Pure."""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

from adapters.errors import InvalidRequest, UnsupportedFeature
from adapters.gemini.content_stream import PROVIDER
from adapters.gemini.models import Model
from adapters.types import GenerateRequest, JsonObject, ProviderTool, Tool

_SNAKE = re.compile(r"_([a-z])")


class _Named(Struct):
    name: str | None = None


class _Allowed(Struct):
    function: _Named = msgspec.field(default_factory=_Named)
    name: str | None = None


class _AllowedTools(Struct):
    mode: str = "auto"
    tools: list[_Allowed] = []


class _Choice(Struct):
    """`allowed_tools`, as OpenAI's chat (nested) and responses (flat) say it."""

    type: str = ""
    mode: str = "auto"
    tools: list[_Allowed] = []
    allowed_tools: _AllowedTools | None = None


def wire_tools(request: GenerateRequest) -> list[JsonObject]:
    """Google's own tools, each in an object of its own, then the functions. Raises `UnsupportedFeature` for another provider's tool."""
    wire = [_own(tool) for tool in request.tools if isinstance(tool, ProviderTool)]
    allowed = _allowed(request)
    functions = [tool for tool in request.functions if allowed is None or tool.name in allowed[1]]
    return [*wire, {"functionDeclarations": [_function(tool) for tool in functions]}] if functions else wire


def has_own_tools(request: GenerateRequest) -> bool:
    return any(isinstance(tool, ProviderTool) for tool in request.tools)


def _own(tool: ProviderTool) -> JsonObject:
    """`{"type": "googleSearch", ...}` is `{"googleSearch": {...}}`; Google takes the snake_case of its SDKs too."""
    kind = tool.item.get("type")
    if tool.provider != PROVIDER or not isinstance(kind, str):
        raise UnsupportedFeature(f"Gemini does not have the tool {tool.qualified}", param="tools")
    name = _SNAKE.sub(lambda found: found[1].upper(), kind)
    return {name: {key: value for key, value in tool.item.items() if key != "type"}}


def _function(tool: Tool) -> JsonObject:
    wire: JsonObject = {"name": tool.name}
    if tool.description is not None:
        wire["description"] = tool.description
    if tool.parameters:
        wire["parametersJsonSchema"] = tool.parameters
    return wire


def tool_config(request: GenerateRequest, model: Model) -> JsonObject:
    config: JsonObject = {}
    if request.functions:
        config["functionCallingConfig"] = _calling(request)
    if has_own_tools(request) and model.signs:
        # From Gemini 3 on its own tools' calls and results come as parts, and functions may stand beside them.
        config["includeServerSideToolInvocations"] = True
    return config


def _calling(request: GenerateRequest) -> JsonObject:
    choice = request.tool_choice
    allowed = _allowed(request)
    if allowed is not None:
        return {"mode": "ANY", "allowedFunctionNames": allowed[1]} if allowed[0] == "required" else {"mode": "AUTO"}
    match choice.mode:
        case "auto":
            return {"mode": "AUTO"}
        case "none":
            return {"mode": "NONE"}
        case "required":
            return {"mode": "ANY"}
        case "function":
            return {"mode": "ANY", "allowedFunctionNames": [choice.name]}


def _allowed(request: GenerateRequest) -> tuple[str, list[str]] | None:
    """A choice limited to some functions: its mode and their names. With `auto` the other functions are not declared: Gemini has no other way.

    Raises `UnsupportedFeature` for a choice of another kind, `InvalidRequest` for one that cannot be read.
    """
    item = request.tool_choice.item
    if item is None:
        return None
    try:
        said = msgspec.convert(item, _Choice)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"tool_choice: {error}", param="tool_choice") from error
    if said.type != "allowed_tools":
        raise UnsupportedFeature(f"Gemini has no tool choice of type {said.type!r}", param="tool_choice")
    chosen = said.allowed_tools or _AllowedTools(said.mode, said.tools)
    names = [name for tool in chosen.tools if (name := tool.name or tool.function.name) is not None]
    return chosen.mode, names
