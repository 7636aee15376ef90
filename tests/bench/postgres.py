"""A PostgreSQL server for the length of a block, with the settings it is installed with."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import free_port, wait_until


class NoServer(Exception):
    """PostgreSQL cannot be run here; the message says why."""


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database. Raises `NoServer`."""
    found = shutil.which("initdb")
    if found is None:
        raise NoServer("PostgreSQL's server programs (initdb, postgres) are not installed")
    programs, other = Path(found).resolve().parent, _someone_else()
    folder = Path(tempfile.mkdtemp(prefix="headgate-bench-pg-"))
    if other:
        os.chown(folder, other["user"], other["group"])
    port, data = free_port(), folder / "data"
    try:
        make = [programs / "initdb", "-D", data, "-U", "headgate", "--auth=trust", "-E", "UTF8", "--locale=C"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **other)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        server = subprocess.Popen([programs / "postgres", "-D", data, "-p", str(port), *options], stderr=subprocess.DEVNULL, cwd=folder, **other)
        try:
            asked = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            wait_until(lambda: subprocess.run(asked).returncode == 0, 30, "PostgreSQL did not start")
            yield f"postgresql://headgate@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # which does not wait for connections
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
