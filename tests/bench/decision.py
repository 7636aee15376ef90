"""How long a decision takes on one thread: features from the request's text, and 50 rules (`python -m tests.bench.decision`).

What is measured is the thread's own time, which other work on the machine does not add to. Every rule has several conditions and none of the first 45
holds, so all of them are looked at. The complexity is computed; no embedding is.
"""

from __future__ import annotations

import argparse
import random
import time

from adapters.backend import estimate_tokens
from adapters.types import Capabilities, GenerateRequest, Message, Passage, TextPart
from config.settings import Settings
from policies.access import Principal
from policies.decide import decide
from policies.decision import BackendState, State
from policies.features import extract
from policies.load import Policy, load_policy
from router.backends import load_kinds
from router.policy_in_force import known_price

AIM_MS = 1.0
RULES = 50
TEXT = """please explain how the contract between supplier and customer ends when nobody pays what was agreed and which notice period holds for it in writing
wie lange gilt die Frist wenn der Vertrag nicht gekündigt wird und wer trägt die Kosten calculate 12 + 7 def main return value = 3 table json"""
WORDS = TEXT.split()


def policy() -> Policy:
    lines = ["version: 1", "backends:"]
    lines += [f"  b{number}: {{kind: scripted, quality: 0.{number + 1}, price: {{input: 1, output: {number + 1}}}}}" for number in range(8)]
    lines.append("rules:")
    tasks, languages = ("code", "math", "qa", "extraction"), ("fr", "es", "pl", "ja")
    for number in range(RULES - 5):
        conditions = (
            f"any: [{{tenant: t{number}}}, {{all: [{{key: k{number}}}, {{needs: [tools, vision]}}]}}], task: {tasks[number % 4]}, min_input_tokens: {number}, "
            f"language: [{languages[number % 4]}], not: {{tags: x{number}}}, max_budget_left: 0.5, backend: {{name: b1, ready: true, max_queue: 9}}, "
            f'time: {{from: "08:00", to: "19:00", days: [mon, tue, wed, thu, fri], zone: Europe/Berlin}}'
        )
        lines.append(f"  - {{name: r{number}, when: {{{conditions}}}, use: {{cheapest: [b1, b2, b3], min_quality: 0.2}}}}")
    lines.append("  - {name: locked, when: {min_turns: 1, data_class: [public, internal]}, use: [b0, b1, b2, b3, b4, b5, b6, b7], lock: true}")
    lines.append("  - {name: quick, when: {min_turns: 3}, use: {fastest: [b4, b5, b6]}}")
    lines.append("  - {name: split, when: {grounded: true, min_top_score: 0.5}, use: {weighted: {b1: 3, b2: 1}, sticky: conversation}}")
    lines.append("  - {name: hard, when: {min_complexity: 0.6}, use: [b7]}")
    lines.append("  - {name: easy, when: {max_complexity: 0.3}, use: [b1]}")
    lines += [
        "complexity: {weak: b1, strong: b7, threshold: 0.5, explore: 0.05}",
        "default: b0",
        "fallback: {default: [b2, b3], timeout: [b4], rate_limit: [b5]}",
    ]
    load_kinds(Settings())
    return load_policy("\n".join(lines), price_of=known_price)


def requests(dice: random.Random, count: int) -> list[tuple[GenerateRequest, int]]:
    """Of 5 to 400 words, some with passages; and their counts."""
    found = []
    for _ in range(count):
        words = " ".join(dice.choices(WORDS, k=dice.choice((5, 20, 60, 150, 400))))
        passage = Passage(chunk_id="c", file_id="f", filename="f.txt", text=words, start=0, end=len(words), similarity=0.6)
        turns = tuple(Message("user", (TextPart(words),)) for _ in range(dice.randint(1, 5)))
        grounded = dice.random() < 0.3
        request = GenerateRequest(messages=turns, model="auto", grounded=grounded, context=(passage,) * 8 if grounded else ())
        found.append((request, estimate_tokens(request).n))
    return found


def state(policy: Policy, dice: random.Random) -> State:
    backends = {
        name: BackendState(
            capabilities=Capabilities(streaming=True, tools=True), cost_usd=dice.random(), latency_ms=1000 * dice.random(), upper_cost_usd=dice.random()
        )
        for name in policy.backends
    }
    return State(backends=backends, remaining_usd=100.0, seed=str(dice.random()), now=time.time(), budget_left=0.4)


def percentile(times: list[float], share: float) -> float:
    return 1000 * sorted(times)[min(len(times) - 1, int(share * len(times)))]


def measured(count: int) -> dict[str, list[float]]:
    """Seconds of each part, for each request."""
    dice = random.Random(1)
    in_force = policy()
    principal = Principal(role="member", tenant="acme", key_id="k")
    found: dict[str, list[float]] = {"features": [], "decision": [], "both": []}

    for request, tokens in requests(dice, count):
        now = state(in_force, dice)
        began = time.thread_time()
        features = extract(request, principal, input_tokens=tokens)
        halfway = time.thread_time()
        decision = decide(in_force, features, now)
        ended = time.thread_time()
        found["features"].append(halfway - began)
        found["decision"].append(ended - halfway)
        found["both"].append(ended - began)
        assert decision.outcome == "ok"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5_000)
    found = measured(parser.parse_args().requests)
    print(f"{len(found['both'])} requests, {RULES} rules, one thread; milliseconds")
    print(f"{'':10}{'p50':>8}{'p95':>8}{'p99':>8}")
    for name, times in found.items():
        print(f"{name:10}" + "".join(f"{percentile(times, share):8.3f}" for share in (0.5, 0.95, 0.99)))
    p95 = percentile(found["both"], 0.95)
    print(f"features and rules, p95: {p95:.3f} ms (aim: {AIM_MS:g} ms): {'held' if p95 <= AIM_MS else 'missed'}")


if __name__ == "__main__":
    main()
