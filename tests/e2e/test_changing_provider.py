"""A conversation with tools and thinking goes from provider to provider and back: none of them refuses what it gets.

The upstreams are as strict as the real ones (`tests.fakes.strict`): a foreign signature, a call without its result, an id that does not fit are a
400, and the test fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anthropic
import openai
import pytest

from router.compute.client import ComputeClient
from router.compute.server import ComputeServer
from router.compute.services import Services
from tests.adapters.llama.contract_case import _no_embedder, _no_search, wandering
from tests.fakes.provider import Exchange, FakeProvider, Reply
from tests.fakes.responses_wire import responding
from tests.fakes.strict import refusal, strings
from tests.fakes.wire import Answer, Call, answering, failing
from tests.serving import Service, serving

PRICE = {"input": 1.0, "output": 4.0}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CITIES = ("Paris", "Rome")
LEGS = ("openai", "anthropic", "gemini", "local", "responses", "gemini", "anthropic", "openai", "responses")
"""Who answers which turn."""


@dataclass
class Provider:
    """A provider that thinks, calls a tool for two cities at once, and answers when it has both results. It takes no reasoning but its own."""

    kind: str
    issued: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    def __call__(self, exchange: Exchange) -> Reply:
        body = exchange.json
        self.bodies.append(body)
        why = refusal(self.kind, body, self.issued)
        if why is not None:
            self.refusals.append(why)
            return failing("openai" if self.kind == "responses" else self.kind, 400, "invalid_request_error", why)
        number = len(self.bodies)
        seal = f"c2VhbC1{self.kind}{number:04d}".replace("i", "j") + "=" * 0
        if self._waits_for_tools(body):
            calls = [Call(f"{_ID[self.kind]}_{number}_{place}", "weather", [json.dumps({"city": city})]) for place, city in enumerate(CITIES)]
            answer = Answer(texts=(), calls=calls, reasoning=("I look ", "it up."), signature=seal)
        else:
            answer = Answer(texts=(f"It is sunny, says {self.kind}.",), reasoning=("Now ", "I know."), signature=seal)
        if self.kind != "openai":
            self.issued.append(seal)
        return responding(answer, encrypted=seal) if self.kind == "responses" else answering(self.kind, answer)

    def _waits_for_tools(self, body: Any) -> bool:
        """Whether the last turn is a question, not the results of tools."""
        match self.kind:
            case "openai":
                return bool(body["messages"][-1]["role"] == "user")
            case "responses":
                return bool(body["input"][-1].get("type", "message") == "message")
            case "anthropic":
                return all(block["type"] != "tool_result" for block in body["messages"][-1]["content"])
            case _:
                return all("functionResponse" not in part for part in body["contents"][-1]["parts"])


_ID = {"openai": "call", "responses": "call", "anthropic": "toolu", "gemini": "fc"}


@dataclass
class World:
    service: Service
    providers: dict[str, Provider]


@asynccontextmanager
async def local_llama() -> AsyncIterator[tuple[ComputeClient, Path]]:
    """A compute process (in this one) with a tiny Llama that says random words."""
    folder = await asyncio.to_thread(wandering)
    with TemporaryDirectory(prefix="hg") as name:
        path = Path(name) / "compute.sock"
        services, stop = Services(_no_embedder, _no_search), asyncio.Event()
        running = asyncio.create_task(ComputeServer(services, shutdown_s=0.0).serve(path, stop))
        client = ComputeClient(path)
        yield client, folder
        stop.set()
        await running
        await asyncio.to_thread(services.close)


@asynccontextmanager
async def world(home: Path, *, local: bool = True) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        compute, folder = await stack.enter_async_context(local_llama()) if local else (None, None)
        providers = {kind: Provider(kind) for kind in _ID}
        urls = {kind: (await stack.enter_async_context(FakeProvider(provider))).url for kind, provider in providers.items()}
        backends = {
            "openai": {"kind": "openai", "model": "gpt-5-mini", "base_url": urls["openai"] + "/v1", "price": PRICE},
            "responses": {"kind": "openai", "api": "responses", "model": "gpt-5", "base_url": urls["responses"] + "/v1", "price": PRICE},
            "anthropic": {"kind": "anthropic", "model": "claude-sonnet-4-5", "base_url": urls["anthropic"], "price": PRICE},
            "gemini": {"kind": "gemini", "model": "gemini-3-pro-preview", "base_url": urls["gemini"], "price": PRICE},
            "silent": {"kind": "scripted", "text": ""},
        }
        if local:
            backends["local"] = {"kind": "llama", "model": str(folder), "device": "cpu", "dtype": "float32", "max_output_tokens": 8}
        policy = json.dumps({"version": 1, "backends": backends, "default": "openai", "fallback": []})
        service = await stack.enter_async_context(serving(policy, home, compute=compute))
        yield World(service, providers)


def results(calls: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The tool's answers: id and text."""
    assert [json.loads(arguments)["city"] for _, arguments in calls] == list(CITIES)
    return [(identity, f"Sunny in {json.loads(arguments)['city']}.") for identity, arguments in calls]


class ChatClient:
    """Sends its history as OpenAI's SDK shows it; `forgetful` clients keep only the fields that they know."""

    def __init__(self, service: Service, *, stream: bool, forgetful: bool) -> None:
        self.sdk = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)
        self.history: list[Any] = [{"role": "system", "content": "Use the tool."}]
        self.stream, self.forgetful = stream, forgetful

    async def turn(self, model: str, question: str) -> str:
        self.history.append({"role": "user", "content": question})
        message = await self._ask(model)
        if message.get("tool_calls"):
            calls = [(call["id"], call["function"]["arguments"]) for call in message["tool_calls"]]
            self.history += [{"role": "tool", "tool_call_id": identity, "content": text} for identity, text in results(calls)]
            message = await self._ask(model)
        return str(message["content"])

    async def _ask(self, model: str) -> Any:
        tool: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
        request: Any = {"model": model, "messages": self.history, "tools": [tool], "reasoning_effort": "low", "max_completion_tokens": 4000}
        if self.stream:
            async with self.sdk.chat.completions.stream(**request) as stream:
                try:
                    completion: Any = await stream.get_final_completion()
                except openai.LengthFinishReasonError as cut:  # the helper's word for an answer that reached its limit
                    completion = cut.completion
        else:
            completion = await self.sdk.chat.completions.create(**request)
        message = completion.choices[0].message.model_dump(exclude_none=True)
        for call in message.get("tool_calls") or ():
            call["function"].pop("parsed_arguments", None)
        message.pop("parsed", None)
        if self.forgetful:
            message = {name: message[name] for name in ("role", "content", "tool_calls") if message.get(name) is not None}
        self.history.append(message)
        return message


class ResponsesClient:
    """Sends its history as items, or (`chained`) only what is new, with `previous_response_id`."""

    def __init__(self, service: Service, *, stream: bool, chained: bool) -> None:
        self.sdk = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)
        self.history: list[Any] = []
        self.previous: str | None = None
        self.stream, self.chained = stream, chained

    async def turn(self, model: str, question: str) -> str:
        response = await self._ask(model, [{"role": "user", "content": question}])
        calls = [(item.call_id, item.arguments) for item in response.output if item.type == "function_call"]
        if calls:
            response = await self._ask(model, [{"type": "function_call_output", "call_id": identity, "output": text} for identity, text in results(calls)])
        return str(response.output_text)

    async def _ask(self, model: str, new: list[Any]) -> Any:
        self.history += new
        tool: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
        request: Any = {"model": model, "tools": [tool], "reasoning": {"effort": "low"}, "max_output_tokens": 4000, "instructions": "Use the tool."}
        request |= {"input": new, "previous_response_id": self.previous} if self.chained else {"input": self.history, "store": False}
        if self.stream:
            async with self.sdk.responses.stream(**request) as stream:
                # The helper's own final response knows completed ones only.
                response: Any = [event async for event in stream if event.type in ("response.completed", "response.incomplete")][0].response  # noqa: RUF015
        else:
            response = await self.sdk.responses.create(**request)
        self.previous = response.id
        self.history += [{name: value for name, value in item.to_dict().items() if name != "parsed_arguments"} for item in response.output]
        return response


class MessagesClient:
    """Sends its history as Anthropic's SDK shows it."""

    def __init__(self, service: Service, *, stream: bool) -> None:
        self.sdk = anthropic.AsyncAnthropic(base_url=service.url, api_key=service.key, max_retries=0)
        self.history: list[Any] = []
        self.stream = stream

    async def turn(self, model: str, question: str) -> str:
        message = await self._ask(model, [{"type": "text", "text": question}])
        calls = [(block.id, json.dumps(block.input)) for block in message.content if block.type == "tool_use"]
        if calls:
            message = await self._ask(model, [{"type": "tool_result", "tool_use_id": identity, "content": text} for identity, text in results(calls)])
        return "".join(block.text for block in message.content if block.type == "text")

    async def _ask(self, model: str, content: list[Any]) -> Any:
        self.history.append({"role": "user", "content": content})
        tool: Any = {"name": "weather", "input_schema": SCHEMA}
        thinking: Any = {"type": "enabled", "budget_tokens": 1024}
        request: Any = {"model": model, "messages": self.history, "tools": [tool], "thinking": thinking, "max_tokens": 4000, "system": "Use the tool."}
        if self.stream:
            async with self.sdk.messages.stream(**request) as stream:
                message: Any = await stream.get_final_message()
        else:
            message = await self.sdk.messages.create(**request)
        self.history.append({"role": "assistant", "content": [block.to_dict() for block in message.content]})
        return message


CLIENTS = {
    "chat": lambda service, stream: ChatClient(service, stream=stream, forgetful=False),
    "chat, unknown fields dropped": lambda service, stream: ChatClient(service, stream=stream, forgetful=True),
    "responses": lambda service, stream: ResponsesClient(service, stream=stream, chained=False),
    "responses, stored": lambda service, stream: ResponsesClient(service, stream=stream, chained=True),
    "messages": lambda service, stream: MessagesClient(service, stream=stream),
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", CLIENTS)
async def test_a_conversation_changes_provider_at_every_turn_and_nobody_refuses_it(tmp_path: Path, name: str, stream: bool) -> None:
    async with world(tmp_path) as here, asyncio.timeout(60):
        client: Any = CLIENTS[name](here.service, stream)
        async with client.sdk:
            for number, leg in enumerate(LEGS):
                said = await client.turn(leg, f"Question {number}: the weather in Paris and Rome?")
                assert {kind: provider.refusals for kind, provider in here.providers.items() if provider.refusals} == {}, (number, leg)
                assert leg == "local" or said == f"It is sunny, says {leg}."
    after_the_tools(here, LEGS)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", CLIENTS)
async def test_an_answer_of_nothing_goes_back_to_any_provider(tmp_path: Path, name: str, stream: bool) -> None:
    legs = [leg for kind in _ID for leg in ("silent", kind)]
    async with world(tmp_path, local=False) as here, asyncio.timeout(60):
        client: Any = CLIENTS[name](here.service, stream)
        async with client.sdk:
            for number, leg in enumerate(legs):
                said = await client.turn(leg, f"Question {number}: the weather in Paris and Rome?")
                assert {kind: provider.refusals for kind, provider in here.providers.items() if provider.refusals} == {}, (number, leg)
                assert said == ("" if leg == "silent" else f"It is sunny, says {leg}.")
    after_the_tools(here, legs)


def after_the_tools(here: World, legs: Sequence[str]) -> None:
    for kind, provider in here.providers.items():
        # Reasoning came back to whom it belongs: in the turn that uses the tools at least, where the provider insists on it.
        after_tools = provider.bodies[1::2]
        returned = [own for body, own in zip(after_tools, provider.issued[::2], strict=False) if own in set(strings(body))]
        assert len(returned) == (0 if kind == "openai" else len(after_tools)), (kind, len(after_tools))
        questions = json.dumps(provider.bodies[-1])
        assert all(f"Question {number}" in questions for number in range(legs.index(kind) + 1)), kind
