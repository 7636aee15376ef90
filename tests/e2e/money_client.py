"""Clients that leave when they like: chat requests over a bare socket, whole or streamed, closed or reset at a chosen moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

Cut = Literal["none", "before", "middle", "end"]
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
    after `patience` seconds. `reset` leaves with a reset instead of an orderly end.
    """

    stream: bool
    deltas: int
    directives: str
    cut: Cut = "none"
    patience: float = 0.0
    cut_after: int = 0
    reset: bool = False
    faulty: bool = False


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


def random_plan(chance: random.Random) -> Plan:
    """A request as a crowd sends them."""
    deltas = chance.randint(3, 45)
    faulty = chance.random() < 0.3
    words = [f"deltas={deltas}", f"chunk={CHUNK}", f"delay={chance.choice((0, 0, 0.001, 0.004))}"]
    if chance.random() < 0.3:
        words.append(f"first_delay={chance.uniform(0.005, 0.05):.3f}")
    if faulty:
        words.append(chance.choice(FAULTS))
    elif chance.random() < 0.2:
        words.append(f"input={chance.randint(5, 40)} output={chance.randint(1, deltas)}")
    return Plan(
        stream=chance.random() < 0.6,
        deltas=deltas,
        directives=" ".join(words),
        cut=chance.choices(("none", "before", "middle", "end"), (50, 15, 20, 15))[0],  # type: ignore[arg-type]
        patience=chance.uniform(0, 0.06),
        cut_after=chance.randint(1, deltas),
        reset=chance.random() < 0.5,
        faulty=faulty,
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
    body: dict[str, Any] = {
        "model": "auto",
        "messages": [{"role": "user", "content": f"[[scripted {plan.directives}]]"}],
        "stream": plan.stream,
    }
    payload = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\ncontent-length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


async def _read_head(reader: asyncio.StreamReader, asked: Asked) -> int:
    """The length of the body, 0 where it comes in chunks."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    asked.status = int(lines[0].split(" ")[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    asked.request_id = headers["x-request-id"].split(",")[0]
    return int(headers.get("content-length", 0))


async def _read_whole(reader: asyncio.StreamReader, asked: Asked) -> None:
    try:
        async with asyncio.timeout(asked.plan.patience if asked.plan.cut != "none" else None):
            body = await reader.readexactly(await _read_head(reader, asked))
    except TimeoutError:
        asked.ended = "left"
        return
    _understand(json.loads(body), asked)


def _understand(answer: dict[str, Any], asked: Asked) -> None:
    if "error" in answer:
        asked.ended, asked.code = "error", answer["error"]["code"]
    else:
        asked.ended, asked.text = "answered", answer["choices"][0]["message"]["content"]


async def _read_stream(reader: asyncio.StreamReader, asked: Asked) -> None:
    length = await _read_head(reader, asked)
    if length:
        _understand(json.loads(await reader.readexactly(length)), asked)
        return
    plan, seen = asked.plan, 0
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]\n":
            asked.terminals.append("done")
            asked.ended = "error" if "error" in asked.terminals else "answered"
            return
        seen += _chunk(json.loads(line[6:]), asked)
        if (plan.cut == "middle" and seen >= plan.cut_after) or (plan.cut == "end" and len(asked.text) >= plan.deltas * CHUNK):
            asked.ended = "left"
            return


def _chunk(chunk: dict[str, Any], asked: Asked) -> int:
    """How many deltas of text it brought."""
    if "error" in chunk:
        asked.terminals.append("error")
        asked.code = chunk["error"]["code"]
        return 0
    choice = chunk["choices"][0]
    if choice["finish_reason"]:
        asked.terminals.append("finish")
    text = choice["delta"].get("content") or ""
    asked.text += text
    return 1 if text else 0
