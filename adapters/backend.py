"""The one interface every backend has, and the registry that makes a backend out of its YAML table.

Adding a backend is one file: a spec (the keys of its YAML table) and a class with `generate`, `count`, `health` and `aclose`, registered with
`@register(kind, SpecClass)`. `docs/backends.md` shows one of 25 lines.
"""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, Callable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from adapters.errors import UnsupportedFeature
from adapters.resilience import BreakerSpec, HedgeSpec, RetrySpec
from adapters.types import (
    AttemptRecord,
    AudioPart,
    BackendHealth,
    Capabilities,
    Event,
    FilePart,
    GenerateRequest,
    ImagePart,
    ProviderPart,
    ProviderTool,
    RefusalPart,
    TextPart,
    TokenCount,
    Tool,
    ToolCallPart,
)
from config.prices import Price

DataClass: TypeAlias = Literal["public", "internal", "confidential", "restricted"]
DATA_CLASSES: tuple[DataClass, ...] = ("public", "internal", "confidential", "restricted")
"""From the least to the most sensitive."""

Tokens: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0)]
Quality: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class Backend(Protocol):
    """A configured, callable instance of a model.

    `generate` yields `ResponseStarted`, then deltas; `UsageReported` is cumulative and the last one wins. It ends in one of three ways: a
    `Finished` for every choice, a raised `BackendError`, or the consumer closing it; in all three the usage so far stands in the
    `AttemptRecord`. Closing or cancelling it stops the provider's stream or the local model's work within one step: consume it inside
    `contextlib.aclosing`. `count` is local and quick: it makes no call. `aclose` releases connections.
    """

    name: str
    provider: str
    model: str
    capabilities: Capabilities

    def generate(self, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]: ...

    def count(self, request: GenerateRequest, /) -> TokenCount: ...

    async def health(self) -> BackendHealth: ...

    async def aclose(self) -> None: ...


class BackendSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys every backend's YAML table may have. A kind adds its own by subclassing. Times are in seconds.

    `timeout_s` is the longest wait between two events, and for the first one where `first_event_s` says nothing else; it never cuts a stream that
    flows. `total_s` bounds a whole attempt. `max_concurrency` attempts run at once on this host, over all its workers; further ones wait for at
    most `queue_s`. `breaker: null` is none. `max_output_tokens` is the longest answer: a request without a limit of its own gets this one, a
    higher one is lowered to it, and the reservation is made for it. `quality` is how good its answers are, by your own measure, as one number or by task
    (`default` for the others): what a rule's `min_quality` asks for. `price_from` are the prices from a day on (`2027-01-01`, UTC), in place of
    `price` or the price book's.
    """

    kind: str
    model: str | None = None
    tier: Literal["small", "large"] | None = None
    quality: Quality | dict[str, Quality] | None = None
    clearance: DataClass | None = None
    price: Price | None = None
    price_from: dict[str, Price] = {}
    context_window: Tokens | None = None
    max_output_tokens: Tokens | None = None
    first_event_s: Seconds | None = None
    timeout_s: Seconds = 60.0
    total_s: Seconds | None = None
    retry: RetrySpec = RetrySpec()
    breaker: BreakerSpec | None = BreakerSpec()
    hedge: HedgeSpec | None = None
    max_concurrency: Annotated[int, Meta(ge=1, le=4096)] | None = None
    queue_s: Annotated[float, Meta(ge=0)] = 5.0

    def files(self) -> Mapping[str, str]:
        """The keys whose values name files or folders of this machine, with those values. A policy that arrives over the API may not set them."""
        return {}

    def slots(self) -> int | None:
        """How many attempts may run at once on this host, None for any number. A kind that queues by itself, for all workers, says None."""
        return self.max_concurrency


class RemoteSpec(BackendSpec, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A backend reached over HTTP. `base_url` is the `/v1` root for `openai` and the host root for `anthropic` and `gemini`.

    `api_key_env` names the environment variable that holds the key; it must end in `_API_KEY`. `headers` go out with every request, for a
    proxy or gateway in front of the provider; they stand in the policy's text, so no secret belongs there.

    `streaming: false` is for a server or model that cannot stream: its answer is asked for in one piece, and `timeout_s` is then the longest
    wait for the whole of it. `provider_tools` names tools that the provider runs itself and this backend may be sent, as `provider/type` with
    `*` and `?` as in file names: what they cost must be in the backend's price.
    """

    base_url: str | None = None
    api_key_env: str | None = None
    connect_s: Seconds = 5.0
    headers: dict[str, str] = {}
    streaming: bool = True
    provider_tools: tuple[str, ...] = ()


class LocalCompute(Protocol):
    """The compute process as a backend sees it: the same event grammar, across a socket (or in this process, in tests)."""

    def generate(self, spec: BackendSpec, request: GenerateRequest, attempt: AttemptRecord, /) -> AsyncGenerator[Event, None]: ...

    async def health(self, spec: BackendSpec, /) -> BackendHealth: ...


class BackendContext(Struct, frozen=True):
    """What a factory may use: the environment (for keys) and the compute process, or None where it is not installed."""

    environ: Mapping[str, str]
    compute: LocalCompute | None = None


SpecT = TypeVar("SpecT", bound=BackendSpec)
Factory: TypeAlias = Callable[[str, SpecT, BackendContext], Backend]


class Kind(Struct, frozen=True):
    """A registered kind. `remote`: prompts leave this machine, so its clearance defaults to internal and its price must be known."""

    name: str
    spec: type[BackendSpec]
    factory: Factory[BackendSpec]
    remote: bool
    provider: str


_KINDS: dict[str, Kind] = {}


def register(kind: str, spec: type[SpecT], *, remote: bool = False, provider: str | None = None) -> Callable[[Factory[SpecT]], Factory[SpecT]]:
    """Register a factory `(name, spec, context) -> Backend` (a class with that constructor will do) under `kind`."""

    def add(factory: Factory[SpecT]) -> Factory[SpecT]:
        _KINDS[kind] = Kind(name=kind, spec=spec, factory=factory, remote=remote, provider=provider or kind)  # type: ignore[arg-type]
        return factory

    return add


class UnknownKind(ValueError):
    """No backend of this kind is registered."""


def kind_named(kind: str) -> Kind:
    """The registered kind. Raises `UnknownKind` with the nearest name."""
    try:
        return _KINDS[kind]
    except KeyError:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownKind(f"unknown backend kind {kind!r}{hint} Known kinds: {', '.join(sorted(_KINDS))}.") from None


def kinds() -> tuple[str, ...]:
    return tuple(sorted(_KINDS))


def clearance_of(spec: BackendSpec) -> DataClass:
    """The most sensitive data class this backend may see: as configured, else restricted in-process and internal elsewhere."""
    return spec.clearance or ("internal" if kind_named(spec.kind).remote else "restricted")


def may_see(clearance: DataClass, data_class: DataClass) -> bool:
    return DATA_CLASSES.index(data_class) <= DATA_CLASSES.index(clearance)


def create_backend(name: str, spec: BackendSpec, context: BackendContext) -> Backend:
    """Make the backend that a YAML table describes. Makes no call; a missing key shows in `health`, not here."""
    return kind_named(spec.kind).factory(name, spec, context)


IMAGE_TOKENS = 1_100
MAX_IMAGE_TOKENS = 50_000
"""What an image costs as a rule, and at most.

The dearest published rule is gpt-4o-mini's: 2,833 tokens and 5,667 a tile of 512 pixels, and an image is scaled down until it has at most
eight tiles: 48,169. Every other rule of OpenAI, Anthropic and Google stays far below that.
"""


def estimate_tokens(request: GenerateRequest) -> TokenCount:
    """Count without a vocabulary.

    `n` is characters / 4 plus a few tokens a message. `upper` holds for every byte-level tokenizer: a token is at least one byte, and chat
    templates add at most 16 tokens a message, a tool or a call and 64 a request. Everything of the client's that may go out is counted, names
    and ids too; `extra` by the adapter that sends it. An image counts what the providers' own rules allow it at most.
    """
    characters = size = images = calls = 0
    wanted = request.response_format
    texts = [*request.stop, *(text for text in (request.tool_choice.name, wanted.name, wanted.description, request.verbosity) if text)]
    if request.reasoning is not None:
        texts.append(msgspec.json.encode(request.reasoning).decode())
    files = 0
    for message in request.messages:
        texts += [text for text in (message.name, message.tool_call_id) if text]
        for part in message.parts:
            match part:
                case TextPart() | RefusalPart():
                    texts.append(part.text)
                case FilePart():
                    files += len(part.url)
                case AudioPart():
                    files += len(part.data)
                case ToolCallPart():
                    texts.append(part.id + part.name + part.arguments)
                    calls += 1
                case ImagePart():
                    images += 1
                case ProviderPart():
                    texts.append(msgspec.json.encode(part.item).decode())
    texts += [passage.text for passage in request.context]
    texts += [msgspec.json.encode(tool).decode() for tool in request.tools]
    if wanted.schema is not None:
        texts.append(msgspec.json.encode(wanted.schema).decode())
    for text in texts:
        characters += len(text)
        size += len(text) if text.isascii() else len(text.encode())
    pieces = len(request.messages) + len(request.context) + len(request.tools) + calls
    return TokenCount(
        n=(characters + files // 8) // 4 + 4 * pieces + 3 + images * IMAGE_TOKENS, upper=size + files + 16 * pieces + 64 + images * MAX_IMAGE_TOKENS
    )


def may_be_spoken(request: GenerateRequest) -> bool:
    """Whether some of the request's or its answer's tokens may be audio: by itself, in a video, in a provider's own part, or as it is asked for."""
    heard = any(isinstance(part, AudioPart | FilePart | ProviderPart) for message in request.messages for part in message.parts)
    return heard or "modalities" in request.extra or "audio" in request.extra


def estimate_output_tokens(characters: int) -> int:
    """Tokens of a generated text of that many characters, counted without a vocabulary: four characters a token, rounded up."""
    return -(-characters // 4)


def missing_features(request: GenerateRequest, capabilities: Capabilities) -> tuple[tuple[str, str], ...]:
    """The features the request needs and the backend lacks, each as `(capability, the request's parameter)`."""
    lacking = [(need, param) for need, param in needs_of(request) if not has(capabilities, need)]
    own = [tool.qualified for tool in request.tools if isinstance(tool, ProviderTool)]
    lacking += [(f"the tool {tool}", "tools") for tool in own if not takes_tool(capabilities, tool)]
    lacking += [(f"parts of {provider}'s own", "messages") for provider in required_parts(request) if provider not in capabilities.opaque]
    return tuple(lacking)


def required_parts(request: GenerateRequest) -> tuple[str, ...]:
    """The providers, each once, of opaque parts without which the request means nothing."""
    parts = (part for message in request.messages for part in message.parts)
    return tuple(dict.fromkeys(part.provider for part in parts if isinstance(part, ProviderPart) and part.required))


def takes_tool(capabilities: Capabilities, tool: str) -> bool:
    """Whether a backend may be sent a provider's own tool, named `provider/type`."""
    return any(fnmatchcase(tool, pattern) for pattern in capabilities.provider_tools)


PARAM_OF_NEED = {
    "tools": "tools",
    "vision": "messages",
    "files": "messages",
    "audio": "messages",
    "json_schema": "response_format",
    "reasoning": "reasoning",
    "logprobs": "logprobs",
    "multiple_choices": "n",
    "parallel_tools": "parallel_tool_calls",
    "streaming": "stream",
}
"""The request's parameter that needs a capability."""


def needs_of(request: GenerateRequest) -> tuple[tuple[str, str], ...]:
    """The capabilities that a request needs, each with the request's parameter that needs it."""
    parts = {type(part) for message in request.messages for part in message.parts}
    needed = {
        "tools": any(isinstance(tool, Tool) for tool in request.tools) and request.tool_choice.mode != "none",
        "vision": ImagePart in parts,
        "files": FilePart in parts,
        "audio": AudioPart in parts,
        "json_schema": request.response_format.kind != "text",
        "logprobs": request.logprobs is not None,
        "multiple_choices": request.n > 1,
    }
    return tuple((need, PARAM_OF_NEED[need]) for need, needs in needed.items() if needs)


def has(capabilities: Capabilities, need: str) -> bool:
    """Whether a backend has a capability that requests need."""
    return getattr(capabilities, need) not in (False, "none")


def require_features(request: GenerateRequest, capabilities: Capabilities, backend: str) -> None:
    """Raises `UnsupportedFeature`, naming the request's parameter, where the request needs what the backend lacks."""
    for capability, param in missing_features(request, capabilities):
        raise UnsupportedFeature(f"backend {backend!r} does not support {capability}", backend=backend, param=param)
