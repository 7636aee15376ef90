"""`headgate serve` and its processes: how they start again, stop, and outlive nobody."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.serving import Serve, headgate, served

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello."}
default: mini
fallback: []
"""


def wait(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def children(serve: Serve) -> list[psutil.Process]:
    return psutil.Process(serve.process.pid).children(recursive=True)


def named(serve: Serve, module: str) -> list[psutil.Process]:
    return [child for child in children(serve) if module in " ".join(child.cmdline())]


def log_of(home: Path) -> str:
    return (home / "stderr.log").read_text()


def chat(serve: Serve) -> str:
    answer = httpx2.post(
        f"{serve.url}/v1/chat/completions",
        json={"model": "auto", "messages": [{"role": "user", "content": "Hi"}]},
        headers={"authorization": f"Bearer {serve.keys['chat']}"},
    )
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def write_policy(home: Path, text: str = POLICY) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    path = home / "headgate.yaml"
    path.write_text(text)
    return path


def test_a_stop_ends_every_process_in_order_and_none_by_a_crash(tmp_path: Path) -> None:
    with served(tmp_path, "--config", str(write_policy(tmp_path)), "--workers", "2") as serve:
        wait(lambda: bool(named(serve, "router.ingest")), "the ingest process starts")
        everybody = children(serve)
        assert len(named(serve, "router.worker")) == 2
        assert chat(serve) == "Hello."
        serve.process.send_signal(signal.SIGTERM)
        assert serve.process.wait(40) == 0
        assert not [child for child in everybody if child.is_running()]
    assert "Fatal Python error" not in log_of(tmp_path)
    assert "Traceback" not in log_of(tmp_path)


def test_nobody_outlives_a_supervisor_that_was_killed_and_the_next_one_serves(tmp_path: Path) -> None:
    policy = write_policy(tmp_path)
    with served(tmp_path, "--config", str(policy)) as serve:
        wait(lambda: bool(named(serve, "router.ingest")), "the ingest process starts")
        everybody = children(serve)
        keys = serve.keys
        os.kill(serve.process.pid, signal.SIGKILL)
        serve.process.wait(10)
        wait(lambda: not [child for child in everybody if child.is_running() and child.status() != psutil.STATUS_ZOMBIE], "every process ends by itself")
    with served(tmp_path, "--config", str(policy), models=False) as serve:
        assert serve.keys == {}
        serve.output.append(f"to chat (shown this once): {keys['chat']}\n")
        assert chat(serve) == "Hello."


@pytest.mark.long
def test_a_policy_edited_while_the_database_is_busy_is_imported_later(tmp_path: Path) -> None:
    policy = write_policy(tmp_path)
    with served(tmp_path, "--config", str(policy)) as serve:
        holder = sqlite3.connect(tmp_path / "headgate.db", isolation_level=None, timeout=30)
        holder.execute("BEGIN IMMEDIATE")
        policy.write_text(POLICY.replace("Hello.", "Changed."))
        wait(lambda: "policy_file_not_imported" in log_of(tmp_path), "the import waits its time out", 60)
        holder.execute("ROLLBACK")
        holder.close()
        wait(lambda: chat(serve) == "Changed.", "the policy is imported once the database is free", 60)
        assert serve.process.poll() is None


def test_a_second_server_on_the_same_home_is_refused(tmp_path: Path) -> None:
    policy = write_policy(tmp_path)
    with served(tmp_path, "--config", str(policy), models=False):
        second = headgate(tmp_path, "serve", "--config", str(policy), "--port", "0")
        assert second.returncode == 1
        assert "another headgate serves" in second.stderr
