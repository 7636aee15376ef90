"""The three dialects as a careful client reads them from the raw bytes: nothing is forgiven."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass
class Seen:
    """What a client saw: of a stream its text, its error events' codes and its terminal frames, in their order."""

    status: int
    headers: dict[str, str]
    text: str = ""
    codes: list[str] = field(default_factory=list)
    terminals: list[str] = field(default_factory=list)
    body: Any = None


PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
FINISHED = {"chat": ["finish", "done"], "responses": ["response.completed"], "messages": ["message_stop"]}
"""The terminal frames of a stream that ended well."""
BROKEN = {"chat": ["error", "done"], "responses": ["response.failed"], "messages": ["error"]}
"""The terminal frames of a stream that broke off after it had begun."""


def body(dialect: str, prompt: str, *, stream: bool, model: str = "auto", **fields: Any) -> dict[str, Any]:
    match dialect:
        case "chat":
            said: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        case "responses":
            said = {"input": prompt, "store": False}
        case _:
            said = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 50}
    return {"model": model, "stream": stream, **said, **fields}


async def ask(url: str, key: str, dialect: str, prompt: str = "Count.", *, stream: bool, model: str = "auto", **fields: Any) -> Seen:
    """One request, read to its end."""
    bearer = {"authorization": f"Bearer {key}"}
    payload = body(dialect, prompt, stream=stream, model=model, **fields)
    async with aiohttp.ClientSession(headers=bearer) as session, session.post(url + PATHS[dialect], json=payload) as response:
        content = await response.text()
        seen = Seen(response.status, {name.lower(): value for name, value in response.headers.items()})
    if seen.headers["content-type"].startswith("application/json"):
        _read_whole(dialect, seen, json.loads(content))
    else:
        _read_stream(dialect, seen, content)
    return seen


def _read_whole(dialect: str, seen: Seen, answer: Any) -> None:
    seen.body = answer
    if answer.get("error"):
        seen.codes.append(answer["error"].get("code") or answer["error"]["type"])
        return
    match dialect:
        case "chat":
            seen.text = answer["choices"][0]["message"]["content"]
        case "responses":
            seen.text = "".join(part["text"] for item in answer["output"] if item["type"] == "message" for part in item["content"])
        case _:
            seen.text = "".join(block["text"] for block in answer["content"] if block["type"] == "text")


def _read_stream(dialect: str, seen: Seen, content: str) -> None:
    for frame in content.split("\n\n"):
        lines = [line for line in frame.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        name = lines.pop(0).removeprefix("event: ") if lines[0].startswith("event: ") else ""
        assert len(lines) == 1, frame
        assert lines[0].startswith("data: "), frame
        data = lines[0].removeprefix("data: ")
        if data == "[DONE]":
            seen.terminals.append("done")
            continue
        said = json.loads(data)
        assert dialect == "chat" or said["type"] == name, frame
        _READERS[dialect](seen, said)


def _read_chat(seen: Seen, said: Any) -> None:
    if "error" in said:
        seen.codes.append(said["error"]["code"])
        seen.terminals.append("error")
        return
    for choice in said["choices"]:
        seen.text += choice["delta"].get("content") or ""
        if choice["finish_reason"]:
            seen.terminals.append("finish")


def _read_responses(seen: Seen, said: Any) -> None:
    match said["type"]:
        case "response.output_text.delta":
            seen.text += said["delta"]
        case "response.failed":
            seen.codes.append(said["response"]["error"]["headgate_code"])
            seen.terminals.append(said["type"])
        case "error":  # before the response began
            seen.codes.append(said["code"])
            seen.terminals.append("error")
        case "response.completed" | "response.incomplete":
            seen.terminals.append(said["type"])


def _read_messages(seen: Seen, said: Any) -> None:
    match said["type"]:
        case "content_block_delta":
            seen.text += said["delta"].get("text", "")
        case "error":
            seen.codes.append(said["error"].get("code") or said["error"]["type"])
            seen.terminals.append("error")
        case "message_stop":
            seen.terminals.append("message_stop")


_READERS = {"chat": _read_chat, "responses": _read_responses, "messages": _read_messages}
