from __future__ import annotations

import asyncio
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.collect import collect
from adapters.embedding import Embedder, EmbedderUnavailable
from adapters.errors import BackendError, BackendUnavailable, ContextTooLong, InvalidRequest, ProviderFault, RateLimited, StreamBroken
from adapters.llama import LlamaSpec
from adapters.types import AttemptRecord, Finished, ResponseStarted, UsageReported
from retrieval.values import SearchRequest
from router.compute import protocol as wire
from router.compute.client import BlockingEmbedder, ComputeClient
from router.compute.server import bind
from router.compute.services import Services

from .conftest import HashEmbedder, echo_search, served


def record() -> AttemptRecord:
    return AttemptRecord(backend="local")


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.005)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def there(path: Path) -> bool:
    return path.exists()


async def engine_state(client: ComputeClient) -> Any:
    return (await client.stats()).engines[0]


# --- generating ---------------------------------------------------------------------------------------------------------------------------


async def test_an_answer_crosses_the_socket_whole(client: ComputeClient, spec: LlamaSpec, ask: Any) -> None:
    attempt = record()
    events = [event async for event in client.generate(spec, ask(), attempt)]
    assert isinstance(events[0], ResponseStarted)
    assert isinstance(events[-2], UsageReported)
    assert isinstance(events[-1], Finished)
    assert attempt.usage == events[-2].usage
    assert attempt.usage.output_tokens == 24
    assert attempt.provider_request_id == events[0].provider_request_id
    assert attempt.called


async def test_many_requests_share_one_connection(client: ComputeClient, spec: LlamaSpec, ask: Any) -> None:
    questions = [f"question {n % 3}" for n in range(12)]
    answers = await asyncio.gather(*(collect(client.generate(spec, ask(question), record())) for question in questions))
    texts = [answer.choices[0].text for answer in answers]
    assert texts == texts[:3] * 4
    assert len(set(texts)) == 3
    assert len((await client.stats()).engines) == 1


async def test_closing_a_stream_stops_the_model_within_one_step(client: ComputeClient, spec: LlamaSpec, ask: Any) -> None:
    attempt = record()
    stream = client.generate(spec, ask(max_output_tokens=None), attempt)
    for _ in range(10):
        await anext(stream)
    await stream.aclose()
    # The cancel is on its way before this question, on the same connection: what the answer counts is at most one step later.
    at_close = await engine_state(client)
    await until(lambda: _idle(client))
    assert (await engine_state(client)).forwards <= at_close.forwards + 1
    assert attempt.usage is not None
    assert attempt.usage.output_tokens > 0


async def _idle(client: ComputeClient) -> bool:
    state = await engine_state(client)
    return bool(state.active == 0 and state.queued == 0)


async def test_a_dropped_connection_cancels_all_of_its_requests(client: ComputeClient, socket_path: Path, spec: LlamaSpec, ask: Any) -> None:
    leaver = ComputeClient(socket_path)
    streams = [leaver.generate(spec, ask(max_output_tokens=None), record()) for _ in range(3)]
    for stream in streams:
        await anext(stream)
    assert (await engine_state(client)).active == 3
    await leaver.aclose()
    await until(lambda: _idle(client))
    for stream in streams:
        with pytest.raises(StreamBroken):
            async for _ in stream:
                pass


async def test_a_reader_that_stops_pauses_its_own_request_and_no_other(client: ComputeClient, spec: LlamaSpec, ask: Any) -> None:
    attempt = record()
    slow = client.generate(spec, ask(max_output_tokens=1900), attempt)
    await anext(slow)
    seen: list[int] = []

    async def paused() -> bool:
        """Whether others were answered three times, and the request itself made nothing meanwhile."""
        await collect(client.generate(spec, ask("Hi", max_output_tokens=50), record()))
        seen.append((await engine_state(client)).tokens - 50 * (len(seen) + 1))
        return len(seen) > 3 and seen[-4] == seen[-1]

    await until(paused, seconds=60)
    assert seen[-1] < 1900
    rest = [event async for event in slow]
    assert isinstance(rest[-1], Finished)
    assert attempt.usage is not None
    assert attempt.usage.output_tokens == 1900
    await until(lambda: _idle(client))
    assert (await engine_state(client)).tokens == 1900 + 50 * len(seen)


async def test_errors_keep_their_class_and_name_the_backend(client: ComputeClient, spec: LlamaSpec, ask: Any) -> None:
    import msgspec

    with pytest.raises(ContextTooLong) as raised:
        await collect(client.generate(spec, ask("long " * 3000), record()))
    assert (raised.value.backend, raised.value.param) == ("local", "messages")
    narrow = msgspec.structs.replace(spec, max_concurrency=1, max_queue=0)
    first = client.generate(narrow, ask(max_output_tokens=None), record())
    await anext(first)
    with pytest.raises(RateLimited) as limited:
        await collect(client.generate(narrow, ask(), record()))
    assert limited.value.retry_after is not None
    await first.aclose()


async def test_backends_that_differ_in_price_only_share_an_engine(client: ComputeClient, spec: LlamaSpec, ask: Any) -> None:
    import msgspec

    await client.warm(spec)
    await client.warm(msgspec.structs.replace(spec, tier="small", clearance="internal", max_output_tokens=5, timeout_s=9.0))
    assert [engine.state for engine in (await client.stats()).engines] == ["ready"]


async def test_health_tells_of_a_missing_model_and_warming_it_raises(client: ComputeClient, tmp_path: Path) -> None:
    missing = LlamaSpec(kind="llama", model=str(tmp_path / "missing"))
    assert not (await client.health(missing)).ready
    with pytest.raises(BackendUnavailable, match="no model folder"):
        await client.warm(missing)


# --- embedding and search -----------------------------------------------------------------------------------------------------------------


async def test_a_search_and_its_embedding_are_one_round_trip(client: ComputeClient) -> None:
    result = await client.search(SearchRequest(tenant="t", stores=("s",), query="what is it?"))
    assert result.passages[0].text == "what is it?"
    assert result.passages[0].page_at(5) == 2
    assert (result.data_class, result.space, len(result.embedding)) == ("confidential", "hash", 16)


async def test_embeddings_come_one_a_text_in_order(client: ComputeClient, embedder: HashEmbedder) -> None:
    texts = [f"text {n}" for n in range(70)]
    assert await client.embed(texts, "document") == [row.tobytes() for row in embedder.embed(texts, "document")]
    assert await client.embed([]) == []
    assert await client.count_tokens(["a b", ""]) == [2, 0]
    described = await client.describe()
    assert (described.space, described.dimensions, described.max_tokens) == ("hash", 8, 100)


async def test_a_question_overtakes_an_import(socket_path: Path) -> None:
    gate = threading.Event()
    at_work = threading.Event()

    class Gated(HashEmbedder):
        def embed(self, texts: Any, kind: Any, /) -> Any:
            if texts and texts[0] == "import 0":
                at_work.set()
                gate.wait(10)
            return super().embed(texts, kind)

    embedder = Gated()
    async with served(socket_path, Services(lambda: embedder, echo_search)):
        client = ComputeClient(socket_path)
        batch = asyncio.create_task(client.embed([f"import {n}" for n in range(64)], "document", urgent=False))
        await asyncio.to_thread(at_work.wait, 10)
        question = asyncio.create_task(client.embed(["question"]))
        await asyncio.sleep(0)
        await client.stats()  # the question has been read by now
        gate.set()
        await question
        assert not batch.done()
        assert len(await batch) == 64
        await client.aclose()
    assert embedder.order.index(("question",)) == 1


async def test_the_blocking_embedder_is_an_embedder(client: ComputeClient, socket_path: Path, embedder: HashEmbedder) -> None:
    import numpy as np

    def use() -> Any:
        with BlockingEmbedder(socket_path, connect_s=1) as blocking:
            promised: Embedder = blocking
            assert (promised.space, promised.dimensions, promised.max_tokens) == ("hash", 8, 100)
            assert promised.count_tokens(["a b c"]) == [3]
            assert promised.embed([], "document").shape == (0, 8)
            return promised.embed(["x", "y"], "document")

    matrix = await asyncio.to_thread(use)
    assert np.array_equal(matrix, embedder.embed(["x", "y"], "document"))
    assert matrix.dtype == np.float32
    assert matrix.flags.writeable


async def test_without_a_compute_process_the_blocking_embedder_says_so(socket_path: Path) -> None:
    with pytest.raises(EmbedderUnavailable, match="does not answer"):
        await asyncio.to_thread(lambda: BlockingEmbedder(socket_path, connect_s=0.1).dimensions)


@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        (EmbedderUnavailable("pip install 'headgate[documents]'"), BackendUnavailable, r"headgate\[documents\]"),
        (ModuleNotFoundError("faiss"), BackendUnavailable, r"headgate\[documents\]"),
        (ZeroDivisionError("secret words"), ProviderFault, "ZeroDivisionError$"),
    ],
)
async def test_a_search_that_cannot_be_made_says_why(socket_path: Path, problem: Exception, error: Any, message: str) -> None:
    def fail(_embedder: Embedder) -> Any:
        raise problem

    async with served(socket_path, Services(HashEmbedder, fail)):
        client = ComputeClient(socket_path)
        with pytest.raises(error, match=message):
            await client.search(SearchRequest(tenant="t", stores=("s",), query="q"))
        await client.aclose()


# --- the socket ---------------------------------------------------------------------------------------------------------------------------


async def test_the_socket_is_private_and_removed_at_the_end(socket_path: Path) -> None:
    async with served(socket_path, Services(HashEmbedder, echo_search)):
        assert mode(socket_path) == 0o600
        assert mode(socket_path.parent) == 0o700
    assert not there(socket_path)


async def test_a_socket_left_behind_is_replaced_and_a_living_one_is_not(socket_path: Path) -> None:
    bind(socket_path).close()
    assert there(socket_path)
    async with served(socket_path, Services(HashEmbedder, echo_search)):
        with pytest.raises(OSError, match="another compute process"):
            bind(socket_path)
        client = ComputeClient(socket_path)
        assert (await client.stats()).pid == os.getpid()
        await client.aclose()


def test_a_file_in_the_way_is_not_removed(socket_path: Path) -> None:
    socket_path.parent.mkdir()
    socket_path.write_text("mine")
    with pytest.raises(FileExistsError):
        bind(socket_path)
    assert socket_path.read_text() == "mine"


def make_unsafe(shared: Path, link_to: Path | None) -> Path:
    """In a place like `/tmp`: a link, or a folder that others may enter."""
    shared.chmod(0o1777)
    folder = shared / "headgate"
    if link_to is not None:
        folder.symlink_to(link_to)
    else:
        folder.mkdir()
        folder.chmod(0o755)
    return folder


@pytest.mark.parametrize("made", ["open to others", "a link"])
async def test_a_folder_that_could_be_another_users_is_neither_listened_in_nor_connected_to(tmp_path: Path, made: str) -> None:
    with tempfile.TemporaryDirectory(prefix="hg") as name:
        folder = make_unsafe(Path(name), link_to=tmp_path if made == "a link" else None)
        with pytest.raises(PermissionError, match="others may"):
            bind(folder / "compute.sock")
        client = ComputeClient(folder / "compute.sock", connect_s=30)
        with pytest.raises(BackendUnavailable, match="others may"):
            await client.stats()
        with pytest.raises(EmbedderUnavailable, match="others may"):
            await asyncio.to_thread(lambda: BlockingEmbedder(folder / "compute.sock", connect_s=30).dimensions)


def test_a_path_too_long_for_a_socket_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="longer than"):
        bind(tmp_path / ("x" * 120))


async def test_garbage_and_other_versions_end_their_connection_only(client: ComputeClient, socket_path: Path) -> None:
    for first in (b"GET / HTTP/1.1\r\n\r\n", wire.frame(wire.Hello(wire.VERSION + 1, 1)), wire.frame(wire.Stats(1))):
        reader, writer = await asyncio.open_unix_connection(socket_path)
        writer.write(first)
        async with asyncio.timeout(30):
            await reader.read()
        writer.close()
    assert (await client.stats()).pid == os.getpid()


async def test_a_server_of_another_version_is_refused_by_the_client(socket_path: Path) -> None:
    closed = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.frame(wire.Hello(wire.VERSION + 1, 1)))
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with await asyncio.start_unix_server(greet, sock=bind(socket_path)):
        client = ComputeClient(socket_path)
        with pytest.raises(BackendUnavailable, match="version"):
            await client.stats()
        await closed.wait()


async def test_a_spec_the_server_cannot_read_is_an_invalid_request(client: ComputeClient, socket_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(socket_path)
    writer.write(wire.frame(wire.Hello(wire.VERSION, 1)) + wire.frame(wire.Health(1, "llama", wire.raw({"kind": "llama", "mdoel": "x"}))))
    await wire.read_frame(reader)
    message = wire.decode_from_server(await wire.read_frame(reader))
    assert isinstance(message, wire.Failure)
    assert isinstance(wire.error_of(message), InvalidRequest)
    writer.close()


async def test_nobody_listening_is_told_after_the_bounded_wait(socket_path: Path, spec: LlamaSpec, ask: Any) -> None:
    client = ComputeClient(socket_path, connect_s=0.1)
    with pytest.raises(BackendUnavailable, match="does not answer"):
        await collect(client.generate(spec, ask(), record()))
    assert not (await client.health(spec)).ready


async def test_a_client_made_first_waits_for_the_server(socket_path: Path) -> None:
    client = ComputeClient(socket_path)
    early = asyncio.create_task(client.embed(["x"]))
    await asyncio.sleep(0)
    assert not there(socket_path)
    async with served(socket_path, Services(HashEmbedder, echo_search)):
        assert len(await early) == 1
        await client.aclose()


# --- stopping -----------------------------------------------------------------------------------------------------------------------------


async def test_a_stop_lets_running_answers_end_and_takes_no_new_ones(socket_path: Path, spec: LlamaSpec, ask: Any) -> None:
    async with served(socket_path, Services(HashEmbedder, echo_search), shutdown_s=20.0) as stop:
        client = ComputeClient(socket_path)
        stream = client.generate(spec, ask(max_output_tokens=200), record())
        await anext(stream)
        stop.set()
        with pytest.raises(BackendError):
            await _refused(client)
        events = [event async for event in stream]
        assert isinstance(events[-1], Finished)
        await client.aclose()


async def _refused(client: ComputeClient) -> None:
    async with asyncio.timeout(30):
        while True:
            await client.stats()
            await asyncio.sleep(0.001)


async def test_an_answer_longer_than_the_stop_waits_ends_with_an_error(socket_path: Path, spec: LlamaSpec, ask: Any) -> None:
    async with served(socket_path, Services(HashEmbedder, echo_search), shutdown_s=0.05) as stop:
        client = ComputeClient(socket_path)
        attempt = record()
        stream = client.generate(spec, ask(max_output_tokens=None), attempt)
        await anext(stream)
        stop.set()
        with pytest.raises(StreamBroken, match="stopping"):
            async for _ in stream:
                pass
        assert attempt.usage is not None
        await client.aclose()
