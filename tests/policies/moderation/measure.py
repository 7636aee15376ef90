"""Prints what moderation costs and holds: `python tests/policies/moderation/measure.py` from the repository root, with the shared data in place."""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from policies.moderation import Moderator, RuleSet, compile_rules  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
TOKEN = 4  # characters


def texts(name: str, field: str, count: int) -> list[str]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line)[field] for line in lines][:count]


def cost(rules: RuleSet, samples: list[str]) -> float:
    """CPU microseconds per streamed token."""
    tokens = 0
    began = time.process_time()
    for sample in samples:
        moderator = Moderator(rules)
        for at in range(0, len(sample), TOKEN):
            moderator.feed(sample[at : at + TOKEN])
            tokens += 1
        moderator.finish()
    return (time.process_time() - began) / tokens * 1e6


def holds(rules: RuleSet, samples: list[str]) -> tuple[float, int, int]:
    """Characters held after each character: mean, 99th percentile, most."""
    held = []
    for sample in samples:
        moderator = Moderator(rules)
        for char in sample:
            moderator.feed(char)
            held.append(moderator.held)
    held.sort()
    return sum(held) / len(held), held[len(held) * 99 // 100], held[-1]


def main() -> None:
    if not DATA.exists():
        sys.exit(f"{DATA} is absent: the figures are measured on the shared data")
    prose, personal = texts("routing/mmlu.jsonl.gz", "prompt", 1000), texts("moderation/pii.jsonl.gz", "text", 865)
    chance = random.Random(0)
    terms = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(4, 12))) for _ in range(10_000)]
    everything = ["pii", "secrets", "deny-list"]
    for name, enabled in {"all + 10,000 terms": everything, "pii + secrets": everything[:2], "pii": ["pii"], "secrets": ["secrets"], "none": []}.items():
        began = time.perf_counter()
        rules = compile_rules(enabled, terms)
        compiled = (time.perf_counter() - began) * 1e3
        cold = cost(rules, prose)
        lines = [f"{label}: {cost(rules, samples):.1f} µs/token, held {holds(rules, samples)}" for label, samples in (("prose", prose), ("pii", personal))]
        sys.stdout.write(f"{name}: compiled in {compiled:.0f} ms, first 1000 texts {cold:.1f} µs/token; {'; '.join(lines)}\n")


if __name__ == "__main__":
    main()
