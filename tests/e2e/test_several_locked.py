"""Over random failures: what is locked never leaves, whatever part of a cascade or an ensemble goes wrong; and every stream is one attempt's answer."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.dialects import FINISHED, PATHS, Seen, ask
from tests.e2e.money_books import check_rows, check_sums, settled_books
from tests.fakes.provider import Close, Cut, Exchange, FakeProvider, Gap, Hang, Reply
from tests.fakes.wire import Answer, answering, failing, openai_steps
from tests.serving import serving

INSIDE, OUTSIDE = ("in-a", "in-b", "in-c"), ("out-a", "out-b")
HEDGE = "I am not sure about any of this."


def policy(url: str, tokens: str) -> str:
    keys = "price: {input: 1, output: 2}, max_output_tokens: 80, breaker: null, timeout_s: 0.3, retry: {attempts: 2, first_s: 0.01}"
    backends = "\n".join(
        f'  {name}: {{kind: openai, model: {name}, base_url: "{url}/{name}/v1", clearance: restricted, hedge: {{after_s: 0.05, backend: {hedge}}}, {keys}}}'
        for name, hedge in zip((*INSIDE, *OUTSIDE), ("out-a", "in-c", "in-b", "in-a", "in-b"), strict=True)
    )
    return f"""
version: 1
settings: {{commit_after_s: 30}}
backends:
{backends}
rules:
  - {{name: best, when: {{model: best}}, use: {{best_of: [in-a, out-a, in-b], judge: out-b}}}}
  - {{name: best-inside, when: {{model: best-inside}}, use: {{best_of: [out-a, in-a, in-b], judge: in-c}}}}
  - {{name: home, when: {{data_class: restricted}}, use: [in-a, in-b, in-c], lock: true}}
default: [in-a, out-a]
fallback: [out-b, in-b]
cascade: {{on: [in-a, out-b], to: [out-a, in-b], verify: [refusal, hedging, length, agreement], stream: {tokens}}}
moderation: {{output: [pii], on_match: redact}}
"""


class Upstream:
    """Says something of its own for each call, and fails at random. Remembers what it said, and who was asked for what."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.said: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []

    def __call__(self, exchange: Exchange) -> Reply:
        name = exchange.path.split("/")[1]
        request = re.search(r"request (\d+)", exchange.body.decode())
        assert request is not None
        self.asked.append((request[1], name))
        chance = self.chance
        words = [f"{name}{chance.randrange(10**6)}" for _ in range(chance.randint(1, 12))]
        text = " ".join(words) + chance.choice(("", " write to jane.doe@example.com now", "")) + chance.choice((".", f". {HEDGE}"))
        self.said.setdefault(request[1], []).append(text)
        pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
        steps = openai_steps(Answer(texts=pieces))
        at = chance.randrange(len(steps))
        match chance.randrange(12):
            case 0:
                return failing("openai", 503, "overloaded")
            case 1:
                return failing("openai", 400, "bad_request") if chance.random() < 0.2 else failing("openai", 429, "slow_down")
            case 2:
                return Reply([*steps[:at], Cut()])
            case 3:
                return Reply([*steps[:at], Close()], framing="close")
            case 4:
                return Reply([*steps[:at], Hang()])
            case 5:
                return Reply([*steps[:at], Gap(0.08), *steps[at:]])
            case 6 if "answer " in exchange.body.decode():
                labels = re.findall(r"one of ([0-9A-F]{8})", exchange.body.decode())
                return answering("openai", Answer(texts=labels[:1] or ["none"]))
            case _:
                return answering("openai", Answer(texts=pieces))


def moderated(text: str) -> str:
    return text.replace("jane.doe@example.com", "[EMAIL]")


@pytest.mark.parametrize(("seed", "tokens"), [(1, "whole"), (2, "{first_tokens: 6}"), (3, "{first_tokens: 15}")])
async def test_what_is_locked_never_leaves_and_a_stream_is_always_one_attempts_text(tmp_path: Path, seed: int, tokens: str) -> None:
    upstream, chance = Upstream(seed), random.Random(seed)
    finished: list[Seen] = []
    async with FakeProvider(upstream) as provider, serving(policy(provider.url, tokens), tmp_path) as service:
        gate = asyncio.Semaphore(8)

        async def one(number: int) -> None:
            locked, stream, dialect = number % 2 == 0, chance.random() < 0.7, chance.choice(tuple(PATHS))
            fields: dict[str, Any] = {"headgate": {"data_class": "restricted"}} if locked else {}
            model = chance.choice(("auto", "best", "best-inside", "auto"))
            async with gate:
                asking = asyncio.create_task(ask(service.url, service.key, dialect, f"This is request {number}.", stream=stream, model=model, **fields))
                if chance.random() < 0.2:
                    await asyncio.wait([asking], timeout=chance.uniform(0, 0.2))
                    asking.cancel()
                await asyncio.wait([asking])
            if asking.cancelled():
                return
            seen = asking.result()
            texts = [moderated(text) for text in upstream.said.get(str(number), [])]
            if seen.status == 200 and (not stream or seen.terminals == FINISHED[dialect]):
                finished.append(seen)
                assert seen.text in texts, (number, seen, texts)
            else:
                assert any(text.startswith(seen.text) for text in (*texts, "")), (number, seen, texts)

        await asyncio.gather(*map(one, range(150)))
        found = await settled_books(service.database, 60)
    check_sums(found, "acme", {})
    check_rows(found.ledger, killed=False)
    assert {name for number, name in upstream.asked if int(number) % 2 == 0} == set(INSIDE)
    assert {name for number, name in upstream.asked if int(number) % 2} >= set(OUTSIDE), "the others do go out"
    assert len(finished) > 60
    assert {row["purpose"] for row in found.ledger} >= {"answer", "sample", "escalated", "judge", "candidate_2", "candidate_3"}
