"""The table of backends under contract: how each kind is brought into the four scenes of the suite.

To put a kind under contract, write one async context manager `(scene) -> Subject` and enter it in `CASES` with the scenes it can play:

    @asynccontextmanager
    async def echo_case(scene: Scene) -> AsyncGenerator[Subject]:
        backend = create_backend("echo", EchoSpec(kind="echo", hang=scene == "stalls"), BackendContext(environ={}))
        yield Subject(backend, stopped=backend.idle.wait)
        await backend.aclose()

    CASES["echo"] = Case(echo_case, scenes=("answers", "stalls"))
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeAlias

import msgspec
import pytest

import adapters.anthropic
import adapters.extractive
import adapters.gemini
import adapters.openai
import adapters.scripted  # noqa: F401
from adapters.backend import Backend, BackendContext, create_backend, kind_named
from adapters.types import GenerateRequest, Message, Passage, TextPart
from tests.adapters.llama import contract_case
from tests.fakes.provider import Cut, Exchange, FakeProvider, Gap, Hang, Reply, Step
from tests.fakes.wire import STEPS, Answer, answering, failing

Scene: TypeAlias = Literal["answers", "stalls", "breaks", "refuses"]
"""answers: a whole answer that repeats the request's marker. stalls: output begins and never ends. breaks: output begins, then an error.
refuses: an error and no output."""

SCENES: tuple[Scene, ...] = ("answers", "stalls", "breaks", "refuses")


def asking(marker: str) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", (TextPart(f"Repeat this word: {marker}"),)),))


@dataclass
class Subject:
    """`asking` makes a request whose answer repeats the marker. `stopped` returns once the provider's stream or the model's work has ended."""

    backend: Backend
    asking: Callable[[str], GenerateRequest] = asking
    stopped: Callable[[], Awaitable[object]] | None = None


@dataclass
class Case:
    enter: Callable[[Scene], AbstractAsyncContextManager[Subject]]
    scenes: tuple[Scene, ...] = SCENES


def _marker(exchange: Exchange) -> str:
    found = re.search(rb"marker-\d+", exchange.body)
    return found.group().decode() if found else "marker-0"


def _remote_reply(kind: str, scene: Scene, exchange: Exchange) -> Reply:
    word = _marker(exchange)
    answer = Answer(texts=["You ", "said ", word[:3], word[3:], "."], input_tokens=11, output_tokens=6)
    if scene == "refuses":
        codes = {"openai": "server_error", "anthropic": "api_error", "gemini": "INTERNAL"}
        return failing(kind, 500, codes[kind])
    if scene == "answers":
        reply = answering(kind, answer)
        # A turn of the loop between the pieces, so that parallel streams really interleave.
        reply.steps = [step for piece in reply.steps for step in (piece, Gap(0))]
        return reply
    begun: list[Step] = [*STEPS[kind](answer)[:5]]
    return Reply([*begun, Hang() if scene == "stalls" else Cut()])


@asynccontextmanager
async def remote_case(kind: str, scene: Scene) -> AsyncGenerator[Subject]:
    async with FakeProvider(partial(_remote_reply, kind, scene)) as provider:
        spec = kind_named(kind).spec
        table = {"kind": kind, "model": "some-model", "base_url": provider.url + ("/v1" if kind == "openai" else "")}
        backend = create_backend("subject", msgspec.convert(table, spec), BackendContext(environ={}))

        async def stopped() -> None:
            await (await provider.exchange(len(provider.exchanges) - 1)).gone.wait()

        yield Subject(backend, stopped=stopped)
        await backend.aclose()


def _last_bill(bills: Path) -> dict[str, object]:
    line: dict[str, object] = json.loads(bills.read_text().splitlines()[-1])
    return line


@asynccontextmanager
async def scripted_case(scene: Scene) -> AsyncGenerator[Subject]:
    with TemporaryDirectory() as folder:
        bills = Path(folder, "bills.jsonl")
        table: dict[str, object] = {"kind": "scripted", "echo": True, "bill_to": str(bills)}
        match scene:
            case "answers":
                table["delay_s"] = 0.0001
            case "stalls":
                table["hang_after"] = 2
            case "breaks":
                table["fault"] = {"error": "stream_broken", "at": 2}
            case "refuses":
                table["fault"] = {"error": "provider_error", "at": "start"}
        backend = create_backend("subject", msgspec.convert(table, kind_named("scripted").spec), BackendContext(environ={}))

        async def stopped() -> None:
            # The bill is written as the generator ends.
            assert _last_bill(bills)["final"] is False

        yield Subject(backend, stopped=stopped)
        await backend.aclose()


@asynccontextmanager
async def extractive_case(scene: Scene) -> AsyncGenerator[Subject]:
    backend = create_backend("subject", msgspec.convert({"kind": "extractive"}, kind_named("extractive").spec), BackendContext(environ={}))

    def asking_documents(marker: str) -> GenerateRequest:
        text = f"The secret word of the harbour is {marker} and it is spoken at noon."
        question = Message("user", (TextPart("What is the secret word of the harbour?"),))
        passage = Passage(chunk_id="c1", file_id="f1", filename="harbour.txt", text=text, start=0, end=len(text), score=1.0, similarity=0.9)
        return GenerateRequest(messages=(question,), context=(passage,), grounded=True)

    yield Subject(backend, asking=asking_documents)
    await backend.aclose()


@asynccontextmanager
async def llama_case(scene: Scene) -> AsyncGenerator[Subject]:
    pytest.importorskip("torch", reason="the local Llama needs the extra 'local'")
    async with contract_case.llama(scene) as (backend, stopped):
        yield Subject(backend, asking=contract_case.asking, stopped=stopped)


CASES: dict[str, Case] = {
    "openai": Case(partial(remote_case, "openai")),
    "anthropic": Case(partial(remote_case, "anthropic")),
    "gemini": Case(partial(remote_case, "gemini")),
    "scripted": Case(scripted_case),
    "llama": Case(llama_case),
    # It quotes what it was given, in one go: it cannot stall and has nobody who could fail it.
    "extractive": Case(extractive_case, scenes=("answers",)),
}
