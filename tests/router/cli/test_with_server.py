"""The commands beside a running server: they work on the same home folder, and the server follows."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.router.cli.test_commands import POLICY as WITH_A_CASE_THAT_FAILS
from tests.serving import Serve, environment, headgate, headgate_json, served

POLICY = WITH_A_CASE_THAT_FAILS.replace("  - {name: chats go to large, given: {}, expect: {backend: large}}\n", "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    home = tmp_path_factory.mktemp("server")
    (home / "headgate.yaml").write_text(POLICY)
    with served(home, models=False) as running:
        yield running


def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def status_of(server: Serve, key: str) -> int:
    try:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def test_a_key_made_here_chats_at_once_and_a_revoked_one_no_more(server: Serve) -> None:
    assert headgate_json(server.home, "tenants", "create", "acme") == {"name": "acme"}
    made = headgate_json(server.home, "keys", "create", "--tenant", "acme", "--role", "member")
    assert status_of(server, made["key"]) == 200
    (line,) = headgate_json(server.home, "usage", "--tenant", "acme")["data"]
    assert line["backend"] == "mini"
    headgate_json(server.home, "keys", "revoke", made["id"])
    eventually(lambda: status_of(server, made["key"]) == 401, seconds=2)


def test_a_changed_file_is_followed_and_a_rollback_too(server: Serve) -> None:
    key = server.keys["chat"]

    def backend() -> str:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])
        name: str = (answer.model_extra or {})["headgate"]["backend"]
        return name

    assert backend() == "mini"
    (server.home / "headgate.yaml").write_text(POLICY.replace("default: mini", "default: large"))
    eventually(lambda: backend() == "large")
    versions = headgate_json(server.home, "policy", "versions")
    assert [(row["version"], row["active"]) for row in versions] == [(2, True), (1, False)]
    assert headgate(server.home, "policy", "rollback", "1").stdout == "policy version 1 is active\n"
    eventually(lambda: backend() == "mini")


def test_doctor_sees_the_server_and_a_second_one_is_refused(server: Serve) -> None:
    found = {finding["subject"]: finding["message"] for finding in headgate_json(server.home, "doctor")}
    assert "a server runs on it" in found["home"]
    second = headgate(server.home, "serve", "--port", "0")
    assert second.returncode == 1
    assert "give this one its own HEADGATE_HOME" in second.stderr


def test_a_start_on_a_home_that_others_may_look_into_says_so(server: Serve) -> None:
    server.home.chmod(0o700)
    assert "home_open_to_others" not in headgate(server.home, "serve", "--port", "0").stderr
    server.home.chmod(0o755)
    try:
        assert '"event":"home_open_to_others"' in headgate(server.home, "serve", "--port", "0").stderr
    finally:
        server.home.chmod(0o700)


def test_a_taken_port_is_named(server: Serve, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    done = headgate(tmp_path, "serve", "--port", port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another address" in done.stderr


def test_a_reader_that_leaves_ends_an_export_quietly(server: Serve) -> None:
    command = f"'{sys.executable}' -m router.cli policy schema | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=environment(server.home), cwd=server.home, capture_output=True, text=True, timeout=60)
    assert done.stdout == "{\n"
    assert done.stderr == ""
