from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.collect import collect
from adapters.errors import BackendUnavailable, StreamBroken
from adapters.llama import LlamaSpec
from adapters.types import AttemptRecord
from config.database import open_database
from retrieval.values import SearchRequest
from router.compute.client import ComputeClient
from router.launch import migrate_state

from .conftest import ROOT

Spawn = Callable[[], "subprocess.Popen[bytes]"]


async def ended(process: subprocess.Popen[bytes], seconds: float = 30.0) -> int:
    return await asyncio.to_thread(process.wait, seconds)


async def test_a_kill_in_the_middle_of_answers_breaks_each_at_once_and_the_next_process_serves_again(
    spawn: Spawn, socket_path: Path, spec: LlamaSpec, ask: Any
) -> None:
    process = spawn()
    client = ComputeClient(socket_path, connect_s=60)
    attempts = [AttemptRecord(backend="local") for _ in range(3)]
    streams = [client.generate(spec, ask(max_output_tokens=None), attempt) for attempt in attempts]
    for stream in streams:
        for _ in range(3):
            await anext(stream)
    waiting = asyncio.create_task(client.warm(LlamaSpec(kind="llama", model=spec.model, device="cpu", context_window=64)))
    await asyncio.sleep(0)
    process.send_signal(signal.SIGKILL)
    await ended(process)
    killed = time.monotonic()
    for stream, attempt in zip(streams, attempts, strict=True):
        with pytest.raises(StreamBroken):
            async for _ in stream:
                pass
        assert attempt.usage is not None
        assert attempt.usage.output_tokens > 0
    with pytest.raises(BackendUnavailable):
        await waiting
    assert time.monotonic() - killed < 50, "nobody waited for an answer's end or a connection"
    assert not (await client.health(spec)).ready

    spawn()
    answer = await collect(client.generate(spec, ask(), AttemptRecord(backend="local")))
    assert answer.choices[0].finish is not None
    await client.aclose()


async def test_the_process_embeds_with_the_bundled_model_searches_and_ends_on_sigterm(spawn: Spawn, socket_path: Path, tmp_path: Path) -> None:
    import numpy as np

    database = open_database(f"sqlite:///{tmp_path / 'home' / 'headgate.db'}")
    migrate_state(database)
    await database.aclose()
    process = spawn()
    client = ComputeClient(socket_path, connect_s=60)
    assert (await client.stats()).embedder == ""
    near, far, question = (np.frombuffer(vector, "<f4") for vector in await client.embed(["The cat sleeps.", "Interest rates rose.", "a sleeping cat"]))
    assert question @ near > question @ far + 0.2
    assert abs(np.linalg.norm(near) - 1) < 1e-3
    found = await client.search(SearchRequest(tenant="t", stores=("vs_missing",), query="a sleeping cat"))
    assert found.passages == ()
    assert np.allclose(np.frombuffer(found.embedding, "<f2"), question, atol=1e-3)
    stats = await client.stats()
    assert stats.embedder.startswith("all-MiniLM-L6-v2@")
    assert stats.resident_bytes > 100e6
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0
    assert socket_path.name not in os.listdir(socket_path.parent)
    await client.aclose()


async def test_the_process_ends_with_whoever_holds_its_standard_input(spawn: Spawn, socket_path: Path) -> None:
    process = spawn()
    client = ComputeClient(socket_path, connect_s=60)
    await client.stats()
    process.send_signal(signal.SIGINT)  # Ctrl-C at the supervisor's terminal: the supervisor decides
    assert (await client.stats()).pid == process.pid
    assert process.stdin is not None
    process.stdin.close()
    assert await ended(process) == 0
    await client.aclose()


def test_the_client_and_the_idle_process_import_no_heavy_library() -> None:
    heavy = ("torch", "numpy", "faiss", "transformers")
    code = f"import sys, router.compute.client, router.compute.__main__, adapters.llama; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
