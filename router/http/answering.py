"""One answer, streamed or whole, in any dialect, to a client that may leave at any time."""

from __future__ import annotations

import asyncio
import math
import re
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog
from litestar.types import Receive, Scope, Send

from adapters.collect import Collector
from adapters.errors import BackendError
from adapters.types import Event
from router.http.errors import FAILED, ApiError, ErrorDetail
from router.http.limiting import limit_headers
from router.http.memory import Memory
from router.http.once import Ended, answer
from router.http.sending import EventSender, send_whole
from router.pipeline import Exchange
from router.wire.call import Call
from router.wire.dialect import Dialect, Ending, Opening, StreamEncoder
from router.wire.headgate import with_headgate

if TYPE_CHECKING:
    from policies.access import Principal
    from router.gateway import Gateway
    from router.moderating import Moderation

log = structlog.get_logger("headgate.chat")


LONGEST_HEADER = 2_000
"""Characters of a header's value: a client may send any number of fields that are named in one."""

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


def header_value(value: str) -> bytes:
    """A header's value: printable ASCII as it is, a question mark for every other character, cut off where clients stop reading headers."""
    return _UNPRINTABLE.sub("?", value[:LONGEST_HEADER]).encode("ascii")


class AnswerResponse:
    """An ASGI response that runs the exchange itself, so that a client that leaves stops the work within a tick.

    A stream's headers and status wait for the first delta or for `commit_after_s` from the request's start, whichever comes first; from then
    on heartbeats flow and a failure is an error event, also one of the search or the decision. Exactly one terminal event is sent.
    """

    def __init__(self, gateway: Gateway, principal: Principal, call: Call, request_id: str, dialect: Dialect, memory: Memory | None = None) -> None:
        self._gateway = gateway
        self._principal = principal
        self._call = call
        self._id = request_id
        self._dialect = dialect
        self._memory = memory
        self._exchange: Exchange | None = None

    @property
    def heartbeat(self) -> bytes:
        return self._dialect.heartbeat

    @property
    def streams(self) -> bool:
        return self._call.stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer(self._gateway, self._principal, self, self._id, scope, receive, send)

    async def run(self, send: Send) -> Ended:
        """Answer, whatever else is done with what is sent. Ended from outside, the work stops within a tick."""
        if self._memory is not None:
            try:
                self._call = await self._memory.recall(self._call)
            except ApiError as error:
                await self.refuse(error, send)
                return Ended(False, error.detail, error.status)
            except Exception:
                log.exception("request_failed", request_id=self._id)
                await self.refuse(FAILED, send)
                return Ended(False, FAILED.detail, FAILED.status)
        exchange = self._exchange = Exchange(self._gateway, self._principal, self._call, self._id)
        self._gateway.metrics.active(1)
        ended: Ended | None = None
        try:
            ended = await self._answer(exchange, send)
            if ended.error is None:
                self._gateway.shadows.offer(exchange)
            return ended
        finally:
            self._gateway.metrics.active(-1)
            outcome = self._log(exchange, ended)
            self._gateway.recorder.note(exchange, self._dialect.name, outcome, None if ended is None or ended.error is None else ended.error.code)
            exchange.close()

    async def _answer(self, exchange: Exchange, send: Send) -> Ended:
        try:
            failure = await (self._stream(exchange, send) if self._call.stream else self._whole(exchange, send))
        except ApiError as error:
            failure = await self.refuse(error, send)
        except BackendError as error:
            failure = await self.refuse(backend_failure(error, exchange.moderation), send, exchange)
        except Exception:
            log.exception("request_failed", request_id=self._id)
            exchange.outcome = "error"
            failure = await self.refuse(FAILED, send)
        spent = exchange.cost > 0 or exchange.usage.total_tokens > 0
        return Ended(spent) if failure is None else Ended(spent, failure.detail, failure.status)

    def refusal(self, error: ErrorDetail, status: int) -> bytes:
        return self._dialect.refusal(error, status, self._id)

    def broken(self, error: ErrorDetail, status: int) -> bytes:
        """The end of a stream that opened and has nothing to say."""
        return self._dialect.stream(Opening(self._id, int(time.time()), self._call.model)).failure(error, status, None)

    async def refuse(self, error: ApiError, send: Send, exchange: Exchange | None = None) -> ApiError:
        """`exchange` is the request where something was tried for it: then the body says what, and what it cost."""
        self._gateway.metrics.refused(error.code)
        extra = [(name.encode(), header_value(value)) for name, value in error.headers.items()] + self._limit_headers()
        body = self.refusal(error.detail, error.status)
        if exchange is not None and exchange.decision is not None:
            body = with_headgate(body, exchange.headgate())
        await send_whole(send, error.status, body, extra)
        return error

    def _limit_headers(self) -> list[tuple[bytes, bytes]]:
        standings = None if self._exchange is None else self._exchange.standings
        return [] if standings is None else limit_headers(standings, anthropic=self._dialect.name == "anthropic.messages")

    async def _whole(self, exchange: Exchange, send: Send) -> None:
        collector = Collector()
        async with self._gateway.interruptible():
            await exchange.prepare(limited=True)
            async with aclosing(exchange.events()) as events:
                async for event in events:
                    collector.add(event)
                    self._note(event)
        for finish in exchange.finished:
            collector.add(finish)
        body = self._dialect.whole(self._opening(exchange), collector.result(), _ending(exchange))
        await self._keep(exchange, body, failed=False)
        await send_whole(send, 200, body, self._decision_headers(exchange))

    async def _stream(self, exchange: Exchange, send: Send) -> ApiError | None:
        """Everything runs in this one task; only the heartbeat, which also opens the response when the commit is late, runs beside it.

        Returns the failure that the stream ended with, once it had opened; raises one that came before.
        """
        settings = self._gateway.settings
        sender = EventSender(send, lambda: self._decision_headers(exchange), self._dialect.heartbeat, settings.commit_after_s, settings.heartbeat_s)
        encoder: StreamEncoder | None = None
        failure: ApiError | None = None
        try:
            async with self._gateway.interruptible():
                await exchange.prepare(limited=True)
                async with aclosing(exchange.events()) as events:
                    async for event in events:
                        if encoder is None:
                            encoder = self._dialect.stream(self._opening(exchange))
                            await sender.start()
                        self._note(event)
                        if frames := encoder.event(event):
                            await sender.send(frames)
            await sender.start()
            encoder = encoder or self._dialect.stream(self._opening(exchange))
            last = encoder.end(_ending(exchange))
        except (ApiError, BackendError) as error:
            failure = error if isinstance(error, ApiError) else backend_failure(error, exchange.moderation)
            if not sender.started:
                raise
            self._gateway.metrics.refused(failure.code)
            last = self._failure(encoder, failure, exchange)
        except Exception:
            if not sender.started:
                raise
            log.exception("stream_failed", request_id=self._id)
            failure = FAILED
            last = self._failure(encoder, failure, exchange)
        finally:
            sender.stop()
        await self._keep(exchange, last, failed=failure is not None)
        await sender.end(last)
        return failure

    async def _keep(self, exchange: Exchange, said: bytes, *, failed: bool) -> None:
        """What was paid for is kept whole, also where the client leaves meanwhile; what cannot be kept holds up no answer."""
        if self._memory is None:
            return
        try:
            await asyncio.shield(self._gateway.background(self._memory.keep(exchange, said, failed=failed)))
        except Exception:
            log.exception("answer_not_kept", request_id=self._id)

    def _note(self, event: Event) -> None:
        if self._memory is not None:
            self._memory.note(event)

    def _opening(self, exchange: Exchange) -> Opening:
        return Opening(self._id, int(exchange.created), exchange.model or self._call.model)

    def _failure(self, encoder: StreamEncoder | None, error: ApiError, exchange: Exchange) -> bytes:
        encoder = encoder or self._dialect.stream(self._opening(exchange))
        return encoder.failure(error.detail, error.status, exchange.headgate() if exchange.decision else None)

    def _decision_headers(self, exchange: Exchange) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-headgate-policy", header_value(str(exchange.active.version))), *self._limit_headers()]
        if exchange.overhead_s is not None:  # a response that opens before the first event does not know it yet
            self._gateway.metrics.overhead(exchange.overhead_s)
            headers.append((b"x-headgate-overhead-ms", f"{exchange.overhead_s * 1000:.1f}".encode()))
        if exchange.rule:
            headers.append((b"x-headgate-rule", header_value(exchange.rule)))
        if exchange.backend_name:
            headers += [(b"x-headgate-backend", header_value(exchange.backend_name)), (b"x-headgate-model", header_value(exchange.model))]
        if exchange.clamped is not None:
            headers.append((b"x-headgate-clamped", f"max_output_tokens={exchange.clamped}".encode()))
        if exchange.history:
            headers.append((b"x-headgate-history", header_value("; ".join(f"{name}={value}".lower() for name, value in exchange.history.items()))))
        if exchange.ignored:
            headers.append((b"x-headgate-ignored", header_value(",".join(exchange.ignored))))
        return headers

    def _log(self, exchange: Exchange, ended: Ended | None) -> str:
        """Log the answer; returns how it ended."""
        outcome = exchange.outcome
        if outcome == "refused" and ended is None:  # nothing says otherwise yet: the settlement of what was ended from outside follows in the background
            outcome = "cancelled"
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
        return outcome


def _ending(exchange: Exchange) -> Ending:
    finished = tuple(sorted(exchange.finished, key=lambda finish: finish.choice))
    tier = None if exchange.attempt is None else exchange.attempt.record.service_tier
    return Ending(finished, exchange.usage, exchange.headgate(), tier)
