"""`python -m router.compute --socket PATH --config FILE`: the compute process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

import adapters.llama  # noqa: F401 - registers the kind whose tables arrive over the socket
from adapters.embedding import Embedder
from config.settings import Settings, import_plugins
from router.compute.server import ComputeServer
from router.compute.services import Search, Services
from router.launch import Launch, open_state
from router.telemetry import configure_logging

log = structlog.get_logger("headgate.compute")


def main() -> None:
    """Serve until SIGTERM (or SIGINT at a terminal), or until standard input closes where it is a pipe: then whoever started this is gone."""
    parser = argparse.ArgumentParser(prog="python -m router.compute", description="Embedding, search and local models behind a Unix socket.")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen")
    parser.add_argument("--config", required=True, help="the policy file, for its settings")
    parser.add_argument("--started", default="", help="a copy of it, from which the settings are read in its place")
    arguments = parser.parse_args()
    configure_logging()
    settings = Launch(config=arguments.config, started=arguments.started).settings()
    import_plugins(settings.plugins)
    try:
        asyncio.run(serve(arguments.socket, settings))
    except OSError as error:
        sys.exit(f"router.compute: {error}")


async def serve(path: Path, settings: Settings) -> None:
    """Returns after a graceful stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Under a supervisor, Ctrl-C in its terminal reaches this process too; it must go on until the workers have finished.
    loop.add_signal_handler(signal.SIGINT, (lambda: None) if _supervised() else stop.set)

    def stop_soon() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(stop.set)

    _watch_parent(stop_soon)
    services = open_services(settings)
    await ComputeServer(services, shutdown_s=settings.shutdown_s).serve(path, stop)
    # A thread in the middle of loading or embedding cannot be told to stop, and nobody waits for it any longer.
    closing = threading.Thread(target=services.close, daemon=True)
    closing.start()
    await asyncio.to_thread(closing.join, settings.shutdown_s)
    if closing.is_alive():
        log.warning("stopped_in_the_middle")
        os._exit(0)


def open_services(settings: Settings) -> Services:
    """The services of an installation. Nothing is loaded yet, and an extra that is not installed is missed only when it is needed."""

    def open_embedder() -> Embedder:
        from adapters.embedding import SentenceEmbedder

        return SentenceEmbedder(settings.embedder_model)

    def open_search(embedder: Embedder) -> Search:
        from retrieval.search import Searcher

        return Searcher(open_state(settings), embedder).search

    return Services(open_embedder, open_search)


def _watch_parent(gone: Callable[[], None]) -> None:
    """Call `gone` when standard input, a pipe held by the supervisor, closes. A terminal or a file says nothing about a supervisor."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        gone()

    if _supervised():
        threading.Thread(target=wait, name="headgate-parent", daemon=True).start()


def _supervised() -> bool:
    return sys.stdin is not None and stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)


if __name__ == "__main__":
    main()
