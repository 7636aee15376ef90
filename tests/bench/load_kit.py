"""The load kit: a mock upstream and a load generator in C, compiled for this run from a folder that is not part of the project.

The folder holds `mock.c`, `loadgen.c`, `variants.py`, `body.json` and `body_s.json` (`docs/benchmarks.md` says what each must do). Everything
here runs on the load's core.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.processes import Process, pinned, wait_for_port
from tests.ports import free_port

FILES = ("mock.c", "loadgen.c", "variants.py", "body.json", "body_s.json")


class Missing(Exception):
    """What the benchmark needs and this machine lacks."""


class LoadKit:
    """The compiled programs. `source` is the kit's folder, `folder` a temporary one; `core` is where they run."""

    def __init__(self, source: Path, folder: Path, core: int) -> None:
        absent = [name for name in FILES if not (source / name).is_file()]
        if absent:
            raise Missing(f"the load kit is not in {source} (missing: {', '.join(absent)}); give its folder with --kit")
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise Missing("no C compiler: install cc, or name one in CC")
        for program in ("mock", "loadgen"):
            subprocess.run([compiler, "-O2", "-w", "-o", str(folder / program), str(source / f"{program}.c")], check=True)
        self.source = source
        self.folder = folder
        self.core = core

    @contextmanager
    def upstream(self) -> Iterator[int]:
        """The mock upstream's port."""
        port = free_port()
        process = subprocess.Popen(pinned(self.core, [str(self.folder / "mock"), "-p", str(port)]))
        try:
            wait_for_port(port)
            yield port
        finally:
            process.kill()
            process.wait()

    def body(self, *, stream: bool, directive: str = "") -> Path:
        """A request body: about a kilobyte, for `auto`. `directive` tells the mock how to answer, as in `mock-n100-g10-`."""
        body = json.loads((self.source / ("body_s.json" if stream else "body.json")).read_text())
        body["model"] = "auto"
        if directive:
            body["messages"][-1]["content"] += " " + directive
        path = self.folder / f"body-{int(stream)}-{directive}.json"
        path.write_text(json.dumps(body))
        return path

    def load(
        self,
        port: int,
        body: Path,
        *,
        connections: int,
        seconds: float,
        headers: dict[str, str],
        rate: float | None = None,
        chunks: int | None = None,
    ) -> Any:
        """One run of the load generator.

        Without `rate` every connection sends its next request as soon as it was answered; with it, requests start on a fixed schedule and
        latency counts from there. Raises `RuntimeError` where anything but an answer came.
        """
        command = [str(self.folder / "loadgen"), "-u", f"127.0.0.1:{port}", "-p", "/v1/chat/completions", "-B", str(body), "-w", "0"]
        command += ["-c", str(connections), "-d", str(seconds)]
        for name, value in headers.items():
            command += ["-H", f"{name}: {value}"]
        if rate is not None:
            command += ["-r", str(rate)]
        if chunks is not None:
            command += ["-x", str(chunks)]
        done = subprocess.run(pinned(self.core, command), capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        if result["errors"] or result.get("short_streams"):
            raise RuntimeError(f"{result['errors']} errors and {result.get('short_streams')} short streams: {done.stdout}")
        return result

    @contextmanager
    def bare(self, variant: str, upstream: int, core: int) -> Iterator[tuple[Process, int]]:
        """A proxy of few layers without any feature, as the figure to compare with."""
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(self.source), "--port", str(port)]
        command += ["--no-access-log", "--log-level", "error", "variants:app"]
        environment = {**os.environ, "VARIANT": variant, "UPSTREAM": f"http://127.0.0.1:{upstream}"}
        started = subprocess.Popen(pinned(core, command), env=environment)
        try:
            wait_for_port(port)
            time.sleep(0.5)
            yield Process(started.pid), port
        finally:
            started.terminate()
            started.wait()
