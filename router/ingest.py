"""The ingest process: indexes uploaded files one after the other, embedding them in the compute process.

Apart from the others because a file is a stranger's input: what a parser does with it can harm this process only, which is restarted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

import structlog

from config.settings import SettingsError
from router.compute.blocking import BlockingEmbedder
from router.launch import Launch, open_ingestor, open_state, require_state, socket_path
from router.telemetry import configure_logging

POLL_S = 0.2
log = structlog.get_logger("headgate.ingest")


def main() -> None:
    """Index what waits until standard input closes or SIGTERM comes; the file being indexed then is finished first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--started", default="")
    arguments = parser.parse_args()
    launch = Launch(config=arguments.config, started=arguments.started)
    configure_logging()
    settings = launch.settings()

    database = open_state(settings)
    try:
        database.read_blocking(require_state)
    except SettingsError as error:
        log.error("database_refused", reason=str(error))
        database.close()
        return
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())

    def stop_with_supervisor() -> None:
        while os.read(sys.stdin.fileno(), 4096):  # not through sys.stdin: a thread inside its lock aborts the interpreter's exit
            pass
        stopping.set()

    threading.Thread(target=stop_with_supervisor, daemon=True).start()
    with BlockingEmbedder(socket_path(settings.home), stopping=stopping) as embedder:
        ingestor = open_ingestor(database, settings, embedder)
        while not stopping.is_set():
            try:
                if ingestor.run_once():
                    continue
            except Exception:
                log.exception("ingest_failed")
            stopping.wait(POLL_S)
    database.close()


if __name__ == "__main__":
    main()
