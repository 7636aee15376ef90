"""A gateway worker: serves HTTP on the supervisor's socket. It imports neither torch nor FAISS.

It is started early and imports everything at once, what the policy file's backends need included; then it waits for one line on standard
input (`Orders`), so that its imports run while the supervisor prepares the database. When standard input closes, the supervisor is gone,
and the worker stops as for SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import signal
import socket
import sys
import threading

import msgspec
import structlog
import uvicorn
import uvloop
from msgspec import Struct

from adapters.backend import BackendContext, create_backend
from config.secretfile import load_secret
from config.settings import SettingsError
from policies.load import load_policy
from router.app import create_app
from router.backends import load_kinds
from router.compute.client import ComputeClient
from router.gateway import Gateway
from router.launch import Launch, open_documents, open_state, require_state, socket_path
from router.policy_in_force import known_price
from router.telemetry import configure_logging

log = structlog.get_logger("headgate.worker")

LAST_WORDS_S = 2.0
"""After `shutdown_s` running requests are ended with an error; so long its delivery may take."""


class Orders(Struct, frozen=True):
    """What the supervisor tells a worker. `socket` and `ready` are inherited file descriptors; a byte on `ready` says it serves."""

    worker: str
    instance: str
    launch: Launch
    socket: int
    ready: int
    compute: bool


def main() -> None:
    """Warm up, wait for orders, then serve until told to stop."""
    warm_up(msgspec.json.decode(sys.argv[1], type=Launch))
    line = sys.stdin.buffer.readline()
    if line:
        uvloop.run(serve(msgspec.json.decode(line, type=Orders)))


def warm_up(launch: Launch) -> None:
    """Make the policy file's backends once, for what that imports. What is wrong with the file is the supervisor's to say."""
    with contextlib.suppress(ValueError, OSError):
        settings = launch.settings()
        load_kinds(settings)
        policy = load_policy(launch.text(), launch.config, price_of=known_price)
        for name, backend in policy.backends.items():
            create_backend(name, backend.spec, BackendContext(environ=launch.environ()))


async def serve(orders: Orders) -> None:
    """Serve on the inherited socket; returns after a graceful stop, every settlement done."""
    configure_logging()
    settings = orders.launch.settings()
    load_kinds(settings)
    secret = load_secret(orders.launch.environ(), settings.home).reveal().encode()

    database = open_state(settings)
    try:
        await database.read(require_state)  # one that is started again may find what another release has made of it
    except SettingsError as error:
        log.error("database_refused", worker=orders.worker, reason=str(error))
        await database.aclose()
        return

    async def open_gateway() -> Gateway:
        server.gateway = Gateway(
            settings=settings,
            database=database,
            secret=secret,
            worker=orders.worker,
            instance=orders.instance,
            documents=open_documents(database, settings),
            compute=ComputeClient(socket_path(settings.home)) if orders.compute else None,
            source=orders.launch.config,
            environ=orders.launch.environ(),
        )
        return server.gateway

    app = create_app(open_gateway, max_body_bytes=settings.max_body_mb * 1024 * 1024)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", ws="none", proxy_headers=False, timeout_keep_alive=75)
    config.timeout_graceful_shutdown = math.ceil(settings.shutdown_s + LAST_WORDS_S)
    server = _Server(config, orders.ready, settings.shutdown_s)
    threading.Thread(target=_stop_with_supervisor, daemon=True).start()
    await server.serve(sockets=[socket.socket(fileno=orders.socket)])


class _Server(uvicorn.Server):
    """Tells the supervisor when it serves; when it stops, what still runs after `shutdown_s` is ended with an error event."""

    def __init__(self, config: uvicorn.Config, ready: int, shutdown_s: float) -> None:
        super().__init__(config)
        self._ready = ready
        self._shutdown_s = shutdown_s
        self.gateway: Gateway | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _tune_garbage_collection()
        if self.started:
            os.write(self._ready, b"1")
        os.close(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.gateway is not None:
            self.gateway.shadows.stop()
            asyncio.get_running_loop().call_later(self._shutdown_s, self.gateway.interrupt)
        await super().shutdown(sockets)


def _tune_garbage_collection() -> None:
    """What exists now lives as long as the worker: leave it out, and look for garbage less often. A sixth of the CPU of a request went into that."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _stop_with_supervisor() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not through sys.stdin: a thread inside its lock aborts the interpreter's exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
