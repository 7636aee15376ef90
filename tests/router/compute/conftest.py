"""A compute server in this process (real socket, real tiny Llama), and one in a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.embedding import Embedder
from adapters.llama import LlamaSpec
from adapters.types import GenerateRequest, Message, Passage, TextPart
from retrieval.values import SearchRequest, SearchResult
from router.compute.client import ComputeClient
from router.compute.server import ComputeServer
from router.compute.services import Search, Services
from tests.fakes.embedder import HashEmbedder as HashEmbedder
from tests.tiny_llama import build

ROOT = Path(__file__).parents[3]


def echo_search(embedder: Embedder) -> Search:
    def search(request: SearchRequest) -> SearchResult:
        vector = embedder.embed([request.query], "query")
        passage = Passage("chunk-1", "file-1", "a.pdf", request.query, 0, len(request.query), page=1, pages=((4, 2),))
        return SearchResult(passages=(passage,), data_class="confidential", embedding=vector.astype("<f2").tobytes(), space=embedder.space)

    return search


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("llama") / "tiny")


@pytest.fixture
def spec(folder: Path) -> LlamaSpec:
    return LlamaSpec(kind="llama", model=str(folder), device="cpu", dtype="float32", threads=1)


@pytest.fixture
def ask() -> Any:
    def make(text: str = "Hello", **fields: Any) -> GenerateRequest:
        fields.setdefault("temperature", 0.0)
        fields.setdefault("max_output_tokens", 24)
        return GenerateRequest(messages=(Message(role="user", parts=(TextPart(text),)),), **fields)

    return make


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Short: the system bounds the length of a socket's path."""
    with tempfile.TemporaryDirectory(prefix="hg") as name:
        yield Path(name) / "run" / "compute.sock"


@asynccontextmanager
async def served(path: Path, services: Services, **options: Any) -> AsyncIterator[asyncio.Event]:
    """A running server; the event stops it."""
    stop = asyncio.Event()
    task = asyncio.create_task(ComputeServer(services, **options).serve(path, stop))
    try:
        first = ComputeClient(path, connect_s=5)
        await first.stats()
        await first.aclose()
        yield stop
    finally:
        stop.set()
        await task
        await asyncio.to_thread(services.close)


@pytest.fixture
def embedder() -> HashEmbedder:
    return HashEmbedder()


@pytest.fixture
async def client(socket_path: Path, embedder: HashEmbedder) -> AsyncIterator[ComputeClient]:
    async with served(socket_path, Services(lambda: embedder, echo_search), shutdown_s=0.0):
        client = ComputeClient(socket_path)
        yield client
        await client.aclose()


@pytest.fixture
def spawn(socket_path: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start the compute process, as the supervisor does: with a pipe on its standard input."""
    config = tmp_path / "headgate.yaml"
    config.write_text("version: 1\nsettings: {shutdown_s: 5}\n")
    environ = {**os.environ, "HEADGATE_HOME": str(tmp_path / "home")}
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "router.compute", "--socket", str(socket_path), "--config", str(config)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, env=environ))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
