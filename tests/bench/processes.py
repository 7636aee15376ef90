"""What a process costs, read from Linux' /proc, and `headgate serve` as the benchmark starts it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    pid: int

    def cpu_s(self) -> float:
        """CPU seconds of all its threads so far, with the kernel's nanoseconds. Threads that have exited are not in it."""
        tasks = Path(f"/proc/{self.pid}/task")
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9

    def rss_mb(self) -> float:
        """Resident memory in megabytes (10**6 bytes), shared pages included."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE / 1e6

    def children(self) -> list[Process]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == self.pid:
                found.append(Process(int(stat.parent.name)))
        return found

    def command(self) -> str:
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def pinned(core: int | None, command: Sequence[str]) -> list[str]:
    """The command, kept on one core."""
    return list(command) if core is None else ["taskset", "-c", str(core), *command]


def wait_for_port(port: int, seconds: float = 20) -> None:
    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, seconds, f"nothing listens on port {port}")


def wait_until(condition: Callable[[], bool], seconds: float, problem: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(problem)
        time.sleep(0.005)


@dataclass
class Gateway:
    """`headgate serve` with one worker: its processes, its address, a tenant's key, and how long it took to start."""

    supervisor: Process
    worker: Process
    port: int
    ready_s: float
    answer_s: float
    output: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The chat key of a first start."""
        return next(match[1] for line in self.output if (match := re.search(r"to chat \(shown this once\): (\S+)", line)))


def wait_until_quiet(process: Process, seconds: float = 120) -> None:
    """Until the processes under it (the local models' libraries take a while to load) use next to no CPU."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = {child: child.cpu_s() for child in process.children()}
        time.sleep(1)
        if all(child in before and child.cpu_s() - before[child] < 0.03 for child in process.children()):
            return
    raise TimeoutError("the service does not come to rest")


@contextmanager
def serve(home: Path, config: Path, *, core: int | None, key: str | None, body: bytes) -> Iterator[Gateway]:
    """Serve until the block ends. With a key, the time to the first answered chat is taken; without one, that of the first start's own key."""
    port = free_port()
    command = [sys.executable, "-m", "router.cli", "serve", "--config", str(config), "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "HEADGATE_HOME": str(home), "PYTHONPATH": str(ROOT), "MOCK_API_KEY": "a key for the mock"}
    began = time.monotonic()
    output = home.parent / "serve.out"
    with output.open("w") as out, (home.parent / "serve.log").open("a") as log:
        process = subprocess.Popen(pinned(core, command), env=environment, cwd=home.parent, stdout=out, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: process.poll() is not None or ok(f"http://127.0.0.1:{port}/health/ready"), 60, "not ready after 60 s; see serve.log")
        if process.poll() is not None:
            raise RuntimeError((home.parent / "serve.log").read_text()[-3000:])
        ready_s = time.monotonic() - began
        gateway = Gateway(Process(process.pid), Process(0), port, ready_s, 0.0)
        if key is None:
            wait_until(lambda: "to chat" in output.read_text(), 10, "no key was printed")
        gateway.output = output.read_text().splitlines()
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        wait_until(lambda: ok(url, body, key or gateway.key), 30, "no answer to the first chat; see serve.log")
        gateway.answer_s = time.monotonic() - began
        gateway.worker = next(child for child in gateway.supervisor.children() if "router.worker" in child.command())
        yield gateway
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ok(url: str, body: bytes | None = None, key: str = "") -> bool:
    """Whether a request is answered with 200."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
            answer.read()
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
