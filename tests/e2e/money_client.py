"""Clients that leave when they like: requests of three dialects over a bare socket, whole or streamed, closed or reset at a chosen moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

Cut = Literal["none", "before", "middle", "end"]
Dialect = Literal["chat", "responses", "messages"]
PATHS: dict[Dialect, str] = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object"}}}
CHUNK = 4
"""Characters of one scripted delta."""

FAULTS = (
    "fault=provider_error@start",
    "fault=backend_rate_limited@start",
    "fault=backend_overloaded@first",
    "fault=stream_broken@3",
    "fault=provider_error@7",
    "fault=backend_timeout@2",
    "hang=4",
    "no_usage",
)


@dataclass
class Plan:
    """One request: what the scripted upstream is told, and when the client leaves.

    `before` is before it read anything, `middle` after some deltas, `end` after the last delta and before `[DONE]`. A whole answer is left
    after `patience` seconds. `reset` leaves with a reset instead of an orderly end. With a `key` the request is sent with it as its
    `Idempotency-Key`, and after it once more. `repairs` asks for JSON, which the upstream never answers with.
    """

    stream: bool
    deltas: int
    directives: str
    cut: Cut = "none"
    patience: float = 0.0
    cut_after: int = 0
    reset: bool = False
    faulty: bool = False
    dialect: Dialect = "chat"
    key: str | None = None
    repairs: bool = False
    model: str = "auto"


@dataclass
class Asked:
    """One request as its client saw it. `ended` says how: `answered`, `error` (a status, or an error event), `left`, or `lost`."""

    plan: Plan
    status: int | None = None
    request_id: str | None = None
    code: str | None = None
    text: str = ""
    ended: Literal["answered", "error", "left", "lost"] = "lost"
    terminals: list[str] = field(default_factory=list)
    """The terminal events of a stream in their order: `finish`, `error`, `done`."""
    replayed: bool = False
    waited: bool = False
    """Whether its stream was opened by a heartbeat, before anybody knew how it ends."""


def random_plan(chance: random.Random, models: tuple[str, ...] = ("auto",)) -> Plan:
    """A request as a crowd sends them, for one of the models."""
    deltas = chance.randint(3, 45)
    faulty = chance.random() < 0.3
    words = [f"deltas={deltas}", f"chunk={CHUNK}", f"delay={chance.choice((0, 0, 0.001, 0.004))}"]
    if chance.random() < 0.3:
        words.append(f"first_delay={chance.uniform(0.005, 0.05):.3f}")
    if faulty:
        words.append(chance.choice(FAULTS))
    elif chance.random() < 0.2:
        words.append(f"input={chance.randint(5, 40)} output={chance.randint(1, deltas)}")
    if chance.random() < 0.3:
        words.append(f"logprob={chance.choice((-0.1, -3))}")
    repairs = not faulty and chance.random() < 0.05
    return Plan(
        dialect="chat" if repairs else chance.choice(tuple(PATHS)),
        key=f"{chance.getrandbits(64):x}" if chance.random() < 0.25 else None,
        repairs=repairs,
        stream=chance.random() < 0.6,
        deltas=deltas,
        directives=" ".join(words),
        cut=chance.choices(("none", "before", "middle", "end"), (50, 15, 20, 15))[0],  # type: ignore[arg-type]
        patience=chance.uniform(0, 0.06),
        cut_after=chance.randint(1, deltas),
        reset=chance.random() < 0.5,
        faulty=faulty,
        model=chance.choice(models),
    )


async def ask(url: str, key: str, plan: Plan) -> Asked:
    """Send the request and follow the plan. A connection that breaks is an observation, not an error."""
    asked = Asked(plan)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(30):
            place = urlsplit(url)
            reader, writer = await asyncio.open_connection(place.hostname, place.port)
            writer.write(_request(plan, key))
            await writer.drain()
            if plan.cut == "before":
                asked.ended = "left"
                await asyncio.sleep(plan.patience)
            elif plan.stream:
                await _read_stream(reader, asked)
            else:
                await _read_whole(reader, asked)
    except (OSError, asyncio.IncompleteReadError):
        asked.ended = "lost"
    finally:
        if writer is not None:
            if plan.reset and asked.ended == "left":
                writer.transport.abort()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return asked


def _request(plan: Plan, key: str) -> bytes:
    said = f"[[scripted {plan.directives}]]"
    body: dict[str, Any] = {"model": plan.model, "stream": plan.stream}
    if plan.dialect == "responses":
        body["input"] = said
    else:
        body["messages"] = [{"role": "user", "content": said}]
    if plan.dialect == "messages":
        body["max_tokens"] = 200
    if plan.repairs:
        body["response_format"] = FORMAT
    payload = json.dumps(body).encode()
    once = "" if plan.key is None else f"idempotency-key: {plan.key}\r\n"
    head = f"POST {PATHS[plan.dialect]} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n{once}content-length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


async def _read_head(reader: asyncio.StreamReader, asked: Asked) -> int:
    """The length of the body, 0 where it comes in chunks."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    asked.status = int(lines[0].split(" ")[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    asked.request_id = headers["x-request-id"].split(",")[0]
    asked.replayed = "idempotency-replayed" in headers
    return int(headers.get("content-length", 0)) if headers.get("transfer-encoding") != "chunked" else 0


async def _read_whole(reader: asyncio.StreamReader, asked: Asked) -> None:
    try:
        async with asyncio.timeout(asked.plan.patience if asked.plan.cut != "none" else None):
            body = await reader.readexactly(await _read_head(reader, asked))
    except TimeoutError:
        asked.ended = "left"
        return
    _understand(json.loads(body), asked)


def _understand(answer: dict[str, Any], asked: Asked) -> None:
    if answer.get("error"):
        asked.ended, asked.code = "error", answer["error"].get("code") or {402: "budget_exceeded"}.get(asked.status or 0)
        return
    asked.ended = "answered"
    match asked.plan.dialect:
        case "chat":
            asked.text = answer["choices"][0]["message"]["content"]
        case "responses":
            asked.text = "".join(part["text"] for item in answer["output"] for part in item["content"])
        case "messages":
            asked.text = "".join(part["text"] for part in answer["content"])


async def _read_stream(reader: asyncio.StreamReader, asked: Asked) -> None:
    length = await _read_head(reader, asked)
    if length:
        _understand(json.loads(await reader.readexactly(length)), asked)
        return
    plan, seen = asked.plan, 0
    read = {"chat": _chunk, "responses": _response_event, "messages": _message_event}[plan.dialect]
    while line := await reader.readline():
        if line.startswith(b": ") or b'"ping"' in line:
            asked.waited = asked.waited or not (asked.text or asked.terminals)
        if not line.startswith(b"data: "):
            continue
        text = "" if line == b"data: [DONE]\n" else read(json.loads(line[6:]), asked)
        asked.text += text
        seen += text != ""
        if line == b"data: [DONE]\n" or "done" in asked.terminals:
            asked.terminals = [*(each for each in asked.terminals if each != "done"), "done"]
            asked.ended = "error" if "error" in asked.terminals else "answered"
            return
        if (plan.cut == "middle" and seen >= plan.cut_after) or (plan.cut == "end" and len(asked.text) >= plan.deltas * CHUNK):
            asked.ended = "left"
            return


def _chunk(chunk: dict[str, Any], asked: Asked) -> str:
    """The text it brought; what ends the stream goes into `asked.terminals`."""
    if "error" in chunk:
        asked.terminals.append("error")
        asked.code = chunk["error"]["code"]
        return ""
    choice = chunk["choices"][0]
    if choice["finish_reason"]:
        asked.terminals.append("finish")
    return str(choice["delta"].get("content") or "")


def _response_event(event: dict[str, Any], asked: Asked) -> str:
    match event["type"]:
        case "response.completed" | "response.incomplete":
            asked.terminals += ["finish", "done"]
        case "response.failed":
            asked.terminals += ["error", "done"]
            asked.code = event["response"]["error"]["code"]
        case "error":
            asked.terminals += ["error", "done"]
            asked.code = event["code"]
    return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""


def _message_event(event: dict[str, Any], asked: Asked) -> str:
    match event["type"]:
        case "message_delta":
            asked.terminals.append("finish")
        case "message_stop":
            asked.terminals.append("done")
        case "error":
            asked.terminals += ["error", "done"]
            asked.code = event["error"]["code"]
    return str(event["delta"].get("text", "")) if event["type"] == "content_block_delta" else ""
