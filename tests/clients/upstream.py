"""A faked provider with a little sense of its own: what the clients are answered by, behind Headgate.

It speaks as OpenAI, Anthropic and Gemini (`/openai`, `/anthropic`, `/gemini`), calls the tools it is offered, answers with what they
returned, and fills schemas. So every client is tried with ordinary prompts. Usage differs from request to request: figures that agree with
the ledger agree for a reason.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.provider import Exchange, FakeProvider, Reply
from tests.fakes.wire import STEPS, Answer, Call, openai_chunk

CITIES = ("Paris", "Oslo")
GREETING = "Hello from the upstream."
PERSON = {"name": "Ada", "age": 36}
AIDER_EDIT = 'I say hello now.\n\nhello.py\n```\ndef hello():\n    return "hello from headgate"\n```\n'
COMMIT_MESSAGE = "feat: say hello from headgate"


@dataclass
class Asked:
    """What a provider's request says, in no provider's words. `results` are those of the tools since the user's last words."""

    system: str = ""
    user: str = ""
    results: list[str] = field(default_factory=list)
    images: int = 0
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    forced: bool = False
    schema: dict[str, Any] | None = None
    one_call: bool = False


def _texts(content: Any) -> str:
    """The text of a message's content: a string, or parts that may have one."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or () if isinstance(part, dict))


def _openai(body: dict[str, Any]) -> Asked:
    asked = Asked(one_call=body.get("parallel_tool_calls") is False)
    for message in body["messages"]:
        match message["role"]:
            case "system" | "developer":
                asked.system += _texts(message["content"])
            case "user":
                asked.user, asked.results = _texts(message["content"]), []
                asked.images += sum(part.get("type") == "image_url" for part in message["content"] if isinstance(part, dict))
            case "tool":
                asked.results.append(_texts(message["content"]))
    asked.tools = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in body.get("tools") or ()}
    asked.forced = body.get("tool_choice") not in (None, "auto", "none")
    if body.get("tool_choice") == "none":
        asked.tools = {}
    wanted = body.get("response_format") or {}
    asked.schema = wanted["json_schema"]["schema"] if wanted.get("type") == "json_schema" else {} if wanted.get("type") == "json_object" else None
    return asked


def _anthropic(body: dict[str, Any]) -> Asked:
    asked = Asked(system=_texts(body.get("system")))
    for message in body["messages"]:
        blocks = message["content"] if isinstance(message["content"], list) else [{"type": "text", "text": message["content"]}]
        if message["role"] == "user":
            results = [_texts(block.get("content")) for block in blocks if block["type"] == "tool_result"]
            asked.results = asked.results + results if results else []
            asked.user = _texts(blocks) or asked.user
            asked.images += sum(block["type"] == "image" for block in blocks)
    choice = body.get("tool_choice") or {}
    asked.tools = {} if choice.get("type") == "none" else {tool["name"]: tool.get("input_schema") or {} for tool in body.get("tools") or ()}
    asked.forced = choice.get("type") in ("any", "tool")
    asked.one_call = bool(choice.get("disable_parallel_tool_use"))
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    asked.schema = wanted.get("schema")
    return asked


def _gemini(body: dict[str, Any]) -> Asked:
    asked = Asked(system=_texts((body.get("systemInstruction") or {}).get("parts")))
    for content in body["contents"]:
        if content.get("role", "user") == "user":
            parts = content["parts"]
            results = [_result_text(part["functionResponse"]["response"]) for part in parts if "functionResponse" in part]
            asked.results = asked.results + results if results else []
            asked.user = _texts(parts) or asked.user
            asked.images += sum("inlineData" in part or "fileData" in part for part in parts)
    mode = ((body.get("toolConfig") or {}).get("functionCallingConfig") or {}).get("mode")
    declared = [tool for group in body.get("tools") or () for tool in group.get("functionDeclarations") or ()]
    asked.tools = {} if mode == "NONE" else {tool["name"]: tool.get("parametersJsonSchema") or tool.get("parameters") or {} for tool in declared}
    asked.forced = mode == "ANY"
    config = body.get("generationConfig") or {}
    asked.schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if asked.schema is None and config.get("responseMimeType") == "application/json":
        asked.schema = {}
    return asked


def _result_text(response: Any) -> str:
    """Gemini takes a tool's result as an object; whoever has only text puts it into one."""
    return next(iter(response.values())) if isinstance(response, dict) and len(response) == 1 else json.dumps(response)


READERS = {"openai": _openai, "anthropic": _anthropic, "gemini": _gemini}


def instance(schema: dict[str, Any], name: str = "", root: dict[str, Any] | None = None) -> Any:
    """A value of the schema, as a model would write it: Ada is 36."""
    root = root or schema
    if "$ref" in schema:
        found: Any = root
        for key in schema["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        return instance(found, name, root)
    if name in PERSON:
        return PERSON[name]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return instance(schema[choice][0], name, root)
    if "const" in schema or "enum" in schema:
        return schema.get("const", (schema.get("enum") or [None])[0])
    match str(schema.get("type", "")).lower():
        case "object":
            return {key: instance(value, key, root) for key, value in (schema.get("properties") or {}).items()}
        case "array":
            return [instance(schema.get("items") or {}, name, root)]
        case "integer" | "number":
            return 36
        case "boolean":
            return True
        case _:
            return "Ada"


_numbers = itertools.count(1)


def think(asked: Asked) -> Answer:
    """The answer a model of some sense would give."""
    number = next(_numbers)
    answer = Answer(texts=(), input_tokens=100 + number % 800, cached=16, output_tokens=20 + number % 7, model="served-model")
    weather = next((name for name in asked.tools if "weather" in name.lower()), None)
    others = [name for name in asked.tools if name != weather]
    if weather and not asked.results and (cities := [city for city in CITIES if city in asked.user]):
        wanted = cities[:1] if asked.one_call else cities
        parameter = next(iter(asked.tools[weather].get("properties") or {"city": {}}))
        answer.calls = [_call(number, index, weather, {parameter: city}) for index, city in enumerate(wanted)]
    elif others and (asked.forced or "person" in asked.user):
        answer.calls = [_call(number, 0, others[0], instance(asked.tools[others[0]]))]
    elif asked.schema is not None:
        answer.texts = _pieces(json.dumps(instance(asked.schema) if asked.schema else PERSON))
    else:
        answer.texts = _pieces(_words(asked))
    if "think" in asked.user and not asked.results:
        answer.reasoning, answer.reasoning_tokens = ("They want ", "a greeting."), 5
    return answer


def _words(asked: Asked) -> str:
    everything = asked.system + asked.user
    if asked.results:
        return "The weather: " + "; ".join(asked.results)
    if "[[ ## " in everything:  # dspy's own format, with its fields in the instructions
        return "[[ ## reasoning ## ]]\nIt is known.\n\n[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"
    if "commit message" in everything.lower():
        return COMMIT_MESSAGE
    if "hello.py" in everything:
        return AIDER_EDIT
    if "person" in asked.user and "json" in everything.lower():  # a schema that only the prompt knows
        return f"```json\n{json.dumps(PERSON)}\n```"
    return GREETING if not asked.images else f"{GREETING} I see {asked.images} image."


def _call(number: int, index: int, name: str, arguments: Any) -> Call:
    return Call(f"call_{number}_{index}", name, _pieces(json.dumps(arguments)))


def _pieces(text: str) -> list[str]:
    return [text[start : start + 6] for start in range(0, len(text), 6)]


def reply(exchange: Exchange) -> Reply:
    """Answer as the provider whose path was called, always as a stream: Headgate asks for nothing else."""
    kind = exchange.path.split("/")[1]
    asked = READERS[kind](exchange.json)
    answer = think(asked)
    if "at most" in asked.user:
        answer.finish = {"openai": "length", "anthropic": "max_tokens", "gemini": "MAX_TOKENS"}[kind]
    steps = STEPS[kind](answer)
    if "refuse" in asked.user:
        steps = _refusing(kind, answer)
    return Reply(steps, headers={"content-type": "text/event-stream", "x-request-id": f"req-{answer.input_tokens}", "request-id": f"req-{answer.input_tokens}"})


def _refusing(kind: str, answer: Answer) -> list[bytes]:
    if kind == "openai":
        answer.texts = ()
        first, *rest = STEPS[kind](answer)
        return [first, openai_chunk({"refusal": "I will "}), openai_chunk({"refusal": "not."}), *rest]
    answer.texts, answer.finish = (), {"anthropic": "refusal", "gemini": "SAFETY"}[kind]
    return STEPS[kind](answer)


@contextmanager
def upstream() -> Iterator[FakeProvider]:
    """The provider on a thread of its own, for as long as the block runs."""
    started, stop, loop, provider = threading.Event(), asyncio.Event(), asyncio.new_event_loop(), FakeProvider(reply)

    async def serve() -> None:
        async with provider:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the faked provider did not start")
    try:
        yield provider
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
