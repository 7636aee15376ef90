"""One request in the engine: its prompt, its keys and values, its sampling, its answer so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from adapters.errors import BackendError
from adapters.llama_engine.answer import Answer
from adapters.llama_engine.loading import LoadedModel
from adapters.llama_engine.outbox import Outbox
from adapters.llama_engine.prompt import forced_beginning
from adapters.llama_engine.sampling import make_generator, next_token
from adapters.types import Event, FinishReason, GenerateRequest, ResponseStarted, Usage, UsageReported

if TYPE_CHECKING:
    import torch


class Ended(Struct, frozen=True):
    """The last item of every outbox: the answer is complete, or `error` says why not."""

    error: BackendError | None = None


class Sequence:
    """Made on the event loop, stepped by the engine's thread, cancelled from anywhere.

    `usage` counts the prompt tokens that went through the model and the tokens drawn from it, the end token included: at any moment exactly
    the work done.
    """

    def __init__(self, loaded: LoadedModel, request: GenerateRequest, prompt: list[int], identity: str, outbox: Outbox[Event | Ended]) -> None:
        self.outbox = outbox
        self.cancelled = False
        self.over = False
        self.began = 0.0  # when it left the queue, by `time.monotonic`
        self.prompt = prompt
        self.prefilled = 0
        self.drawn = 0
        room = loaded.window - len(prompt)
        self.limit = min(room, request.max_output_tokens or room)
        self._identity = identity
        self._loaded = loaded
        self._last: int | None = None
        self._cache: Any = None
        self._generator: torch.Generator | None = None
        self._seed = request.seed
        self._temperature = loaded.temperature if request.temperature is None else request.temperature
        self._top_p = loaded.top_p if request.top_p is None else request.top_p
        tools = request.functions if request.tool_choice.mode != "none" else ()
        self._answer = Answer(
            loaded.vocabulary,
            stops=request.stop,
            tools=tools,
            python_tag=loaded.python_tag,
            one_call=request.parallel_tool_calls is False,
            begun=forced_beginning(request),
        )

    @property
    def usage(self) -> Usage:
        return Usage(input_tokens=self.prefilled, output_tokens=self.drawn, source="counted")

    @property
    def prefilling(self) -> bool:
        return self.prefilled < len(self.prompt)

    @property
    def kept(self) -> int:
        """Tokens whose keys and values are in memory, or will be once the prompt is read."""
        return len(self.prompt) + self.drawn

    def start(self) -> None:
        """Called by the engine when the request leaves the queue."""
        from transformers import DynamicCache

        self._cache = DynamicCache(config=self._loaded.model.config)
        self._generator = make_generator(self._seed, self._loaded.device)
        self.outbox.put(ResponseStarted(provider_request_id=self._identity, model=self._loaded.name))

    def step(self, chunk: int) -> None:
        """One forward pass: the next `chunk` tokens of the prompt, or one more token of the answer."""
        if self.prefilling:
            piece = self.prompt[self.prefilled : self.prefilled + chunk]
            logits = self._forward(piece)
            self.prefilled += len(piece)
            self.outbox.put(UsageReported(self.usage))  # so that whoever leaves now knows what was read for it
            if self.prefilling:
                return
        else:
            assert self._last is not None
            logits = self._forward([self._last])
        assert self._generator is not None
        self._accept(next_token(logits, self._temperature, self._top_p, self._generator))

    def finish(self, reason: FinishReason) -> None:
        """Raises `ProviderFault`, before anything is sent, where the answer is not what it had to be."""
        *events, finished = self._answer.end(reason)
        self.outbox.put(*events, UsageReported(self.usage), finished, Ended())
        self.release()

    def fail(self, error: BackendError) -> None:
        self.outbox.put(Ended(error))
        self.release()

    def release(self) -> None:
        """Give the memory back; no step follows."""
        self.over = True
        self._cache = self._generator = None

    def _forward(self, ids: list[int]) -> torch.Tensor:
        import torch

        tokens = torch.tensor([ids], dtype=torch.long, device=self._loaded.device)
        output = self._loaded.model(input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    def _accept(self, token: int) -> None:
        self._last = token
        self.drawn += 1
        if token in self._loaded.end_ids:
            return self.finish("stop")
        events = self._answer.token(token)
        if self._answer.stop_found is not None:
            self.outbox.put(*events)
            return self.finish("stop")
        self.outbox.put(*events)
        return self.finish("length") if self.drawn >= self.limit else None
