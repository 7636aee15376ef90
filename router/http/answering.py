"""One answer, streamed or whole, in any dialect, to a client that may leave at any time."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import structlog
from litestar.types import Receive, Scope, Send

from adapters.collect import Collector
from adapters.errors import BackendError
from router.http.errors import ApiError
from router.pipeline import Exchange
from router.wire.call import Call
from router.wire.dialect import Dialect, Ending, Opening, StreamEncoder
from router.wire.sse import HEADERS

if TYPE_CHECKING:
    from policies.access import Principal
    from router.gateway import Gateway
    from router.moderating import Moderation

log = structlog.get_logger("headgate.chat")


LONGEST_WAIT_S = 86_400
"""The longest `Retry-After` that a client is told: a day."""

_UNPRINTABLE = re.compile(r"[^ -~]")


def backend_failure(error: BackendError, moderation: Moderation) -> ApiError:
    """What a client sees of a backend's failure: its words moderated like an answer. Never raises."""
    headers = {}
    if error.retry_after is not None and math.isfinite(error.retry_after):
        headers["retry-after"] = f"{round(min(max(1, error.retry_after), LONGEST_WAIT_S))}"
    param = None if error.param is None else moderation.message(error.param)
    return ApiError(error.http_status, error.code, moderation.message(error.message), param=param, headers=headers)


def _header(value: str) -> bytes:
    """A header's value: printable ASCII as it is, a question mark for every other character."""
    return _UNPRINTABLE.sub("?", value).encode("ascii")


class AnswerResponse:
    """An ASGI response that runs the exchange itself, so that a client that leaves stops the work within a tick.

    A stream's headers and status wait for the first delta or for `commit_after_s` from the request's start, whichever comes first; from then
    on heartbeats flow and a failure is an error event, also one of the search or the decision. Exactly one terminal event is sent.
    """

    def __init__(self, gateway: Gateway, principal: Principal, call: Call, request_id: str, dialect: Dialect) -> None:
        self._gateway = gateway
        self._principal = principal
        self._call = call
        self._id = request_id
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        exchange = Exchange(gateway, self._principal, self._call, self._id)
        gateway.metrics.active(1)
        work = asyncio.ensure_future(self._answer(exchange, send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not work.done():
                work.cancel()
            try:
                with suppress(asyncio.CancelledError):
                    await work
            finally:
                gateway.metrics.active(-1)
                self._log(exchange, work)
                exchange.close()

    async def _answer(self, exchange: Exchange, send: Send) -> None:
        try:
            if self._call.stream:
                await self._stream(exchange, send)
            else:
                await self._whole(exchange, send)
        except ApiError as error:
            await self._refuse(error, send)
        except BackendError as error:
            await self._refuse(backend_failure(error, exchange.moderation), send)

    async def _refuse(self, error: ApiError, send: Send) -> None:
        self._gateway.metrics.refused(error.code)
        extra = [(name.encode(), _header(value)) for name, value in error.headers.items()]
        await send_whole(send, error.status, self._dialect.refusal(error.detail, error.status, self._id), extra)

    async def _whole(self, exchange: Exchange, send: Send) -> None:
        collector = Collector()
        async with self._gateway.interruptible():
            await exchange.prepare()
            async with aclosing(exchange.events()) as events:
                async for event in events:
                    collector.add(event)
        for finish in exchange.finished:
            collector.add(finish)
        body = self._dialect.whole(self._opening(exchange), collector.result(), _ending(exchange))
        await send_whole(send, 200, body, self._decision_headers(exchange))

    async def _stream(self, exchange: Exchange, send: Send) -> None:
        """Everything runs in this one task; only the heartbeat, which also opens the response when the commit is late, runs beside it."""
        settings = self._gateway.settings
        sender = _EventSender(send, lambda: self._decision_headers(exchange), self._dialect.heartbeat, settings.commit_after_s, settings.heartbeat_s)
        encoder: StreamEncoder | None = None
        try:
            async with self._gateway.interruptible():
                await exchange.prepare()
                async with aclosing(exchange.events()) as events:
                    async for event in events:
                        if encoder is None:
                            encoder = self._dialect.stream(self._opening(exchange))
                            await sender.start()
                        if frames := encoder.event(event):
                            await sender.send(frames)
            await sender.start()
            encoder = encoder or self._dialect.stream(self._opening(exchange))
            last = encoder.end(_ending(exchange))
        except (ApiError, BackendError) as error:
            refusal = error if isinstance(error, ApiError) else backend_failure(error, exchange.moderation)
            if not sender.started:
                raise
            self._gateway.metrics.refused(refusal.code)
            last = self._failure(encoder, refusal, exchange)
        except Exception:
            if not sender.started:
                raise
            log.exception("stream_failed", request_id=self._id)
            failure = ApiError(500, "internal_error", "The service failed; the request id says which log line.")
            last = self._failure(encoder, failure, exchange)
        finally:
            sender.stop()
        await sender.end(last)

    def _opening(self, exchange: Exchange) -> Opening:
        return Opening(self._id, int(exchange.created), exchange.model or self._call.model)

    def _failure(self, encoder: StreamEncoder | None, error: ApiError, exchange: Exchange) -> bytes:
        encoder = encoder or self._dialect.stream(self._opening(exchange))
        return encoder.failure(error.detail, error.status, exchange.headgate() if exchange.decision else None)

    def _decision_headers(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-headgate-policy", _header(str(exchange.active.version)))]
        if exchange.overhead_s is not None:  # a response that opens before the first event does not know it yet
            self._gateway.metrics.overhead(exchange.overhead_s)
            headers.append((b"x-headgate-overhead-ms", f"{exchange.overhead_s * 1000:.1f}".encode()))
        if exchange.rule:
            headers.append((b"x-headgate-rule", _header(exchange.rule)))
        if exchange.backend_name:
            headers += [(b"x-headgate-backend", _header(exchange.backend_name)), (b"x-headgate-model", _header(exchange.model))]
        if exchange.ignored:
            headers.append((b"x-headgate-ignored", _header(",".join(exchange.ignored))))
        return headers

    def _log(self, exchange: Exchange, work: asyncio.Task[None]) -> None:
        outcome = exchange.outcome
        if outcome == "refused":  # nothing says otherwise yet: the settlement of what was ended from outside follows in the background
            outcome = "cancelled" if not work.done() or work.cancelled() else "error" if work.exception() else outcome
        log.info(
            "answered",
            dialect=self._dialect.name,
            request_id=self._id,
            tenant=self._principal.tenant,
            key=self._principal.key_id,
            stream=self._call.stream,
            backend=exchange.backend_name,
            rule=exchange.rule,
            outcome=outcome,
            ms=round((time.perf_counter() - exchange.started) * 1000, 1),
        )


class _EventSender:
    """Sends a stream's frames, and a comment line whenever nothing else was sent for `heartbeat_s`.

    The response opens at `start`, or by itself after `commit_after_s`.
    """

    def __init__(self, send: Send, headers: Callable[[], list[tuple[bytes, bytes]]], heartbeat: bytes, commit_after_s: float, heartbeat_s: float) -> None:
        self._send = send
        self._headers = headers
        self._heartbeat = heartbeat
        self._heartbeat_s = heartbeat_s
        self._last = 0.0
        self._opening = asyncio.Lock()
        self._beating = asyncio.create_task(self._beat(commit_after_s))
        self.started = False

    async def start(self) -> None:
        if self.started:
            return
        async with self._opening:
            if not self.started:
                self.started = True
                self._last = time.monotonic()
                await self._send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *self._headers()]})

    async def send(self, frames: bytes) -> None:
        self._last = time.monotonic()
        await self._send({"type": "http.response.body", "body": frames, "more_body": True})

    async def end(self, frames: bytes) -> None:
        await self._send({"type": "http.response.body", "body": frames, "more_body": False})

    def stop(self) -> None:
        self._beating.cancel()

    async def _beat(self, commit_after_s: float) -> None:
        await asyncio.sleep(commit_after_s)
        if not self.started:
            await self.start()
            await self.send(self._heartbeat)
        while True:
            await asyncio.sleep(max(0.01, self._heartbeat_s - (time.monotonic() - self._last)))
            if time.monotonic() - self._last >= self._heartbeat_s:
                await self.send(self._heartbeat)


def _ending(exchange: Exchange) -> Ending:
    return Ending(tuple(sorted(exchange.finished, key=lambda finish: finish.choice)), exchange.usage, exchange.headgate())


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_whole(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json"), length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
