"""A receiver of alerts on loopback. It checks every signature with the program that the documentation gives to receivers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.docs.reading import blocks, page

SECRET = "a-secret-for-alerts-7Qx2"
Behaviour = Callable[[dict[str, Any]], Awaitable[web.Response]]


def _documented() -> Callable[[str, str, bytes], dict[str, Any]]:
    (program,) = blocks(page("accounting.md"), "python run")
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(program, names)
    verified: Callable[[str, str, bytes], dict[str, Any]] = names["verified"]
    return verified


verified = _documented()


async def take(_event: dict[str, Any]) -> web.Response:
    return web.Response(status=204)


@dataclass
class Receiver:
    """`events` are those whose signature is right, in the order they came; `behaviour` answers them."""

    url: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    forged: int = 0
    elsewhere: int = 0
    behaviour: Behaviour = take

    async def hook(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            event = verified(SECRET, request.headers["x-headgate-signature"], body)
        except (KeyError, ValueError):
            self.forged += 1
            return web.Response(status=400)
        self.events.append(event)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.bodies.append(body)
        return await self.behaviour(event)

    async def other(self, _request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response(status=200)


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """Receive at `url` until the end."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook/path-secret", receiver.hook)
    app.router.add_route("*", "/elsewhere", receiver.other)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook/path-secret"
    try:
        yield receiver
    finally:
        await runner.cleanup()
