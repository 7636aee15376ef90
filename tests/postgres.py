"""A PostgreSQL server for the length of a block, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port

FORGETFUL = ("fsync=off", "full_page_writes=off", "autovacuum=off", "max_connections=200")
"""Settings of a server whose data nobody will miss."""


class NoServer(Exception):
    """PostgreSQL cannot be run here; the message says why."""


def programs() -> Path:
    """The folder of the server's programs. Raises `NoServer`."""
    found = shutil.which("initdb")
    if found is None:
        raise NoServer("PostgreSQL's server programs (initdb, postgres) are not installed")
    return Path(found).resolve().parent


@contextmanager
def postgres(settings: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a fresh server, without a database name; `postgres` is there. `settings` beside those it is installed with. Raises `NoServer`."""
    there, other = programs(), _someone_else()
    folder = Path(tempfile.mkdtemp(prefix="headgate-pg-"))
    if other:
        os.chown(folder, other["user"], other["group"])
    port, data = free_port(), folder / "data"
    try:
        make = [there / "initdb", "-D", data, "-U", "headgate", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **other)
        options = [word for setting in ("listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", *settings) for word in ("-c", setting)]
        server = subprocess.Popen([there / "postgres", "-D", data, "-p", str(port), *options], stderr=subprocess.DEVNULL, cwd=folder, **other)
        try:
            _wait_for(there, port, server)
            yield f"postgresql://headgate@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)  # which does not wait for connections
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(there: Path, port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if subprocess.run([there / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0:
            return
        try:
            server.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError("PostgreSQL did not start")


def _someone_else() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: then it runs as somebody else."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise NoServer("PostgreSQL refuses to run as root, and there is no other user")
