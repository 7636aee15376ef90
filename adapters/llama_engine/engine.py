"""The engine: one model, one thread, many requests that advance together.

In every round each running request gets one more token, and at most one request reads one more piece of its prompt; so a long answer or a
long prompt delays the others by one piece at most, and a cancelled request costs no forward pass beyond the one under way. Requests have
their own keys and values and are computed one by one, so what one answers does not depend on which others run, and what one breaks is its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from typing import Literal

import structlog

from adapters.errors import BackendError, BackendTimeout, BackendUnavailable, ContextTooLong, Overloaded, ProviderFault, RateLimited, StreamBroken
from adapters.llama import EngineState, LlamaSpec, check_request
from adapters.llama_engine.loading import LoadedModel, load, precheck
from adapters.llama_engine.outbox import Outbox
from adapters.llama_engine.prompt import prompt_ids
from adapters.llama_engine.sequence import Ended, Sequence
from adapters.types import AttemptRecord, BackendHealth, Event, GenerateRequest

log = structlog.get_logger("headgate.llama")

PREFILL_CHUNK = 512
RETRY_S = 10.0
"""How long a failed load stands before another request may try again."""


class LlamaEngine:
    """Generates with one local model. Loads it at the first request, or when `warm` is awaited. Use from one or more event loops."""

    def __init__(self, spec: LlamaSpec, *, prefill_chunk: int = PREFILL_CHUNK) -> None:
        self._spec = spec
        self._chunk = prefill_chunk
        self._wake = threading.Condition()
        self._state: Literal["idle", "loading", "ready", "failed", "closed"] = "idle"
        self._since = time.monotonic()
        self._thread: threading.Thread | None = None
        self._loaded: Future[LoadedModel] = Future()
        self._waiting: deque[Sequence] = deque()
        self._active: list[Sequence] = []
        self._rounds = self._forwards = self._tokens = 0
        self._mean_s = 1.0  # a request's time in the engine, as a moving average
        self._tokenizing = threading.Lock()

    async def warm(self) -> None:
        """Returns when the model is ready. Raises `BackendUnavailable`."""
        await self._ready()

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        """As `Backend.generate`: for callers in this process."""
        batches = self.batches(request, attempt)
        try:
            async for batch in batches:
                for event in batch:
                    yield event
        finally:
            await batches.aclose()

    async def batches(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[tuple[Event, ...], None]:
        """The events, as many at a time as are there. `attempt.usage` is exact with every batch and after a close."""
        check_request(request, attempt.backend)
        deadline = None if request.deadline is None else asyncio.get_running_loop().time() + request.deadline - time.time()
        try:
            async with asyncio.timeout_at(deadline):
                loaded = await self._ready()
                self._check_room()
                prompt = await asyncio.to_thread(self._prompt, loaded, request)
        except TimeoutError as error:
            raise BackendTimeout(f"{self._spec.model}: the request's time was over before the model could begin") from error
        attempt.called = True
        attempt.model = self._spec.model
        attempt.provider_request_id = identity = f"llama-{uuid.uuid4().hex}"
        outbox: Outbox[Event | Ended] = Outbox(self._nudge)
        sequence = Sequence(loaded, request, prompt, identity, outbox)
        self._enqueue(sequence)
        try:
            ended = None
            while ended is None:
                try:
                    async with asyncio.timeout_at(deadline):
                        items = await outbox.take()
                except TimeoutError as error:
                    raise BackendTimeout(f"{self._spec.model}: the request's time is over", provider_request_id=identity) from error
                attempt.usage = sequence.usage
                ended = items.pop() if isinstance(items[-1], Ended) else None
                if items:
                    yield tuple(item for item in items if not isinstance(item, Ended))
            if isinstance(ended, Ended) and ended.error is not None:
                raise ended.error
        finally:
            sequence.cancelled = True
            self._nudge()
            attempt.usage = sequence.usage

    async def health(self) -> BackendHealth:
        """Ready also before a lazy load: the first request starts it. Asking about a warm backend starts its load."""
        if self._state == "failed" and time.monotonic() - self._since > RETRY_S:
            self._state = "idle"
        match self._state:
            case "idle":
                try:
                    await asyncio.to_thread(precheck, self._spec)
                except BackendUnavailable as error:
                    return BackendHealth(ready=False, reason=error.message)
                if self._spec.start == "warm":
                    self._start()
                    return BackendHealth(ready=False, reason="loading")
                return BackendHealth(ready=True, reason="loads with the first request")
            case "loading":
                return BackendHealth(ready=False, reason=f"loading for {time.monotonic() - self._since:.0f} s")
            case "failed":
                return BackendHealth(ready=False, reason=str(self._loaded.exception()))
            case "closed":
                return BackendHealth(ready=False, reason="closed")
            case "ready":
                return BackendHealth(ready=True, queue_depth=len(self._waiting), estimated_wait_s=self._estimated_wait())

    def state(self) -> EngineState:
        loaded = self._loaded.result() if self._state == "ready" else None
        return EngineState(
            model=self._spec.model,
            state=self._state,
            device=str(loaded.device) if loaded else "",
            dtype=loaded.dtype if loaded else "",
            active=len(self._active),
            queued=len(self._waiting),
            rounds=self._rounds,
            forwards=self._forwards,
            tokens=self._tokens,
            load_s=loaded.load_s if loaded else 0.0,
        )

    def close(self) -> None:
        """Stop the thread after its current step; running requests end with `StreamBroken`. Blocks for that step."""
        with self._wake:
            self._state = "closed"
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    # --- on the event loops -------------------------------------------------------------------------------------------------------------

    async def _ready(self) -> LoadedModel:
        self._start()
        # Shielded: a request that is cancelled while the model loads must not cancel the load for the others.
        return await asyncio.shield(asyncio.wrap_future(self._loaded))

    def _start(self) -> None:
        with self._wake:
            if self._state == "closed":
                raise BackendUnavailable(f"{self._spec.model}: the engine is closed")
            if self._state == "failed" and time.monotonic() - self._since > RETRY_S:
                self._state = "idle"
            if self._state == "idle":
                self._state, self._since, self._loaded = "loading", time.monotonic(), Future()
                self._thread = threading.Thread(target=self._run, args=(self._loaded,), name=f"headgate-llama-{self._spec.model}", daemon=True)
                self._thread.start()

    def _prompt(self, loaded: LoadedModel, request: GenerateRequest) -> list[int]:
        with self._tokenizing:
            prompt = prompt_ids(loaded, request)
        if len(prompt) >= loaded.window:
            raise ContextTooLong(f"the prompt has {len(prompt)} tokens; {self._spec.model} takes {loaded.window} with its answer", param="messages")
        return prompt

    def _check_room(self) -> None:
        if len(self._active) + len(self._waiting) >= self._spec.max_concurrency + self._spec.max_queue:
            raise RateLimited(f"{self._spec.model}: {len(self._waiting)} requests wait already", retry_after=round(self._estimated_wait(), 1))

    def _enqueue(self, sequence: Sequence) -> None:
        with self._wake:
            self._check_room()
            if self._state != "ready":
                raise BackendUnavailable(f"{self._spec.model}: the engine is {self._state}")
            self._waiting.append(sequence)
            self._wake.notify()

    def _nudge(self) -> None:
        with self._wake:
            self._wake.notify()

    def _estimated_wait(self) -> float:
        ahead = len(self._active) + len(self._waiting)
        rounds = ahead // self._spec.max_concurrency
        return rounds * self._mean_s

    # --- the engine's thread ------------------------------------------------------------------------------------------------------------

    def _run(self, future: Future[LoadedModel]) -> None:
        try:
            loaded = load(self._spec)
        except Exception as error:
            failure = error if isinstance(error, BackendError) else BackendUnavailable(f"{self._spec.model} could not be loaded: {error!r}")
            failure.__cause__ = failure.__cause__ or (error if failure is not error else None)
            log.error("model_not_loaded", model=self._spec.model, reason=str(failure))
            with self._wake:
                self._since = time.monotonic()
                self._state = "failed" if self._state != "closed" else "closed"
            future.set_exception(failure)
            return
        with self._wake:
            if self._state != "closed":
                self._state, self._since = "ready", time.monotonic()
        future.set_result(loaded)
        log.info("model_ready", model=self._spec.model, device=str(loaded.device), dtype=loaded.dtype, load_s=round(loaded.load_s, 1))
        try:
            self._rounds_until_closed(loaded)
            last: BackendError = StreamBroken(f"{self._spec.model}: the engine was closed")
        except Exception as error:  # a fault of the engine itself: nobody may wait for a thread that is gone
            log.exception("engine_stopped", model=self._spec.model)
            last = ProviderFault(f"{self._spec.model}: the engine stopped: {error!r}")
            last.__cause__ = error
            with self._wake:
                self._state, self._since, self._loaded = "failed", time.monotonic(), Future()
                self._loaded.set_exception(last)
        with self._wake:
            left = [sequence for sequence in (*self._active, *self._waiting) if not sequence.over]
            self._active.clear()
            self._waiting.clear()
        for sequence in left:
            sequence.fail(last)

    def _rounds_until_closed(self, loaded: LoadedModel) -> None:
        import torch

        with torch.inference_mode():
            while (turn := self._next_round(loaded)) is not None:
                read = False
                for sequence in turn:
                    if sequence.cancelled or (sequence.prefilling and read):
                        continue
                    read = read or sequence.prefilling
                    self._step(sequence)
                self._rounds += 1

    def _next_round(self, loaded: LoadedModel) -> list[Sequence] | None:
        """The requests to advance, waiting until there are some; None when the engine is closed."""
        with self._wake:
            while self._state != "closed":
                for sequence in [each for each in self._active if each.over or each.cancelled]:
                    self._active.remove(sequence)
                    sequence.release()
                    self._mean_s += 0.1 * (time.monotonic() - sequence.began - self._mean_s)
                self._waiting = deque(sequence for sequence in self._waiting if not sequence.cancelled)
                self._admit(loaded)
                self._spare_memory(loaded)
                turn = [sequence for sequence in self._active if not sequence.outbox.full]
                if turn:
                    return turn
                self._wake.wait()
        return None

    def _admit(self, loaded: LoadedModel) -> None:
        """Let waiting requests in, in order, while there are places and memory for their keys and values."""
        while self._waiting and len(self._active) < self._spec.max_concurrency:
            sequence = self._waiting[0]
            kept = sum(each.kept for each in self._active)
            if self._active and kept + sequence.kept > loaded.kv_tokens:
                return
            sequence.began = time.monotonic()
            self._active.append(self._waiting.popleft())

    def _spare_memory(self, loaded: LoadedModel) -> None:
        """When the answers together have outgrown the memory for keys and values, the youngest request gives way."""
        while len(self._active) > 1 and sum(each.kept for each in self._active if not each.over) > loaded.kv_tokens:
            youngest = next(each for each in reversed(self._active) if not each.over)
            youngest.fail(Overloaded(f"{self._spec.model}: the requests together outgrew the memory for their context"))
            self._active.remove(youngest)

    def _step(self, sequence: Sequence) -> None:
        import torch

        drawn = sequence.drawn
        try:
            if not sequence.prefilled:
                sequence.start()
            self._forwards += 1
            sequence.step(self._chunk)
        except torch.OutOfMemoryError as error:
            overloaded = Overloaded(f"{self._spec.model}: no memory was left for this request")
            overloaded.__cause__ = error
            sequence.fail(overloaded)
        except BackendError as error:
            sequence.fail(error)
        except Exception as error:
            log.exception("step_failed", model=self._spec.model)
            fault = ProviderFault(f"{self._spec.model}: the model failed in a step: {type(error).__name__}: {error}")
            fault.__cause__ = error
            sequence.fail(fault)
        self._tokens += sequence.drawn - drawn
