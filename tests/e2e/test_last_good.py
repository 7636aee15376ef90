"""A start whose policy file may not be put in force goes on with the last good version and says so; without one it is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.e2e.test_supervisor import POLICY, chat, log_of, named, wait, write_policy
from tests.serving import ROOT, Serve, environment, headgate, headgate_json, served

BROKEN = {
    "unknown backend": (POLICY.replace("default: mini", "default: nobody"), ":5:10: default:"),
    "no yaml": (POLICY + "rules: [\n", ":8:1: not valid YAML"),
    "failing case": (POLICY + "cases:\n  - {given: {}, expect: {backend: extractive}}\n", ":8:5: cases[0]: the case 'case 1' does not hold"),
}


def status(serve: Serve, key: str) -> dict[str, object]:
    found: dict[str, object] = httpx2.get(f"{serve.url}/admin/policy/status", headers={"authorization": f"Bearer {key}"}).json()
    return found


def once_more(serve: Serve, keys: dict[str, str]) -> None:
    serve.output.append(f"to chat (shown this once): {keys['chat']}\n")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_start_with_a_bad_file_serves_the_last_good_version_and_says_where_the_file_is_wrong(tmp_path: Path, kind: str) -> None:
    text, where = BROKEN[kind]
    file = write_policy(tmp_path)
    with served(tmp_path, "--config", str(file), models=False) as serve:
        keys = serve.keys
        assert chat(serve) == "Hello."
    file.write_text(text)
    strict = subprocess.run(
        [sys.executable, "-m", "router.cli", "serve", "--port", "0", "--config", str(file), "--strict"],
        env=environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert strict.returncode == 2
    assert f"{file}{where}" in strict.stderr
    with served(tmp_path, "--config", str(file), models=False) as serve:
        said = "".join(serve.output)
        assert "THE POLICY FILE IS NOT IN FORCE" in said
        assert f"{file}{where}" in said
        once_more(serve, keys)
        assert chat(serve) == "Hello."
        shown = status(serve, keys["admin"])
        assert (shown["version"], shown["file"]["valid"]) == (1, False)  # type: ignore[index]
        if kind == "unknown backend":
            found = headgate(tmp_path, "doctor", "--config", str(file))
            assert found.returncode == 1
            assert f"{where[1:4]}" in found.stdout
            assert "the server keeps version 1, the last good one" in found.stdout
        file.write_text(POLICY.replace("Hello.", "Mended."))
        wait(lambda: chat(serve) == "Mended.", "a file that is mended is imported")
        assert status(serve, keys["admin"])["file"]["valid"] is True  # type: ignore[index]


def test_the_first_start_with_a_bad_file_is_refused(tmp_path: Path) -> None:
    for number, (text, where) in enumerate(BROKEN.values()):
        file = write_policy(tmp_path / str(number), text)
        done = headgate(tmp_path / str(number), "serve", "--config", str(file), "--port", "0")
        assert done.returncode == 2, done.stderr
        assert f"{file}{where}" in done.stderr


def test_a_worker_that_starts_again_while_the_file_is_bad_serves_as_before(tmp_path: Path) -> None:
    file = write_policy(tmp_path)
    with served(tmp_path, "--config", str(file), models=False) as serve:
        file.write_text("settings: [\n")
        wait(lambda: "policy_file_refused" in log_of(tmp_path), "the bad file is seen")
        [worker] = named(serve, "router.worker")
        os.kill(worker.pid, signal.SIGKILL)
        wait(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "it is gone")
        wait(lambda: answers(serve), "another one serves")
        assert chat(serve) == "Hello."
        entries = headgate_json(tmp_path, "audit", "list", "--action", "policy.import", "--config", str(write_policy(tmp_path / "other")))["data"]
        assert [(entry["actor"], entry["outcome"]) for entry in entries] == [("file", "refused"), ("file", "ok")]
        assert entries[0]["details"]["line"] == 2


def answers(serve: Serve) -> bool:
    try:
        return httpx2.get(f"{serve.url}/health/live").status_code == 200
    except httpx2.HTTPError:
        return False
