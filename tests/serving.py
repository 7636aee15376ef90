"""Running Headgate in tests: in this process on a real socket (quick), or whole, with all its processes (`headgate serve`)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import uvicorn

from config.database import Database, open_database
from config.settings import Settings, load_settings
from router import policy_store
from router.app import create_app
from router.backends import load_kinds
from router.gateway import Compute, Gateway
from router.identity.keys import create_key
from router.identity.tenants import PLATFORM, create_tenant, list_tenants
from router.launch import migrate_state, open_documents
from tests.conftest import migrated_sqlite

SECRET = b"a secret of the tests, long enough"
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Service:
    """A gateway worker in this process. `key` belongs to tenant acme, `other_key` to globex, `admin_key` to the platform."""

    url: str
    gateway: Gateway
    database: Database
    key: str
    other_key: str
    admin_key: str

    def bearer(self, key: str | None = None) -> dict[str, str]:
        return {"authorization": f"Bearer {key or self.key}"}


@asynccontextmanager
async def serving(
    policy: str,
    home: Path,
    *,
    database_url: str | None = None,
    compute: Compute | None = None,
    environ: Mapping[str, str] | None = None,
    worker: str = "worker-1",
) -> AsyncIterator[Service]:
    """Serve a policy on a free loopback port; everything is settled and closed on the way out."""
    source = home / "headgate.yaml"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(policy)
    settings = load_settings({"HEADGATE_HOME": str(home)}, policy, str(source))
    load_kinds(settings)
    database = await asyncio.to_thread(_opened, settings, database_url)
    keys: dict[str, str] = {}

    def prepare(connection: Any) -> None:
        policy_store.import_file(connection, policy)
        for tenant in ("acme", "globex"):
            if tenant not in {row["name"] for row in list_tenants(connection)}:
                create_tenant(connection, tenant)
            keys[tenant] = create_key(connection, SECRET, tenant=tenant, role="owner").key
        keys["platform"] = create_key(connection, SECRET, tenant=PLATFORM, role="operator").key

    await database.write(prepare)
    gateway = Gateway(
        settings=settings,
        database=database,
        secret=SECRET,
        worker=worker,
        instance="test",
        documents=open_documents(database, settings),
        compute=compute,
        source=str(source),
        environ=environ or {},
    )

    largest = settings.max_body_mb * 2**20
    app = _idle[largest].pop() if _idle[largest] else _App(largest)
    app.gateway = gateway
    server = uvicorn.Server(
        uvicorn.Config(
            app.asgi, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="on", ws="none", proxy_headers=False, timeout_graceful_shutdown=2
        )
    )
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    running = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started or running.done())
        if running.done():
            await running
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Service(f"http://127.0.0.1:{port}", gateway, database, keys["acme"], keys["globex"], keys["platform"])
    finally:
        server.should_exit = True
        await running
        _idle[largest].append(app)


class _App:
    """The application, which takes longer to make than most tests: made once, and used again. `gateway` is that of the service that runs it."""

    def __init__(self, max_body_bytes: int) -> None:
        self.gateway: Gateway | None = None
        self.asgi = create_app(self._open, max_body_bytes=max_body_bytes)

    async def _open(self) -> Gateway:
        assert self.gateway is not None
        return self.gateway


_idle: defaultdict[int, list[_App]] = defaultdict(list)
"""Applications that no service runs, by the largest body they take."""


def _opened(settings: Settings, database_url: str | None) -> Database:
    """The database, migrated. A new SQLite file begins as a copy of one that was migrated before."""
    path = settings.home / "headgate.db"
    if database_url is None and settings.database_url is None and not path.exists():
        path.write_bytes(migrated_sqlite())
        return open_database(settings.database)
    database = open_database(database_url or settings.database)
    migrate_state(database)
    return database


@contextmanager
def _no_signals() -> Iterator[None]:
    yield


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait until the condition holds, looking at every turn of the loop's clock; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Serve:
    """`headgate serve`, all its processes."""

    process: subprocess.Popen[str]
    home: Path
    url: str = ""
    output: list[str] = field(default_factory=list)

    @property
    def keys(self) -> dict[str, str]:
        """The keys printed at the first start: `admin` and `chat`."""
        found = {}
        for line in self.output:
            if match := re.search(r"to (administer|chat) \(shown this once\): (\S+)", line):
                found["admin" if match[1] == "administer" else "chat"] = match[2]
        return found


def environment(home: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "HEADGATE_HOME": str(home), "PYTHONPATH": str(ROOT), **variables}


def headgate(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "router.cli", *arguments], env=environment(home, **variables), cwd=home, capture_output=True, text=True, timeout=120
    )


def headgate_json(home: Path, *arguments: str, **variables: str) -> Any:
    done = headgate(home, *arguments, "--json", **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _read(stream: IO[str], seconds: float) -> str:
    """What comes within so many seconds, past Python's own buffer (of which `select` knows nothing)."""
    ready = seconds > 0 and select.select([stream], [], [], seconds)[0]
    return os.read(stream.fileno(), 65536).decode() if ready else ""


WITHOUT_MODELS = "import sys\nsys.modules.update(dict.fromkeys(('sentence_transformers', 'transformers', 'faiss')))\n"
"""As a `sitecustomize` module: the base package without its extras, which takes a fifth of the CPU to start."""


@contextmanager
def served(home: Path, *arguments: str, ready_s: float = 60, models: bool = True, **variables: str) -> Iterator[Serve]:
    """Start `headgate serve --port 0`, wait until it is ready; SIGTERM at the end, unless it is gone by then.

    `models=False` starts it as it is installed without the extras: workers only.
    """
    home.mkdir(parents=True, exist_ok=True)
    if not models:
        base = home / "base"
        base.mkdir(exist_ok=True)
        (base / "sitecustomize.py").write_text(WITHOUT_MODELS)
        variables["PYTHONPATH"] = f"{base}{os.pathsep}{ROOT}"
    errors = (home / "stderr.log").open("a")
    process = subprocess.Popen(
        [sys.executable, "-m", "router.cli", "serve", "--port", "0", *arguments],
        env=environment(home, **variables),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )
    serve = Serve(process, home)
    try:
        assert process.stdout is not None
        end = time.monotonic() + ready_s
        said = ""
        while not (match := re.search(r"ready on (\S+)\n", said)):
            if not (more := _read(process.stdout, end - time.monotonic())):
                raise AssertionError(f"headgate serve did not get ready: {(home / 'stderr.log').read_text()[-3000:]}")
            said += more
        while more := _read(process.stdout, 0.2):
            said += more
        serve.url = match[1]
        serve.output += said.splitlines(keepends=True)
        yield serve
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
        errors.close()
