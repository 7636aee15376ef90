"""The faults of the published table: how each is made, and what every client must see of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from tests.fakes.provider import Close, Cut, FakeProvider, Hang, Reply
from tests.fakes.wire import Answer, error_body, failing, openai_steps
from tests.ports import free_port

TEXTS = ("One ", "two ", "three ")
BEGUN = openai_steps(Answer(texts=TEXTS))[: 1 + len(TEXTS)]


@dataclass(frozen=True)
class Fault:
    """`reply` makes the upstream's answer (None: there is no server). `late`: text was delivered before it. `retried`: once more at the same backend.

    `status` and `code` are what a client sees where nothing else can answer; `free`: nothing can have been billed.
    """

    name: str
    reply: Callable[[], Reply] | None
    status: int
    code: str
    late: bool = False
    retried: bool = False
    free: bool = True
    retry_after: str | None = None


def _error(
    name: str, status: int, code: str, shown: int, ours: str, *, retried: bool = False, message: str = "it went wrong", wait: str | None = None
) -> Fault:
    headers = {} if wait is None else {"retry_after": wait}
    return Fault(name, lambda: failing("openai", status, code, message, **headers), shown, ours, retried=retried, retry_after=wait)


UNREACHABLE = "connection refused"
UNANSWERED = "connect timeout"

FAULTS = (
    _error("400 context length", 400, "context_length_exceeded", 400, "context_length_exceeded", message="maximum context length is 8192 tokens"),
    _error("401", 401, "invalid_api_key", 502, "backend_authentication_failed"),
    _error("403", 403, "forbidden", 502, "backend_authentication_failed"),
    _error("404 model", 404, "model_not_found", 503, "backend_unavailable"),
    _error("408", 408, "timeout", 504, "backend_timeout", retried=True),
    _error("429", 429, "rate_limit_exceeded", 429, "backend_rate_limited", retried=True),
    _error("429 with Retry-After: 30", 429, "rate_limit_exceeded", 429, "backend_rate_limited", wait="30"),
    _error("500", 500, "server_error", 502, "provider_error", retried=True),
    _error("503", 503, "overloaded", 503, "backend_overloaded", retried=True),
    _error("529", 529, "overloaded_error", 503, "backend_overloaded", retried=True),
    Fault(UNREACHABLE, None, 503, "backend_unavailable", retried=True),
    Fault(UNANSWERED, None, 503, "backend_unavailable", retried=True),
    Fault("stall before the first event", lambda: Reply([Hang()]), 504, "backend_timeout", retried=True, free=False),
    Fault("stall in the middle", lambda: Reply([*BEGUN, Hang()]), 504, "backend_timeout", late=True, retried=True, free=False),
    Fault("cut before the first event", lambda: Reply([Cut()]), 502, "stream_broken", retried=True, free=False),
    Fault("cut in the middle", lambda: Reply([*BEGUN, Cut()]), 502, "stream_broken", late=True, retried=True, free=False),
    Fault("orderly end without a finish", lambda: Reply([*BEGUN, Close()], framing="close"), 502, "stream_broken", late=True, retried=True, free=False),
    Fault("malformed JSON in an event", lambda: Reply([*BEGUN, b"data: {not json\n\n"]), 502, "provider_error", late=True, retried=True, free=False),
    Fault(
        "error event in the middle",
        lambda: Reply([*BEGUN, b"data: " + error_body("openai", 500, "server_error") + b"\n\n"]),
        502,
        "provider_error",
        late=True,
        retried=True,
        free=False,
    ),
)


@contextlib.asynccontextmanager
async def upstream(fault: Fault) -> AsyncIterator[tuple[str, FakeProvider | None]]:
    """The address of a provider with that fault, and the provider where there is one."""
    if fault.reply is not None:
        make = fault.reply
        async with FakeProvider(lambda _: make()) as provider:
            yield provider.url, provider
    elif fault.name == UNREACHABLE:
        yield f"http://127.0.0.1:{free_port()}", None
    else:
        with _full() as port:
            yield f"http://127.0.0.1:{port}", None


@contextlib.contextmanager
def _full() -> Iterator[int]:
    """A port whose queue of connections is full: the kernel drops every further attempt, so that connecting never ends."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port: int = listening.getsockname()[1]
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


async def gone(provider: FakeProvider, within_s: float) -> bool:
    """Whether every connection to the provider whose answer was not complete is closed, at the latest after so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            for exchange in provider.exchanges:
                if not exchange.ended:
                    await exchange.gone.wait()
            return True
    return False
