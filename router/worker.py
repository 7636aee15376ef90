"""A gateway worker: serves HTTP on the supervisor's socket. It imports neither torch nor FAISS.

It is started early and imports everything at once; then it waits for one line on standard input (`Orders`), so that its imports run while
the supervisor prepares the database. When standard input closes, the supervisor is gone, and the worker stops as for SIGTERM.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

import msgspec
import uvicorn
import uvloop
from msgspec import Struct

from config.secretfile import load_secret
from router.app import create_app
from router.backends import load_kinds
from router.compute.client import ComputeClient
from router.gateway import Gateway, socket_path
from router.launch import Launch, open_documents, open_state
from router.telemetry import configure_logging


class Orders(Struct, frozen=True):
    """What the supervisor tells a worker. `socket` and `ready` are inherited file descriptors; a byte on `ready` says it serves."""

    worker: str
    instance: str
    launch: Launch
    socket: int
    ready: int
    compute: bool


def main() -> None:
    """Wait for orders, then serve until told to stop."""
    line = sys.stdin.buffer.readline()
    if line:
        uvloop.run(serve(msgspec.json.decode(line, type=Orders)))


async def serve(orders: Orders) -> None:
    """Serve on the inherited socket; returns after a graceful stop, every settlement done."""
    configure_logging()
    settings = orders.launch.settings()
    load_kinds(settings)
    secret = load_secret(orders.launch.environ(), settings.home).reveal().encode()

    async def open_gateway() -> Gateway:
        database = open_state(settings)
        return Gateway(
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

    app = create_app(open_gateway, max_body_bytes=settings.max_body_mb * 1024 * 1024)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=int(settings.shutdown_s), timeout_keep_alive=75)
    server = _Server(config, orders.ready)
    threading.Thread(target=_stop_with_supervisor, daemon=True).start()
    await server.serve(sockets=[socket.socket(fileno=orders.socket)])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: int) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            os.write(self._ready, b"1")
        os.close(self._ready)


def _stop_with_supervisor() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
