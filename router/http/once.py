"""An inbound `Idempotency-Key`: a request sent again gets the first one's answer, byte for byte, and is billed once.

The first request runs to its end whether or not its client stays, bounded by the backend's own limits, so that the retry finds it. What a
client gets last goes out only once the answer is kept: whoever has seen an end gets the same answer again.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog
from litestar import Request
from litestar.types import Message, Receive, Scope, Send
from msgspec import Struct

from policies.access import Scopes, scopes_of
from router.gateway import SHUTTING_DOWN
from router.http.connected import while_connected
from router.http.errors import FAILED, ApiError, ErrorDetail
from router.http.limiting import PREFIXES
from router.http.sending import EventSender
from router.kept.idempotency import Claim, KeptAnswer, Keyed, Mine, Mismatch, Running, keyed
from router.money.insisting import insist

if TYPE_CHECKING:
    from policies.access import Principal
    from router.gateway import Gateway

log = structlog.get_logger("headgate.once")

HEADER = b"idempotency-key"
REPLAYED = (b"idempotency-replayed", b"true")
LONGEST_KEY = 255
FIRST_LOOK_S, LONGEST_LOOK_S = 0.02, 0.5
"""How often a request looks whether the one before it has been answered."""

KEEPING_S = 5.0
"""How long the end of an answer waits for a database that does not take it."""

LARGEST_ANSWER = 32 * 2**20
"""Bytes, compressed, of an answer that is kept."""


class Ended(Struct, frozen=True):
    """How an answer ended: `spent` says that tokens or money were, `error` what the client was told where it failed."""

    spent: bool
    error: ErrorDetail | None = None
    status: int = 200


class Answering(Protocol):
    """What answers one request. `run` sends a whole response; `broken` is the end of a stream that fails after its start."""

    @property
    def heartbeat(self) -> bytes: ...

    @property
    def streams(self) -> bool: ...

    async def run(self, send: Send) -> Ended: ...

    async def refuse(self, error: ApiError, send: Send) -> object: ...

    def refusal(self, error: ErrorDetail, status: int) -> bytes: ...

    def broken(self, error: ErrorDetail, status: int) -> bytes: ...


async def keyed_request(gateway: Gateway, principal: Principal, scope: Scope, receive: Receive) -> Keyed | None:
    """The request's key with what it stands for; None without the header. Raises `ApiError` 400 for a key that cannot be one."""
    value = next((value for name, value in scope["headers"] if name == HEADER), None)
    if value is None:
        return None
    key = value.decode("latin-1").strip()
    if not 1 <= len(key) <= LONGEST_KEY:
        raise ApiError(400, "invalid_request", f"Idempotency-Key: must have 1 to {LONGEST_KEY} characters.", param="Idempotency-Key")
    return keyed(principal.tenant, scope["path"], key, await Request(scope, receive).body(), _reach(principal), principal.user)


def _reach(principal: Principal) -> str:
    """What narrows the key that asks, as text: a narrowed key never gets the answer that another was given. Empty for one that nothing narrows."""
    scopes = msgspec.structs.replace(scopes_of(principal), networks=None)
    return "" if scopes == Scopes() else msgspec.json.encode(scopes).decode()


async def answer(gateway: Gateway, principal: Principal, answering: Answering, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer while the client is there; a request with a key once, whether or not it is."""
    try:
        request = await keyed_request(gateway, principal, scope, receive)
    except ApiError as error:
        await answering.refuse(error, send)
        return
    await while_connected(receive, _without_key(answering, send) if request is None else Once(gateway, answering, request, request_id, send).answer())


async def _without_key(answering: Answering, send: Send) -> None:
    await answering.run(send)


class Once:
    """One request with a key, from its claim to the last byte."""

    def __init__(self, gateway: Gateway, answering: Answering, request: Keyed, request_id: str, send: Send) -> None:
        self._gateway = gateway
        self._answering = answering
        self._request = request
        self._id = request_id
        self._client = _Client(send, answering)

    async def answer(self) -> None:
        """Run the request, or wait for the one that runs and repeat its answer.

        Cancelled (the client left), a run goes on in the background.
        """
        settings, client = self._gateway.settings, self._client
        pause = FIRST_LOOK_S
        try:
            while isinstance(claim := await asyncio.shield(self._gateway.background(self._step())), Running):
                client.wait(settings.commit_after_s, settings.heartbeat_s)
                async with self._gateway.interruptible():
                    await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_LOOK_S)
            if isinstance(claim, Mismatch):
                message = "This Idempotency-Key was sent with another body. Send a new key with a new request, and the same body with a retry."
                raise ApiError(422, "idempotency_mismatch", message, param="Idempotency-Key")
            if isinstance(claim, KeptAnswer):
                log.info("replayed", request_id=self._id, tenant=self._request.tenant)
                await client.replay(claim)
        except ApiError as error:
            await self._refuse(error)
        except Exception:  # the database does not take the claim, say: this too ends in the dialect's words, and no stream silently
            if client.begun and not client.opened:  # half an answer went out: the connection ends without its end
                raise
            log.exception("request_failed", request_id=self._id)
            await self._refuse(FAILED)
        finally:
            client.leave()

    async def _refuse(self, error: ApiError) -> None:
        if self._client.opened:
            await self._client.end(self._answering.broken(error.detail, error.status))
        else:
            self._client.rest()
            await self._answering.refuse(error, self._client.send)

    async def _step(self) -> Claim:
        """Claim the record; where it is this request's, run it to its end. Claim and run are one task: a record that is claimed is answered."""
        claim = await self._gateway.idempotency.claim(self._request, self._id)
        if isinstance(claim, Mine):
            self._client.rest()
            await self._run()
        return claim

    async def _run(self) -> None:
        recorder = _Recorder(self._client, self._answering)
        ended: Ended | None = None
        try:
            ended = await self._answering.run(recorder.send)
        finally:
            if ended is not None and _lasts(ended):
                saving = self._gateway.background(self._keep(recorder.answer(ended)))
            else:
                saving = self._gateway.background(insist(self._forget, self._id))
            await asyncio.wait([saving], timeout=KEEPING_S)
        await recorder.finish(ended)

    async def _keep(self, answer: KeptAnswer) -> None:
        records = self._gateway.idempotency
        await insist(lambda: records.keep(self._request, self._id, answer), self._id, otherwise=self._forget)

    async def _forget(self) -> None:
        await self._gateway.idempotency.forget(self._request, self._id)


def _lasts(ended: Ended) -> bool:
    """Whether a retry gets this answer too. What a stop of the service ended runs anew, as it does after a worker's death."""
    return ended.error is None or (ended.spent and ended.error.code != SHUTTING_DOWN)


class _Client:
    """The client, while it is there. A stream that waited long has opened (status 200) before anybody knew how it ends."""

    def __init__(self, send: Send, answering: Answering) -> None:
        self._send: Send | None = send
        self._answering = answering
        self._beating: EventSender | None = None
        self.begun = False
        """Whether a status has gone out."""

    @property
    def opened(self) -> bool:
        return self._beating is not None and self._beating.started

    def wait(self, commit_after_s: float, heartbeat_s: float) -> None:
        """Keep a stream alive from now on."""
        if self._answering.streams and self._beating is None:
            self._beating = EventSender(self.send, list, self._answering.heartbeat, commit_after_s, heartbeat_s)

    def rest(self) -> None:
        """The waiting is over: no heartbeat comes between what is sent from now on."""
        if self._beating is not None:
            self._beating.stop()

    def leave(self) -> None:
        self.rest()
        self._send = None

    async def send(self, message: Message) -> None:
        self.begun = True
        if self._send is not None:
            await self._send(message)

    async def end(self, frames: bytes) -> None:
        self.rest()
        await self.send({"type": "http.response.body", "body": frames, "more_body": False})

    async def replay(self, answer: KeptAnswer) -> None:
        self.rest()
        if self.opened and answer.status != 200 and answer.error is not None:
            await self.end(self._answering.broken(answer.error, answer.status))
            return
        if not self.opened:
            await self.send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, REPLAYED]})
        await self.end(zlib.decompress(answer.body))


class _Recorder:
    """Hands an answer on and remembers it. The last message waits for `finish`; so does a refusal that comes into an open stream."""

    def __init__(self, client: _Client, answering: Answering) -> None:
        self._client = client
        self._answering = answering
        self._status = 0
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        self._packer = zlib.compressobj(level=1)
        self._packed: list[bytes] = []
        self._size = 0
        self._last: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], tuple((bytes(name), bytes(value)) for name, value in message["headers"])
            if not self._client.opened:
                await self._client.send(message)
        elif message["type"] == "http.response.body":
            self._pack(self._packer.compress(message["body"]))
            if not message["more_body"]:
                self._last = message
            else:
                await self._client.send(message)

    def _pack(self, packed: bytes) -> None:
        self._size += len(packed)
        if self._size <= LARGEST_ANSWER:
            self._packed.append(packed)
        else:
            self._packed.clear()

    def answer(self, ended: Ended) -> KeptAnswer:
        """The answer as it is kept. One that is too large leaves a refusal behind: a retry must not be billed again."""
        self._pack(self._packer.flush())
        if self._size <= LARGEST_ANSWER:
            lasting = tuple(header for header in self._headers if not header[0].startswith(PREFIXES))  # how limits stood is not how they stand
            return KeptAnswer(self._status, lasting, b"".join(self._packed), ended.error)
        error = ApiError(422, "idempotent_answer_too_large", "This request was answered, and its answer was too large to be kept for a retry. Send a new key.")
        body = self._answering.refusal(error.detail, error.status)
        headers = ((b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()))
        return KeptAnswer(error.status, headers, zlib.compress(body), error.detail)

    async def finish(self, ended: Ended) -> None:
        if self._last is None:
            return
        if self._client.opened and self._status != 200 and ended.error is not None:
            await self._client.end(self._answering.broken(ended.error, ended.status))
        else:
            await self._client.send(self._last)
