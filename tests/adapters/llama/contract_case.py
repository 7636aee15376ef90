"""The local Llama under the contract of all backends: the backend, a real compute socket, and a tiny model that learned to repeat a word."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from adapters.backend import BackendContext, create_backend
from adapters.embedding import Embedder, EmbedderUnavailable
from adapters.llama import LlamaBackend, LlamaSpec
from adapters.llama_engine.loading import load
from adapters.llama_engine.prompt import prompt_ids
from adapters.types import GenerateRequest, Message, TextPart
from router.compute.client import ComputeClient
from router.compute.server import ComputeServer
from router.compute.services import Search, Services
from tests.tiny_llama import build, teach

MARKERS = ("marker-1", "marker-7", *(f"marker-{number}" for number in range(100, 120)))
BREAK_AFTER = 60
_folders = Path(tempfile.mkdtemp(prefix="headgate-tiny-"))
atexit.register(shutil.rmtree, _folders, ignore_errors=True)


def asking(marker: str) -> GenerateRequest:
    return GenerateRequest(messages=(Message("user", (TextPart(f"Repeat this word: {marker}"),)),), temperature=0.0)


@cache
def wandering() -> Path:
    """A model that says random words for two thousand tokens."""
    return build(_folders / "wandering")


@cache
def repeating() -> Path:
    """A model that repeats the markers of the suite."""
    folder = build(_folders / "repeating")
    loaded = load(spec_of(folder))
    prompts = [loaded.tokenizer.decode(prompt_ids(loaded, asking(marker)), clean_up_tokenization_spaces=False) for marker in MARKERS]
    teach(folder, [(prompt, f"You said {marker}.<|eot_id|>") for prompt, marker in zip(prompts, MARKERS, strict=True)], steps=400)
    return folder


def spec_of(folder: Path) -> LlamaSpec:
    return LlamaSpec(kind="llama", model=str(folder), device="cpu", dtype="float32", threads=1)


def _no_embedder() -> Embedder:
    raise EmbedderUnavailable("not here")


def _no_search(embedder: Embedder) -> Search:
    raise EmbedderUnavailable("not here")


@asynccontextmanager
async def llama(scene: Literal["answers", "stalls", "breaks", "refuses"]) -> AsyncGenerator[tuple[LlamaBackend, Callable[[], Awaitable[object]]]]:
    """The backend for a scene, and an awaitable that returns once the model's work has ended.

    answers: repeats the marker. stalls: talks on for two thousand tokens. breaks: the compute process stops while it talks. refuses: there is
    no model.
    """
    match scene:
        case "answers":
            spec = spec_of(await asyncio.to_thread(repeating))
        case "stalls" | "breaks":
            spec = spec_of(await asyncio.to_thread(wandering))
        case "refuses":
            spec = spec_of(_folders / "missing")
    with TemporaryDirectory(prefix="hg") as name:
        path = Path(name) / "compute.sock"
        services = Services(_no_embedder, _no_search)
        stop = asyncio.Event()
        serving = asyncio.create_task(ComputeServer(services, shutdown_s=0.0).serve(path, stop))
        client = ComputeClient(path)
        if scene != "refuses":
            await client.warm(spec)

        async def until(done: Callable[[], bool]) -> None:
            while True:
                if done():
                    return
                await asyncio.sleep(0.001)

        async def break_off() -> None:
            await until(lambda: any(engine.tokens >= BREAK_AFTER for engine in services.engines()))
            stop.set()

        breaking = asyncio.create_task(break_off()) if scene == "breaks" else None
        backend = create_backend("subject", spec, BackendContext(environ={}, compute=client))
        assert isinstance(backend, LlamaBackend)
        yield backend, lambda: until(lambda: all(engine.active == 0 for engine in services.engines()))
        if breaking is not None:
            breaking.cancel()
        await client.aclose()
        stop.set()
        await serving
        await asyncio.to_thread(services.close)
