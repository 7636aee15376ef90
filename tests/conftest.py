"""Shared by all tests: no outside network, real databases, small helpers to wait without sleeping."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import pytest

from tests.postgres import FORGETFUL, NoServer, postgres, programs

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # several processes of tests share few cores, and threads that wait for each other spin
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the processes that tests start, hundreds, would each compile the product anew
for name in [name for name in os.environ if name.endswith("_API_KEY") or name.startswith("HEADGATE_")]:
    if name != "HEADGATE_TEST_LONG":
        del os.environ[name]

LONG = os.environ.get("HEADGATE_TEST_LONG") == "1"
hypothesis.settings.register_profile("short", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("long", max_examples=1000, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("long" if LONG else "short")
"""The short form tries the same examples every time, the long one ten times as many new ones. A slow machine fails nothing."""

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
LOCAL = ("127.", "::1", "localhost", "0.0.0.0")

TOGETHER = {
    "tests/adapters/embedders/": "models",
    "tests/adapters/llama/": "models",
    "tests/adapters/test_embedding.py": "models",
    "tests/contract/test_contract.py::*[llama-": "models",
    "tests/docs/test_examples.py::test_every_shell_": "examples",
    "tests/docs/test_examples.py::test_the_first_": "examples",
    "tests/docs/test_examples.py::test_the_python_": "examples",
    "tests/e2e/test_changing_provider.py::test_a_": "models",
    "tests/e2e/test_fault_table.py": "fault table",
    "tests/e2e/test_whole_service.py": "whole service",
    "tests/retrieval/": "models",
    "tests/router/cli/test_with_server.py": "with server",
    "tests/router/compute/": "models",
    "tests/router/http/test_access_matrix.py": "access matrix",
    "tests/router/http/test_documents_api.py": "models",
    "tests/router/http/test_embeddings.py": "models",
}
"""Tests that share what takes long to start or to load (a service, torch with a model), by the beginning of their ids: one process runs a group."""


def _group(nodeid: str) -> str | None:
    for beginning, group in TOGETHER.items():
        before, star, after = beginning.partition("*")
        if nodeid.startswith(before) and (not star or after in nodeid):
            return group
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each process gets the next test when it has done one; groups, which are the longest, come first. (xdist's own groups do not work with pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid) or nodeid

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `long` take minutes: they run where they are asked for."""
    if not LONG:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: set HEADGATE_TEST_LONG=1"))


class OutsideConnection(RuntimeError):
    """A test tried to leave this machine."""


def _stay_home(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: any connection or name look-up that is not this machine's is an error."""
    if event == "socket.connect" and arguments[0].family in (socket.AF_INET, socket.AF_INET6):
        host = str(arguments[1][0])
    elif event == "socket.getaddrinfo":
        host = str(arguments[0] or "127.0.0.1")
    else:
        return
    if not host.startswith(LOCAL):
        raise OutsideConnection(f"tests run offline, and this one wanted {host}")


sys.addaudithook(_stay_home)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Evaluation data and recorded traffic; tests that need them are skipped where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the shared evaluation data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server of this session's own, on loopback: its URL without a database name."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres(FORGETFUL))
        except NoServer as error:
            pytest.skip(str(error))
        yield url


def _create(server: str, template: str | None = None) -> str:
    """The URL of a new database, a copy of `template` where one is named."""
    name = f"test_{uuid4().hex}"
    _on_server(server, "createdb", name, *(("--template", template) if template else ()))
    return f"{server}/{name}"


def _drop(url: str) -> None:
    server, _, name = url.rpartition("/")
    _on_server(server, "dropdb", "--force", name)


def _on_server(server: str, program: str, *arguments: str) -> None:
    subprocess.run([programs() / program, "-h", "127.0.0.1", "-p", server.rpartition(":")[2], "-U", "headgate", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """The name of a database with the product's tables, to be copied: that takes a tenth of the time that making them takes."""
    from config.database import open_database
    from router.launch import migrate_state

    url = _create(postgres_server)
    database = open_database(url)
    migrate_state(database)
    database.close()
    return url.rpartition("/")[2]


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A database with the product's tables and nothing in them."""
    url = _create(postgres_server, postgres_template)
    yield url
    _drop(url)


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """A database without tables."""
    url = _create(postgres_server)
    yield url
    _drop(url)


@cache
def migrated_sqlite() -> bytes:
    """The file of an SQLite database with the product's tables and nothing in them."""
    from config.database import open_database
    from router.launch import migrate_state

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "headgate.db"
        database = open_database(f"sqlite:///{path}")
        migrate_state(database)
        database.close()
        with closing(sqlite3.connect(path)) as connection:
            # Connections that close in the same moment each take another for the last one, and then what was written stays in the log beside the file.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of either kind, with the product's tables and nothing in them."""
    if request.param == "sqlite":
        path = tmp_path / "headgate.db"
        path.write_bytes(migrated_sqlite())
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=KINDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of either kind, without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'headgate.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url
