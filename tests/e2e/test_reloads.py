"""The policy changes under load, by its file and over the API, and no request notices: each is answered by exactly one version. A bad file changes nothing.

`HEADGATE_TEST_LONG=1` (`make test-long`) runs the full form: 100 reloads under 200 requests a second.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.conftest import LONG
from tests.serving import Serve, headgate_json, served

RELOADS, RATE, WORKERS = (100, 200.0, 3) if LONG else (6, 40.0, 2)

POLICY = """
version: 1
backends:
  one: {{kind: scripted, text: "Said by version mark-{mark}.", chunk: 5, delay_s: 0.004}}
  two: {{kind: scripted, text: "Said by version mark-{mark}.", chunk: 5}}
rules:
  - {{name: mark-{mark}, use: {{weighted: {{one: 1, two: 1}}}}}}
fallback: []
cases:
  - {{given: {{}}, expect: {{rule: mark-{mark}}}}}
"""
MARK = re.compile(r"mark-(\d+)")


def policy(mark: int) -> str:
    return POLICY.format(mark=mark)


MOST_AT_ONCE = 400
"""Requests that are under way: a machine that cannot keep up with the rate is not drowned, and `Seen.rate` says what it was."""


class Seen:
    """What clients were told: of every answer its version, and the marks of that version's policy that it carried."""

    def __init__(self) -> None:
        self.rate = 0.0
        self.marks: dict[int, set[int]] = {}
        self.failed: list[str] = []
        self.count = 0

    def note(self, version: int, *texts: str) -> None:
        self.count += 1
        self.marks.setdefault(version, set()).update(int(found) for text in texts for found in MARK.findall(text))


async def one(session: aiohttp.ClientSession, url: str, key: str, stream: bool, seen: Seen) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}) as answer:
            text = await answer.text()
            if answer.status != 200 or (stream and not text.endswith("data: [DONE]\n\n")):
                seen.failed.append(f"{answer.status} {text[:300]}")
                return
            version = int(answer.headers["x-headgate-policy"])
            frames = [msgspec.json.decode(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")] if stream else [msgspec.json.decode(text)]
            about = next(frame["headgate"] for frame in frames if frame.get("headgate"))
            said = "".join((choice.get("delta", choice.get("message")) or {}).get("content") or "" for frame in frames for choice in frame["choices"])
            if about["policy_version"] != version:
                seen.failed.append(f"the header says version {version}, the body {about['policy_version']}")
            seen.note(version, said, about["rule"], answer.headers["x-headgate-rule"])
    except aiohttp.ClientError as error:
        seen.failed.append(repr(error))


@asynccontextmanager
async def load(url: str, key: str, seen: Seen) -> AsyncIterator[None]:
    """Requests begin at their own rate, every other one streamed, whether or not those before have ended; all have when this is left."""
    stopping = asyncio.Event()

    async def run() -> None:
        room = asyncio.Semaphore(MOST_AT_ONCE)
        connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=patience) as session, asyncio.TaskGroup() as requests:
            began, number = time.perf_counter(), 0
            while not stopping.is_set():
                await room.acquire()
                number += 1
                task = requests.create_task(one(session, url, key, number % 2 == 0, seen))
                task.add_done_callback(lambda _: room.release())
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            seen.rate = number / (time.perf_counter() - began)

    running = asyncio.create_task(run())
    try:
        yield
    finally:
        stopping.set()
        await running


class Admin:
    def __init__(self, serve: Serve, session: aiohttp.ClientSession, file: Path) -> None:
        self._session = session
        self._url = f"{serve.url}/admin/policy"
        self._headers = {"authorization": f"Bearer {serve.keys['admin']}"}
        self._file = file

    async def get(self, path: str = "") -> Any:
        async with self._session.get(self._url + path, headers=self._headers) as answer:
            assert answer.status == 200
            return await (answer.json() if "json" in answer.content_type else answer.text())

    async def put(self, text: str) -> None:
        async with self._session.put(self._url, data=text, headers={**self._headers, "if-match": "*", "x-headgate-comment": "under load"}) as answer:
            assert answer.status == 200, await answer.text()

    def write(self, text: str, whole: bool) -> None:
        """As editors do it: another file in its place, or the same file from the start."""
        if whole:
            other = self._file.with_suffix(".new")
            other.write_text(text)
            os.replace(other, self._file)
        else:
            self._file.write_text(text)

    async def until(self, condition: Any) -> Any:
        async with asyncio.timeout(30):
            while True:
                status = await self.get("/status")
                if condition(status):
                    return status
                await asyncio.sleep(0.05)


@pytest.mark.timeout(600 if LONG else 240)
async def test_the_policy_is_reloaded_under_load_and_every_request_is_on_exactly_one_version(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(policy(0))
    seen = Seen()
    kinds: Counter[str] = Counter()
    with served(tmp_path, "--config", str(file), "--workers", str(WORKERS), models=False) as serve:
        async with aiohttp.ClientSession() as session, load(serve.url, serve.keys["chat"], seen):
            admin = Admin(serve, session, file)
            version = 1
            for mark in range(1, RELOADS + 1):
                if mark % 2:
                    await admin.put(policy(mark))
                    kinds["put"] += 1
                else:
                    admin.write(policy(mark), whole=mark % 4 == 0)
                    kinds["file"] += 1
                status = await admin.until(lambda status, version=version: status["version"] > version)
                version = status["version"]
                if mark % 5 == 0:
                    await a_bad_file_changes_nothing(admin, policy(mark), version)
                    kinds["bad"] += 1
        versions = {each["version"] for each in headgate_json(tmp_path, "policy", "versions", "--config", str(file))}
        texts = {number: headgate_json(tmp_path, "policy", "show", str(number), "--config", str(file))["text"] for number in sorted(seen.marks)[-12:]}
    print(f"{RELOADS} reloads ({dict(kinds)}) under {seen.rate:.0f} requests/s: {seen.count} answers of {len(seen.marks)} versions")  # noqa: T201
    assert seen.failed == []
    assert len(versions) == RELOADS + 1, kinds
    assert all(len(marks) == 1 for marks in seen.marks.values()), "an answer mixed two versions"
    assert {number: {int(MARK.findall(text)[0])} for number, text in texts.items()} == {number: seen.marks[number] for number in texts}
    assert len(seen.marks) > RELOADS / 2, "few versions were served while the next came"


async def a_bad_file_changes_nothing(admin: Admin, good: str, version: int) -> None:
    """It is said where it is wrong, the version stays, and the good text again is no news."""
    before = await admin.get()
    admin.write(good.replace("fallback: []", "fallback: [nobody]"), whole=True)
    status = await admin.until(lambda status: not status["file"]["valid"])
    line = good.splitlines().index("fallback: []") + 1
    assert [(each["line"], each["path"]) for each in status["file"]["problems"]] == [(line, "fallback[0]")]
    assert "nobody" in status["file"]["problems"][0]["message"]
    assert (status["version"], await admin.get()) == (version, before)
    last = re.sub(r"mark-\d+", f"mark-{int(MARK.findall(good)[0]) // 2 * 2}", good)  # what the file held before: an odd mark came over the API
    admin.write(last, whole=True)
    status = await admin.until(lambda status: status["file"]["valid"])
    assert (status["version"], await admin.get()) == (version, before)
