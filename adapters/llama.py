"""A Llama on this machine (`kind: llama`): the gateway's side. The model itself runs in the compute process (`adapters.llama_engine`).

Nothing here imports torch: what a request asks for is checked, bounded and passed on, and events come back. Where the compute process is not
installed or does not answer, the error says so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from adapters.backend import BackendContext, BackendSpec, estimate_tokens, register, require_features
from adapters.errors import BackendUnavailable, InvalidRequest, UnsupportedFeature
from adapters.prompting import with_context, with_format
from adapters.tokens import TokenCounter
from adapters.tokens.profiles import LLAMA
from adapters.types import AttemptRecord, BackendHealth, Capabilities, Event, GenerateRequest, TokenCount

CAPABILITIES = Capabilities(streaming=True, tools=True)
MISSING = "a local Llama needs the extra 'local': pip install 'headgate[local]'"
_HUB_ID = re.compile(r"(?!\.)[\w.-]+/(?!\.)[\w.-]+|[\w-][\w.-]*", re.ASCII)
TEMPLATE_TOKENS = 400
"""Upper bound of what Llama 3.2's chat template says by itself: dates, and with tools the instruction how to call them."""


class LlamaSpec(BackendSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`model` is a folder in Hugging Face's layout or a hub id; a hub id is taken from the local cache, else downloaded.

    `device` auto takes the first GPU, else the CPU. `dtype` auto is bfloat16 on a GPU and on a CPU with AMX, else float32. `start` lazy loads
    with the first request, warm when the compute process first hears of the backend. `threads` bounds the CPU threads of one operation.
    `context_window` lowers the model's own. `max_concurrency` requests generate at once, and `max_queue` more may wait; beyond that a request
    is answered with a rate limit at once.
    """

    model: str
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    start: Literal["lazy", "warm"] = "lazy"
    threads: Annotated[int, Meta(ge=1)] | None = None
    context_window: Annotated[int, Meta(ge=16)] | None = None
    max_concurrency: Annotated[int, Meta(ge=1)] = 8
    max_queue: Annotated[int, Meta(ge=0)] = 64

    def slots(self) -> None:
        """The engine in the compute process counts and queues for all workers."""

    def files(self) -> Mapping[str, str]:
        """The model, unless it is a hub id and no folder of that name lies here."""
        return {"model": self.model} if not _HUB_ID.fullmatch(self.model) or Path(self.model).exists() else {}


class EngineState(Struct, frozen=True):
    """A moment of a model in the compute process. `forwards` counts its forward passes, `tokens` those drawn since the start."""

    model: str
    state: Literal["idle", "loading", "ready", "failed", "closed"]
    device: str = ""
    dtype: str = ""
    active: int = 0
    queued: int = 0
    rounds: int = 0
    forwards: int = 0
    tokens: int = 0
    load_s: float = 0.0


def check_request(request: GenerateRequest, backend: str) -> None:
    """Raises `UnsupportedFeature` or `InvalidRequest` for what this backend cannot do, before any work is done for it."""
    require_features(request, CAPABILITIES, backend)
    if request.adapter is not None:
        raise UnsupportedFeature(f"backend {backend!r} does not load LoRA adapters", backend=backend, param="adapter")
    if request.tool_choice.mode == "function" and request.tool_choice.name not in [tool.name for tool in request.functions]:
        raise InvalidRequest(f"the tool {request.tool_choice.name!r} is not among the request's tools", backend=backend, param="tool_choice")
    if not request.messages:
        raise InvalidRequest("there are no messages", backend=backend, param="messages")
    if request.temperature is not None and not 0 <= request.temperature < math.inf:
        raise InvalidRequest(f"temperature must be 0 or more, not {request.temperature}", backend=backend, param="temperature")
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise InvalidRequest(f"top_p must lie above 0 and at most at 1, not {request.top_p}", backend=backend, param="top_p")
    if request.max_output_tokens is not None and request.max_output_tokens < 1:
        raise InvalidRequest("the limit of output tokens must be at least 1", backend=backend, param="max_tokens")
    if "" in request.stop:
        raise InvalidRequest("a stop string must not be empty", backend=backend, param="stop")


def count_prompt(request: GenerateRequest) -> TokenCount:
    """An estimate, and an upper bound for Llama's chat template, which indents the tools' definitions by four spaces."""
    count = estimate_tokens(with_context(request))
    indented = sum(len(json.dumps(msgspec.to_builtins(tool), indent=4, ensure_ascii=False).encode()) + 256 for tool in request.tools)
    return TokenCount(n=count.n + (40 if not request.tools else 100), upper=count.upper + indented + TEMPLATE_TOKENS)


@register("llama", LlamaSpec, provider="local")
class LlamaBackend:
    """Passes requests to the compute process. Closing the stream stops the model within one step."""

    provider = "local"

    def __init__(self, name: str, spec: LlamaSpec, context: BackendContext) -> None:
        self.name = name
        self.model = spec.model
        # The prompt asks for JSON here; the engine itself is never asked for a format.
        self.capabilities = msgspec.structs.replace(CAPABILITIES, json_schema="prompted", context_window=spec.context_window, max_output=spec.max_output_tokens)
        self._spec = spec
        self._tokens = TokenCounter(LLAMA)
        self._compute = context.compute

    async def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]:
        request = with_format(request, self.capabilities)
        check_request(request, self.name)
        if self._compute is None:
            raise BackendUnavailable(MISSING, backend=self.name)
        attempt.ignored = _ignored(request)
        attempt.model = self.model
        limits = [limit for limit in (request.max_output_tokens, self._spec.max_output_tokens) if limit is not None]
        bounded = msgspec.structs.replace(request, max_output_tokens=min(limits, default=None), extra={}, metadata={})
        async with aclosing(self._compute.generate(self._spec, bounded, attempt)) as events:
            async for event in events:
                yield event
        if attempt.usage is not None and attempt.usage.source != "estimated" and self._tokens.wants_report():
            self._tokens.learn(self.count(request).n, attempt.usage.input_tokens, request)

    def count(self, request: GenerateRequest, /) -> TokenCount:
        request = with_format(request, self.capabilities)
        bound, counted = count_prompt(request), self._tokens.count(with_context(request))
        return TokenCount(n=min(counted.n, bound.upper), upper=bound.upper)

    async def health(self) -> BackendHealth:
        if self._compute is None:
            return BackendHealth(ready=False, reason=MISSING)
        return await self._compute.health(self._spec)

    async def aclose(self) -> None:
        """The compute process is shared: there is nothing of this backend's own to release."""


def _ignored(request: GenerateRequest) -> tuple[str, ...]:
    """Tuning knobs the request turned that this backend does not have."""
    return (*(("reasoning",) if request.reasoning is not None else ()), *request.extra)
